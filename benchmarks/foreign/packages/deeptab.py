"""deeptab: its estimators as scikit-learn users call them."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from deeptab import models

from benchmarks.foreign.data import table, trainer_arguments

DISTRIBUTION = "deeptab"


def fit(kind: str, classes: int, callbacks: list[Any], folder: Path) -> None:
    given = trainer_arguments(pl, callbacks, folder)
    passed = {name: given[name] for name in ("callbacks", "logger", "default_root_dir", "enable_progress_bar")}
    frame = table(classes, rows=320)
    features, target = frame.drop(columns="target"), frame["target"].to_numpy()
    model = getattr(models, kind)()
    family = {"family": "normal"} if kind.endswith("LSS") else {}
    model.fit(
        features[:256],
        target[:256],
        X_val=features[256:],
        y_val=target[256:],
        max_epochs=2 if kind.startswith(("ENODE", "Mambular", "NODE", "NDTF")) else 3,
        **family,
        **passed,
    )


REGRESSORS = (
    "MLP ResNet FTTransformer TabTransformer AutoInt SAINT NODE NDTF ENODE TabM TabR TabulaRNN MambaTab Mambular"
)
FITS = {f"{kind}Regressor": partial(fit, f"{kind}Regressor", 0) for kind in REGRESSORS.split()}
FITS["MLPClassifier"] = partial(fit, "MLPClassifier", 2)
FITS["ResNetClassifier"] = partial(fit, "ResNetClassifier", 3)
FITS["MLPLSS"] = partial(fit, "MLPLSS", 0)
