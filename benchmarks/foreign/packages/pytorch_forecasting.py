"""pytorch-forecasting: its models as its tutorials build them, from a `TimeSeriesDataSet`."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytorch_forecasting as forecasting
from pytorch_forecasting.data import NaNLabelEncoder

from benchmarks.foreign.data import series, trainer_arguments

DISTRIBUTION = "pytorch-forecasting"


def fit(kind: Any, hyper: dict[str, Any], data: dict[str, Any], callbacks: list[Any], folder: Path) -> None:
    frame = series()
    frame["weekday"] = frame["ds"].dt.weekday.astype(str)
    encoders = {"unique_id": NaNLabelEncoder().fit(frame["unique_id"])}
    common: dict[str, Any] = {"time_idx": "time", "target": "y", "group_ids": ["unique_id"], "max_prediction_length": 7}
    chosen = {"categorical_encoders": encoders, "time_varying_unknown_reals": ["y"], "max_encoder_length": 21} | data
    training = forecasting.TimeSeriesDataSet(frame[frame["time"] < 140], **common, **chosen)
    validation = forecasting.TimeSeriesDataSet.from_dataset(training, frame, min_prediction_idx=140)
    loaders = [each.to_dataloader(train=each is training, batch_size=64) for each in (training, validation)]
    model = kind.from_dataset(training, learning_rate=0.01, **hyper)
    pl.Trainer(**trainer_arguments(pl, callbacks, folder), gradient_clip_val=0.1).fit(model, *loaders)


KNOWN = {"time_varying_known_categoricals": ["weekday"], "time_varying_known_reals": ["time"]}
WITH_GROUPS = {"static_categoricals": ["unique_id"], **KNOWN}
FIXED = {"min_encoder_length": 21, "min_prediction_length": 7}
FITS = {
    "TemporalFusionTransformer": partial(
        fit,
        forecasting.TemporalFusionTransformer,
        {"hidden_size": 8, "attention_head_size": 2, "loss": forecasting.QuantileLoss(), "output_size": 7},
        {**WITH_GROUPS, "add_relative_time_idx": True, "add_target_scales": True},
    ),
    "NBeats": partial(fit, forecasting.NBeats, {"widths": [16, 32], "backcast_loss_ratio": 0.1}, FIXED),
    "NBeatsKAN": partial(fit, forecasting.NBeatsKAN, {"widths": [4, 4], "num_blocks": [1, 1]}, FIXED),
    "NHiTS": partial(fit, forecasting.NHiTS, {"hidden_size": 16}, FIXED | WITH_GROUPS),
    "DeepAR": partial(fit, forecasting.DeepAR, {"hidden_size": 8}, WITH_GROUPS),
    "DecoderMLP": partial(fit, forecasting.DecoderMLP, {"hidden_size": 16}, WITH_GROUPS),
    "RecurrentNetwork": partial(fit, forecasting.RecurrentNetwork, {"hidden_size": 8}, WITH_GROUPS),
    "RecurrentNetwork-GRU": partial(
        fit, forecasting.RecurrentNetwork, {"hidden_size": 8, "cell_type": "GRU", "rnn_layers": 1}, WITH_GROUPS
    ),
    "TiDE": partial(fit, forecasting.models.TiDEModel, {"hidden_size": 16}, FIXED | WITH_GROUPS),
    "TimeXer": partial(fit, forecasting.models.TimeXer, {"hidden_size": 16, "n_heads": 2, "patch_length": 7}, FIXED),
    "xLSTMTime": partial(
        fit, forecasting.models.xLSTMTime, {"hidden_size": 8, "input_size": 1, "output_size": 1}, FIXED
    ),
}
