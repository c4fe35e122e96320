"""The ordinary trainings that faults are planted into; thresholds are tuned on `dev` and reported on `report`."""

from .settings import Settings

DEV = [
    Settings(
        "dev_mlp", "breast_cancer", "mlp", 2, (64, 64, 32), "cross_entropy", "sgd", 0.05, 32, 250, functional=True,
        weight_decay=1e-2,
    ),
    Settings("dev_waves", "waves", "cnn1d", 4, (16, 24, 24), "cross_entropy", "adam", 5e-3, 32, 300),
    Settings("dev_deep", "shapes", "cnn2d", 5, (8,) * 5 + (12,) * 3, "cross_entropy", "sgd", 0.01, 32, 150,
             norm="batch"),
    Settings("dev_regression", "friedman", "mlp", 0, (48, 48, 48), "mse", "adam", 3e-3, 32, 400),
]  # fmt: skip
REPORT = [
    Settings("small_cnn", "digits", "cnn2d", 10, (16, 32), "cross_entropy", "adam", 1e-3, 32, 300, functional=True),
    Settings("deep_cnn", "digits", "cnn2d", 10, (12,) * 5 + (16,) * 5, "cross_entropy", "adam", 2e-3, 32, 150,
             norm="batch"),
    Settings("regression_mlp", "concrete", "mlp", 0, (64, 64), "mse", "adam", 3e-3, 32, 500, functional=True),
]  # fmt: skip
SPLITS = {"dev": (DEV, range(5)), "report": (REPORT, range(100, 105))}
BASES = {base.base: base for base in DEV + REPORT}
