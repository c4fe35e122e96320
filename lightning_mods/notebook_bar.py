"""`NotebookBar`: progress in a notebook, one line rewritten in its place."""

import sys
import time
from importlib import import_module
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.trainer.states import TrainerFn

SHOWN = 3  # metrics that fit into the line


class NotebookBar(ProgressBar):
    """Shows how far a run is in one line of a notebook's output, rewritten in its place.

    Bars made for a terminal leave a line there for each epoch and each validation, and the stored notebook keeps them
    all. Of this one it keeps how the run ended.

    Args:
        every: Seconds from one drawing to the next, at least 0.

    Raises:
        ValueError: `every` is below 0.
    """

    def __init__(self, every: float = 0.5) -> None:
        super().__init__()
        if every < 0:
            raise ValueError(f"every must be at least 0 seconds, not {every}.")
        self.every = every
        self._enabled = True
        self._handle: Any = None  # IPython's, of the output that is rewritten
        self._began = self._drawn = 0.0

    def disable(self) -> None:
        """Show nothing; a trainer asks this of all ranks but one."""
        self._enabled = False

    def enable(self) -> None:
        """Show something again."""
        self._enabled = True

    def steps_free(self, trainer: Trainer) -> float:
        """None is needed to be told of: epochs are enough where steps are so short."""
        return float("inf")

    def steps_taken(self, trainer: Trainer, pl_module: LightningModule, taken: Any) -> None:
        """Nothing to do."""

    # ------------------------------------------------------------------ hooks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a line of its own."""
        self._begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw, if it is time."""
        self._batch("", batch_idx, self.total_train_batches)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, if it is time."""
        if self._is_due():
            self._draw(self._epoch())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how it ended."""
        epochs = trainer.current_epoch
        self._draw(f"{epochs} epoch{'s' * (epochs != 1)} in")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw, if it is time."""
        if not trainer.sanity_checking:
            self._batch("validation", batch_idx, trainer.num_val_batches[dataloader_idx])

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw, if it is time."""
        self._batch("test", batch_idx, trainer.num_test_batches[dataloader_idx])

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw, if it is time."""
        self._batch("prediction", batch_idx, trainer.num_predict_batches[dataloader_idx])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin a line for an evaluation; training begins its own."""
        super().setup(trainer, pl_module, stage)
        self._begin()

    # ------------------------------------------------------------------ drawing

    def _begin(self) -> None:
        self._handle = None
        self._began = self._drawn = time.monotonic()

    def _is_due(self) -> bool:
        return self._enabled and time.monotonic() - self._drawn >= self.every

    def _batch(self, what: str, index: int, total: float) -> None:
        if self._is_due():
            place = f"batch {index + 1}" + (f" of {total:.0f}" if total != float("inf") else "")
            self._draw(" ".join(filter(None, [self._epoch(), what, place])))

    def _epoch(self) -> str:
        if self.trainer.state.fn != TrainerFn.FITTING:
            return ""
        last = self.trainer.max_epochs
        return f"epoch {self.trainer.current_epoch + 1}" + (f" of {last}" if last and last > 0 else "")

    def _draw(self, what: str) -> None:
        if not self._enabled:
            return
        seconds = time.monotonic() - self._began
        content = {"text/plain": " · ".join([f"{what} {seconds:.1f} s", *_metrics(self.trainer)])}
        if self._handle is None:
            display = import_module("IPython.display").display  # there where a notebook is
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
        self._drawn = time.monotonic()


def _metrics(trainer: Trainer) -> list[str]:
    """The losses, or else whatever is logged first."""
    logged = trainer.callback_metrics
    names = sorted(name for name in logged if "loss" in name) or sorted(logged)
    return [f"{name} {float(logged[name]):.4g}" for name in names[:SHOWN]]


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; loads nothing to find out."""
    kernels = sys.modules.get("ipykernel.kernelapp")
    return kernels is not None and bool(kernels.IPKernelApp.initialized())
