"""Where a diagnosis goes: all places where the run is looked at, and a file. Called on one rank alone."""

from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks import _boards, _fit_report
from callbacks._fit_record import FitRecord
from callbacks.diagnosis import Diagnosis
from callbacks.spare_time import SpareTime

DRAWING = 0.02  # share of the time that goes into pictures on the way: each costs as much as many small epochs
GUESS = 0.5  # seconds that the first picture takes


class FitWriter:
    """Writes diagnoses of one run.

    Args:
        plot: Whether to draw at all.
    """

    def __init__(self, *, plot: bool) -> None:
        self.plot = plot
        self._spare = SpareTime(DRAWING, GUESS)

    def scalars(self, trainer: Trainer, found: Diagnosis, epoch: int) -> None:
        """Log the probabilities over the epoch."""
        values = {f"fit/probability_{fit}": probability for fit, probability in found.probabilities.items()}
        _boards.log_metrics(trainer, values, epoch)

    def words(self, trainer: Trainer, text: str, epoch: int) -> None:
        """Write the verdict as a text."""
        _boards.write_text(trainer, "fit/verdict", text, epoch)

    def document(self, folder: Path | None, found: Diagnosis, record: FitRecord, baseline: float | None) -> None:
        """Write `diagnosis.json`."""
        if folder is not None:
            text = _fit_report.document(found, record, baseline)
            _fit_report.write(folder / "diagnosis.json", text)

    def picture(self, trainer: Trainer, found: Diagnosis, record: FitRecord, epoch: int, *, last: bool) -> None:
        """Draw the curves; on the way only if there is time."""
        if not self.plot or not (last or self._spare.is_due) or not _boards.are_shown(trainer):
            return
        with self._spare.work():
            self._draw(trainer, found, record, epoch)

    def _draw(self, trainer: Trainer, found: Diagnosis, record: FitRecord, epoch: int) -> None:
        from callbacks.fit_picture import draw_record, rgb  # matplotlib takes half a second to load

        _boards.write_image(trainer, "fit/curves", rgb(draw_record(record, found)), epoch)


def folder_of(trainer: Trainer) -> Path | None:
    """Beside the checkpoints, else the log folder, else the root; None where that is no local folder.

    Every rank must ask: the log folder is broadcast.
    """
    log_dir = trainer.log_dir
    beside = getattr(trainer.checkpoint_callback, "dirpath", None)
    folder = str(beside or log_dir or trainer.default_root_dir)
    return None if "://" in folder else Path(folder)


def kept(trainer: Trainer, val_loss: str, best_epoch: int | None) -> str:
    """Which checkpoint to keep: that of the lowest validation loss, or how to have one."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor == val_loss and callback.best_model_path:
            return callback.best_model_path
    return f"the weights of epoch {best_epoch}; ModelCheckpoint(monitor={val_loss!r}) would have kept the best ones"
