"""`Patience`: a fit ends when nothing has come of it for some epochs."""

import math

from callbacks.diagnosis.names import logged_as
from callbacks.host import say
from callbacks.host.lightning import EarlyStopping
from callbacks.host.packages import LightningModule, Trainer
from lightning_mods.runs.checkpoints import monitoring_val_loss

AUTO = 20  # epochs without a lower validation loss; more where a fit is long
_SHARE = 0.2  # of a fit's epochs


def auto_patience(max_epochs: int) -> int:
    """Return the epochs without a lower validation loss that end a fit of `max_epochs`, which is -1 without a limit."""
    return max(AUTO, math.ceil(_SHARE * max_epochs))


class Patience(EarlyStopping):
    """Ends a fit whose validation loss, under any name, has not fallen for so many epochs, and says so when it has."""

    def __init__(self, epochs: int) -> None:
        # A loss that is no number is GradientMonitor's to speak of.
        super().__init__("val_loss", patience=epochs, check_finite=False, strict=False)

    @property
    def state_key(self) -> str:
        """The same whatever the loss is called, so that a resumed run finds its state."""
        with monitoring_val_loss(self):
            return super().state_key

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the loss; with several validations in an epoch, count each."""
        self.monitor = logged_as("val_loss", trainer.callback_metrics)
        super().on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say why the fit is over."""
        if self.stopped_epoch:
            how = "--patience=N waits longer, --patience=0 goes on to the end"
            say(trainer, f"stopped: no lower validation loss for {self.patience} epochs ({how}).")
