"""neuralforecast: its models through `NeuralForecast.fit`."""

from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from neuralforecast import NeuralForecast, models
from neuralforecast.losses.pytorch import MQLoss

from benchmarks.foreign.data import series, trainer_arguments

DISTRIBUTION = "neuralforecast"


def fit(kind: str, hyper: dict[str, Any], callbacks: list[Any], folder: Path) -> None:
    given = trainer_arguments(pl, callbacks, folder)
    del given["max_epochs"]
    common = {"h": 7, "input_size": 21, "max_steps": 40, "val_check_steps": 10, "batch_size": 32}
    model = getattr(models, kind)(**common | {"windows_batch_size": 64} | hyper, **given)
    frame = series().drop(columns="time")
    NeuralForecast(models=[model], freq="D").fit(frame, val_size=14)


RECURRENT = {"encoder_hidden_size": 8, "decoder_hidden_size": 8}
SMALL = {"hidden_size": 16, "n_head": 2}
MANY = {"n_series": 4}
HYPER: dict[str, dict[str, Any]] = {
    "RNN": RECURRENT,
    "GRU": RECURRENT,
    "LSTM": RECURRENT,
    "TCN": RECURRENT,
    "DilatedRNN": RECURRENT,
    "DeepAR": {"lstm_hidden_size": 8},
    "MLP": {"hidden_size": 32},
    "NHITS": {"mlp_units": 3 * [[32, 32]]},
    "NBEATS": {"mlp_units": 3 * [[32, 32]]},
    "NBEATSx": {"mlp_units": 3 * [[32, 32]]},
    "DLinear": {},
    "NLinear": {},
    "TFT": SMALL,
    "VanillaTransformer": SMALL | {"conv_hidden_size": 8},
    "Informer": SMALL | {"conv_hidden_size": 8},
    "Autoformer": SMALL | {"conv_hidden_size": 8},
    "FEDformer": {"hidden_size": 16, "n_head": 8, "conv_hidden_size": 8},
    "PatchTST": {"hidden_size": 16, "n_heads": 2, "linear_hidden_size": 16, "patch_len": 7},
    "TimesNet": {"hidden_size": 4, "conv_hidden_size": 4, "encoder_layers": 1, "max_steps": 20},
    "BiTCN": {"hidden_size": 8},
    "TiDE": {"hidden_size": 16},
    "DeepNPTS": {"hidden_size": 16},
    "KAN": {"hidden_size": 16},
    "xLSTM": {},
    "StemGNN": MANY | {"multi_layer": 2},
    "TSMixer": MANY | {"ff_dim": 8},
    "TSMixerx": MANY | {"ff_dim": 8},
    "MLPMultivariate": MANY | {"hidden_size": 32},
    "iTransformer": MANY | {"hidden_size": 16, "n_heads": 2, "d_ff": 16},
    "SOFTS": MANY | {"hidden_size": 16, "d_core": 16},
    "TimeMixer": MANY | {"d_model": 8, "input_size": 24},
    "RMoK": MANY,
    "TimeXer": MANY | {"hidden_size": 16, "n_heads": 2, "d_ff": 16, "patch_len": 7},
    "XLinear": MANY | {"hidden_size": 16},
}
FITS = {kind: partial(fit, kind, hyper) for kind, hyper in HYPER.items()}
FITS["NHITS-quantiles"] = partial(fit, "NHITS", {"loss": MQLoss(level=[80]), **HYPER["NHITS"]})
