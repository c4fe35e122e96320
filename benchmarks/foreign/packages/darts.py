"""darts: its models that torch trains, through `fit` and `pl_trainer_kwargs`."""

from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from darts import TimeSeries, models
from darts.utils.likelihood_models.torch import QuantileRegression

from benchmarks.foreign.data import series, trainer_arguments

DISTRIBUTION = "darts"


def fit(kind: str, hyper: dict[str, Any], callbacks: list[Any], folder: Path) -> None:
    given = trainer_arguments(pl, callbacks, folder)
    del given["max_epochs"]
    lengths = {"input_chunk_length": 21} | ({} if kind == "RNNModel" else {"output_chunk_length": 7})
    common = {"n_epochs": 3, "batch_size": 64, "random_state": 1, "pl_trainer_kwargs": given}
    model = getattr(models, kind)(**lengths, **common, **hyper)
    frame = series()
    whole = TimeSeries.from_group_dataframe(
        frame, group_cols="unique_id", time_col="ds", value_cols="y", drop_group_cols="unique_id"
    )
    halves = [each.split_before(110) for each in whole]
    model.fit([train for train, _ in halves], val_series=[val for _, val in halves], verbose=False)


FITS = {
    "BlockRNN": partial(fit, "BlockRNNModel", {"model": "LSTM", "hidden_dim": 8}),
    "RNN": partial(fit, "RNNModel", {"model": "GRU", "hidden_dim": 8, "training_length": 28}),
    "DLinear": partial(fit, "DLinearModel", {}),
    "NLinear": partial(fit, "NLinearModel", {}),
    "NBEATS": partial(fit, "NBEATSModel", {"num_stacks": 2, "layer_widths": 16}),
    "NHiTS": partial(fit, "NHiTSModel", {"layer_widths": 16}),
    "TCN": partial(fit, "TCNModel", {"num_filters": 4, "dropout": 0.1}),
    "TFT": partial(fit, "TFTModel", {"hidden_size": 8, "num_attention_heads": 2, "add_relative_index": True}),
    "TiDE": partial(fit, "TiDEModel", {"hidden_size": 16, "use_reversible_instance_norm": True}),
    "Transformer": partial(fit, "TransformerModel", {"d_model": 8, "nhead": 2, "dim_feedforward": 16}),
    "TSMixer": partial(fit, "TSMixerModel", {"hidden_size": 8, "ff_size": 8}),
    "NHiTS-quantiles": partial(
        fit, "NHiTSModel", {"layer_widths": 16, "likelihood": QuantileRegression([0.1, 0.5, 0.9])}
    ),
}
