"""`LongLived`: what was there before training is not looked through for garbage while it goes on."""

import gc

from pytorch_lightning import Callback, LightningModule, Trainer


class LongLived(Callback):
    """Takes what the libraries have loaded out of the garbage collector's sight, until the fit is over.

    They leave some hundred thousand objects. Looking through them every now and then took a twentieth of the time of
    epochs of some milliseconds, and found nothing (https://docs.python.org/3/library/gc.html#gc.freeze). What was made
    before training and is given up in it goes as ever, unless it hangs in a circle: then it goes when the fit is over.
    """

    def __init__(self) -> None:
        self._epochs = 0
        self._ours = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, unless the process looks after its garbage itself."""
        self._epochs = 0
        self._ours = gc.isenabled() and not gc.get_freeze_count()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do it after the first epoch: its first step loads much of torch."""
        self._epochs += 1
        if self._ours and self._epochs == 2:
            gc.collect(1)  # what is young; to look through all would take as long as many epochs
            gc.freeze()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put all back."""
        self._end()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put all back."""
        self._end()

    def _end(self) -> None:
        if self._ours:
            self._ours = False
            gc.unfreeze()
