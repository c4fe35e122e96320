"""What a person sees of a fit: progress on a terminal or in a log file, and at the end where to look at its logs."""

import math
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from callbacks.host.lightning import (
    CometLogger,
    CSVLogger,
    MLFlowLogger,
    ProgressBar,
    TensorBoardLogger,
    Tqdm,
    TQDMProgressBar,
    WandbLogger,
)
from callbacks.host.packages import Callback, LightningModule, Logger, Trainer
from lightning_mods.loggers.comet import OfflineCometLogger
from lightning_mods.loggers.terminal import say
from lightning_mods.loggers.visdom import VisdomLogger

DRAWING = 0.1  # seconds from one drawing of the bar to the next


class Announcement(Callback):
    """Says what the data module makes of its table, once it is read and training is about to begin."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the data module's `description`, if it has one."""
        description = getattr(getattr(trainer, "datamodule", None), "description", None)
        if isinstance(description, str):
            say(description)


class EpochTimer(Callback):
    """Measures the seconds that each epoch took, validation included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock; an epoch that a resume entered in its middle is not counted."""
        if self._start:
            self.seconds.append(time.monotonic() - self._start)
        self._start = 0.0


class ProgressLines(Callback):
    """Prints a line about an epoch when so many seconds, at least 0, have passed since the last one."""

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


class TimedBar(TQDMProgressBar):
    """Lightning's bar, drawn ten times a second: once a batch would cost more than a small network's epoch."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1)
        self._drawn = self._began = 0.0
        self._epoch = self._shown = -1  # the one that runs, and the one on the bar
        self._behind = False
        self._last = 0  # batch of the epoch
        self._total: float = 0
        self._unseen: Tqdm | None = None  # a bar that draws nothing; to make one costs as much as a hidden layer

    def steps_free(self, trainer: Trainer) -> float:
        """Leave all steps free: the bar shows how far training is whenever it is asked."""
        return math.inf

    def steps_taken(self, trainer: Trainer, pl_module: LightningModule, taken: Any) -> None:
        """Nothing to do."""

    def on_train_start(self, *args: Any) -> None:
        """Make the bar."""
        super().on_train_start(*args)
        self._shown = -1

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Note the time; the bar begins with the epoch when it is drawn."""
        self._epoch, self._began = trainer.current_epoch, time.time()
        self._total = self.total_train_batches

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw, if it is time."""
        self._last, self._behind = batch_idx, True
        if self._is_due():
            self._draw(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, if it is time."""
        if self._is_due():
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as training ended."""
        if self._behind:
            self._draw(trainer, pl_module)
        super().on_train_end(trainer, pl_module)

    def init_validation_tqdm(self) -> Tqdm:
        """Make the bar of a validation; one that draws nothing right after another drawing."""
        if self.trainer.state.fn == "fit" and not self._is_due():
            self._unseen = self._unseen or Tqdm(disable=True)
            return self._unseen
        return super().init_validation_tqdm()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take away the bar of the validation."""
        if self.val_progress_bar.disable:
            self.val_progress_bar.close()
            self.reset_dataloader_idx_tracker()
        else:
            super().on_validation_end(trainer, pl_module)

    def _is_due(self) -> bool:
        return time.monotonic() - self._drawn >= DRAWING

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        bar = self.train_progress_bar
        if self._epoch != self._shown:
            bar.reset()
            bar.total, bar.initial = self._total, 0
            bar.start_t = bar.last_print_t = self._began
            bar.set_description(f"Epoch {self._epoch}", refresh=False)
            self._shown = self._epoch
        super().on_train_batch_end(trainer, pl_module, None, None, self._last)
        self._drawn, self._behind = time.monotonic(), False


def progress_callbacks(given: Sequence[Callback]) -> list[Callback]:
    """Return the progress that can be shown: a bar, else lines; nothing if the user brought a bar.

    In a notebook Lightning's bar is a widget of `ipywidgets`; without, it would leave a line there for each drawing.
    """
    if any(isinstance(callback, ProgressBar) for callback in given):
        return []
    if in_notebook():
        if find_spec("ipywidgets") is not None:
            return [TimedBar()]
        say("note: a progress bar in a notebook needs ipywidgets: pip install 'lightning-mods[notebook]'")
    elif sys.stderr.isatty():
        return [TimedBar()]
    return [ProgressLines()]


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook; loads nothing to find out."""
    kernels = sys.modules.get("ipykernel.kernelapp")
    return kernels is not None and bool(kernels.IPKernelApp.initialized())


def close_loggers(loggers: Sequence[Logger]) -> None:
    """Let what is still in memory be written: the run of this process is over."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger.version is not None:
            logger.experiment.finish()
        elif isinstance(logger, CometLogger) and logger.version is not None:
            logger.experiment.end()
        elif isinstance(logger, VisdomLogger):
            logger.flush()
        elif isinstance(logger, TensorBoardLogger):
            logger.finalize("success")  # what is drawn after a fit opens the file anew


class CloseLoggers(Callback):
    """Closes the loggers of a fit after which the process goes on with another one."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close them."""
        if stage == "fit" and trainer.is_global_zero:
            close_loggers(trainer.loggers)


def how_to_look(loggers: Sequence[Logger], folder: Path) -> list[str]:
    """Return a command or an address for each logger, after it was closed; without any, the run's folder."""
    return [each for logger in loggers for each in _views(logger)] or ([] if loggers else [shlex.quote(str(folder))])


def _views(logger: Logger) -> Iterator[str]:
    if isinstance(logger, TensorBoardLogger):
        yield f"tensorboard --logdir {_quoted(logger.root_dir)}"
    elif isinstance(logger, WandbLogger) and logger.version is not None:
        yield _wandb(logger.experiment)
    elif isinstance(logger, OfflineCometLogger):
        yield from (f"comet upload {_quoted(str(file))}" for file in logger.files)
    elif isinstance(logger, CometLogger):
        yield str(logger.experiment.url)
    elif isinstance(logger, MLFlowLogger):
        yield _mlflow(logger)
    elif isinstance(logger, VisdomLogger):
        yield logger.url if logger.flush() else f"{logger.url} (the server has not got all of it)"
    elif isinstance(logger, CSVLogger):
        yield _quoted(logger.log_dir)


def _wandb(run: Any) -> str:
    if not run.offline:
        return str(run.url)
    folder = Path(run.dir).parent
    parts = sorted(folder.parent.glob(f"offline-run-*-{run.id}"))  # one for each time that the run went on
    return f"wandb sync {' '.join(_quoted(str(part)) for part in parts or [folder])}"


def _mlflow(logger: MLFlowLogger) -> str:
    import mlflow

    store = str(mlflow.get_tracking_uri())
    if store.startswith(("http:", "https:")):
        return f"{store.rstrip('/')}/#/experiments/{logger.experiment_id}/runs/{logger.run_id}"
    allow = "" if "://" in store and not store.startswith("file:") else "MLFLOW_ALLOW_FILE_STORE=true "
    return f"{allow}mlflow ui --backend-store-uri {shlex.quote(store)}"


def _quoted(path: str) -> str:
    return shlex.quote(str(Path(path)))
