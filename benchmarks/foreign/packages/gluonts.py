"""GluonTS: the estimators of `gluonts.torch`."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from gluonts import torch as estimators
from gluonts.dataset.pandas import PandasDataset

from benchmarks.foreign.data import series, trainer_arguments

DISTRIBUTION = "gluonts"


def fit(kind: str, hyper: dict[str, Any], callbacks: list[Any], folder: Path) -> None:
    given = trainer_arguments(pl, callbacks, folder)
    del given["enable_checkpointing"]  # it adds a ModelCheckpoint of its own
    frequency = {} if kind in ("SimpleFeedForward", "DLinear", "PatchTST") else {"freq": "D"}
    estimator = getattr(estimators, f"{kind}Estimator")(
        prediction_length=7, batch_size=32, num_batches_per_epoch=12, trainer_kwargs=given, **frequency, **hyper
    )
    frame = series()
    sets = [
        PandasDataset.from_long_dataframe(part, item_id="unique_id", timestamp="ds", target="y", freq="D")
        for part in (frame[frame["time"] < 140], frame)
    ]
    estimator.train(sets[0], validation_data=sets[1])


FITS = {
    "DeepAR": partial(fit, "DeepAR", {"hidden_size": 8, "context_length": 14}),
    "SimpleFeedForward": partial(fit, "SimpleFeedForward", {"hidden_dimensions": [20, 20]}),
    "TemporalFusionTransformer": partial(
        fit, "TemporalFusionTransformer", {"hidden_dim": 8, "num_heads": 2, "context_length": 14}
    ),
    "TiDE": partial(fit, "TiDE", {"context_length": 14}),
    "WaveNet": partial(fit, "WaveNet", {"num_residual_channels": 8, "num_skip_channels": 8}),
    "DLinear": partial(fit, "DLinear", {"context_length": 14}),
    "PatchTST": partial(fit, "PatchTST", {"patch_len": 7, "context_length": 14, "d_model": 8, "nhead": 2}),
    "LagTST": partial(fit, "LagTST", {"context_length": 14, "d_model": 8, "nhead": 2}),
}
