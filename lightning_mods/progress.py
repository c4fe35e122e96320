"""`ProgressLines`: progress for a terminal that is none, such as a log file."""

import sys
import time
from collections.abc import Sequence

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar

from lightning_mods.terminal import say


class Announcement(Callback):
    """Says what the data module makes of its table, once it is read and training is about to begin."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the data module's `description`, if it has one."""
        description = getattr(getattr(trainer, "datamodule", None), "description", None)
        if isinstance(description, str):
            say(description)


class ProgressLines(Callback):
    """Prints a line about an epoch when enough time has passed since the last one.

    Args:
        every: Seconds between two lines, at least 0.
    """

    def __init__(self, every: float = 10.0) -> None:
        self.every = every
        self._last = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch and what it logged, if a line is due."""
        now = time.monotonic()
        if not trainer.is_global_zero or now - self._last < self.every:
            return
        self._last = now
        metrics = " ".join(f"{name} {float(value):.4g}" for name, value in sorted(trainer.callback_metrics.items()))
        of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        sys.stderr.write(f"epoch {trainer.current_epoch + 1}{of}: {metrics}\n")


def progress_callbacks(given: Sequence[Callback]) -> list[Callback]:
    """The progress a terminal can show: a bar, or lines where there is none. Nothing if the user brought a bar."""
    if any(isinstance(callback, ProgressBar) for callback in given):
        return []
    if sys.stderr.isatty():
        # Redrawing at every batch would cost more than a small network's step.
        return [TQDMProgressBar(refresh_rate=50)]
    return [ProgressLines()]
