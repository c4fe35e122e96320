"""The stopwatch as a Lightning callback: it has one hook in an epoch, so a fit is left as it is."""

import copy

import pytorch_lightning as pl
from torch import nn

from benchmarks.speed.stopwatch import Stopwatch


class Laps(pl.Callback):
    """Tells the stopwatch of each epoch's end, and keeps the network as training leaves it."""

    # Our command makes its callbacks from flags: what they shall tell us, they tell their class.
    watch = Stopwatch()
    network: nn.Module | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        type(self).watch.lap()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        type(self).network = copy.deepcopy(pl_module.network)  # type: ignore[assignment]
