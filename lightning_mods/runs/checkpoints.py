"""Checkpoints: written so that a kill or a full disk spoils none, read without running anything in them."""

import copy
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from callbacks.diagnosis.names import logged_as
from callbacks.host import logged
from callbacks.host.files import replacing
from callbacks.host.lightning import Checkpoint, CSVLogger, ModelCheckpoint, TensorBoardLogger, TorchCheckpointIO
from callbacks.host.packages import LightningModule, Trainer
from callbacks.readers.pacing import SpareTime
from lightning_mods.models.fused.lightning_internals import at_epoch_start, end_restart, is_known
from lightning_mods.runs import RunError
from lightning_mods.runs.restoring import broken_record, fault_of

# What a fit does not change, and what is large.
UNCHANGING = ("hyper_parameters", "datamodule_hyper_parameters", "TabularDataModule")
ENSEMBLE_LOSS = "val_ensemble_loss"
_INSTEAD = "`--ckpt_path best` or an earlier file may do"
WRITING = 0.01  # share of the time that goes into checkpoints, where epochs are short


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there when it is whole.

    Lightning's own writes to the system's temporary folder first: a copy, not a move, where that is another disk.
    """

    def __init__(self) -> None:
        super().__init__()
        self._late: dict[Path, SpareTime] = {}
        self._held: dict[Path, dict[str, Any]] = {}

    def write_late(self, path: Path) -> None:
        """Hold back what is saved to this path while it was written a short time ago; who asks for it says `flush`."""
        self._late.setdefault(path, SpareTime(WRITING))

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`; on an error the file that was there stays, and nothing else is left."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        spare = self._late.get(target)
        if spare is None:
            self._write(checkpoint, target)
        elif spare.is_due:
            self._held.pop(target, None)
            with spare.work():
                self._write(checkpoint, target)
        else:
            self._held[target] = {k: v if k in UNCHANGING else _copied(v) for k, v in checkpoint.items()}

    def flush(self) -> None:
        """Write what is held back."""
        while self._held:
            path, checkpoint = self._held.popitem()
            self._write(checkpoint, path)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint, the latest; a RunError says that the file is damaged."""
        self.flush()
        if "://" not in str(path) and (record := broken_record(Path(path))):
            raise RunError(f"{path} is damaged: `{record}` in it is not as it was written; {_INSTEAD}.")
        return super().load_checkpoint(path, *args, **kwargs)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, written or not."""
        self._held.pop(Path(path), None)
        super().remove_checkpoint(path)

    def teardown(self) -> None:
        """Write what is held back, however training ended."""
        self.flush()
        super().teardown()

    def _write(self, checkpoint: dict[str, Any], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(target) as partial, partial.open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:
            # torch.save reports a failed write so; the OSError that caused it says what happened.
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__cause__ or cause.__context__
            if cause is not None:
                raise cause from None
            raise


def _copied(value: Any) -> Any:
    """A copy of a checkpoint, for training goes on to change it; `copy.deepcopy` takes ten times as long."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return value if isinstance(value, str | int | float | bytes | None) else copy.deepcopy(value)


def folder_of_run(trainer: Trainer) -> Path | None:
    """The folder of a run of our `fit`: TensorBoard's or the table's, else the trainer's root. All ranks must ask.

    Lightning's `log_dir` is wherever the first logger keeps all of its runs.
    """
    first = trainer.loggers[0] if trainer.loggers else None
    own = isinstance(first, TensorBoardLogger | CSVLogger)
    folder = trainer.log_dir if own else trainer.strategy.broadcast(str(trainer.default_root_dir))
    return None if folder is None else Path(folder)


def known_folder_of_run(trainer: Trainer) -> Path:
    """Return what `folder_of_run` says on rank zero, without asking other ranks, of which some may have ended."""
    first = trainer.loggers[0] if trainer.loggers else None
    return Path(first.log_dir if isinstance(first, TensorBoardLogger | CSVLogger) else trainer.default_root_dir)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a Lightning checkpoint, tensors and plain values only; a `RunError` says why a file is none of these.

    The checksums of its archive are compared, and its content looked through: see `fault_of`.
    """
    damaged = f"{path} is damaged or no checkpoint"
    try:
        if record := broken_record(path):
            raise RunError(f"{damaged}: `{record}` in it is not as it was written; {_INSTEAD}.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch muses about a stranger's pickle before it refuses it
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        fault = fault_of(checkpoint)
    except RunError:
        raise
    except UnpicklingError as error:
        found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        what = f"holds `{found[1]}`, which only code could rebuild" if found else "is not what torch.save writes"
        raise RunError(f"{path} is no checkpoint that loads weights-only: it {what}.") from error
    except Exception as error:  # a parser's, of a file that anybody may have written
        raise RunError(f"{damaged}; {_INSTEAD}.") from error
    if fault:
        raise RunError(f"{path} is no checkpoint of a Lightning run: {fault}.")
    return checkpoint


def metrics_in(checkpoint: dict[str, Any]) -> dict[str, float]:
    """The metrics of its epoch that a `best.ckpt` of ours holds; nothing for another checkpoint."""
    states = checkpoint.get("callbacks", {}).items()
    found = [state.get("metrics", {}) for key, state in states if str(key).startswith(BestCheckpoint.__name__)]
    metrics = found[0] if found and isinstance(found[0], dict) else {}
    return {str(name): float(value) for name, value in metrics.items() if isinstance(value, int | float)}


@contextmanager
def monitoring_val_loss(callback: Any) -> Iterator[None]:
    """Let a callback monitor `val_loss`, whatever the loss is called that it has found.

    Its state key names what it monitors, so that a resumed run would not find its state.
    """
    known, callback.monitor = callback.monitor, "val_loss"
    try:
        yield
    finally:
        callback.monitor = known


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt` of a run: lowest validation loss, or the latest epoch where none is logged.

    Of an ensemble its own loss counts, `val_ensemble_loss`, not the mean member's.

    The metrics of its epoch stand in it, so that nobody need evaluate it again to know them.
    """

    def __init__(self) -> None:
        # A resumed run goes on with the same file.
        super().__init__(filename="best", monitor="val_loss", enable_version_counter=False)
        self.metrics: dict[str, float] = {}

    @property
    def state_key(self) -> str:
        """The same whatever the loss is called, so that a resumed run finds its state."""
        with monitoring_val_loss(self):
            return super().state_key

    def state_dict(self) -> dict[str, Any]:
        """What ModelCheckpoint keeps, and the metrics of the epoch."""
        return {**super().state_dict(), "metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what was best; what is no score raises a TypeError."""
        super().load_state_dict(state_dict)
        if self.best_model_score is not None:
            self.best_model_score = torch.tensor(float(self.best_model_score))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the place of the file, which is written at leisure."""
        folder = folder_of_run(trainer)
        if self.dirpath is None and folder is not None:
            self.dirpath = str(folder / "checkpoints")
        super().setup(trainer, pl_module, stage)
        file_io = trainer.strategy.checkpoint_io
        if stage == "fit" and isinstance(file_io, AtomicCheckpointIO) and self.dirpath:
            file_io.write_late(Path(self.dirpath) / f"best{self.FILE_EXTENSION}")

    def steps_free(self, trainer: Trainer) -> float:
        """All: it saves after epochs and validations alone."""
        return math.inf

    def steps_taken(self, trainer: Trainer, pl_module: LightningModule, taken: Any) -> None:
        """Nothing to do."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Nothing to do, at no cost."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if this is when Lightning would."""
        if self._look(trainer):
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if this is when Lightning would."""
        if self._look(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def _look(self, trainer: Trainer) -> bool:
        """Whether Lightning's own look, which costs as much as a small epoch, may come to another end than `no`."""
        found = trainer.callback_metrics
        name = ENSEMBLE_LOSS if ENSEMBLE_LOSS in found else logged_as("val_loss", found)
        self.monitor = name if name in found else None
        if self.monitor and self.best_model_score is not None and not found[self.monitor] < self.best_model_score:
            return False
        self.metrics = logged(trainer)
        return True


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt` in the run's folder, written when an epoch begins and when training ends.

    Where epochs are short, it is written at the beginning of some of them, so that it takes no more than 1 % of the
    time; what a kill loses is trained again, to the same numbers.

    ModelCheckpoint's own `save_last` skips epochs that were not the best, and saves before the learning-rate
    schedulers have stepped: a ReduceLROnPlateau then misses a step in the resumed run. At an epoch's beginning all of
    the one before is done. The state of torch's random numbers goes along, so that a foreign module's dropout draws
    the same after a resume.
    """

    def __init__(self) -> None:
        self._random: dict[str, Any] | None = None
        self._beginning = self._resumed = False
        self._folder: Path | None = None
        self._spare = SpareTime(WRITING)

    @property
    def is_there(self) -> bool:
        """Whether the run has its `last.ckpt`."""
        return self._folder is not None and (self._folder / "last.ckpt").is_file()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run's folder; all ranks agree on it."""
        folder = folder_of_run(trainer)
        self._folder = folder / "checkpoints" if folder else None

    def state_dict(self) -> dict[str, Any]:
        """The state of torch's generators."""
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": devices}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the generators' state until the epoch begins."""
        torch.Generator().set_state(state_dict["cpu"].cpu())  # raises here, where a state is none
        self._random = {"cpu": state_dict["cpu"], "cuda": list(state_dict["cuda"])}
        self._resumed = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint; first, in a resumed run, put the generators where they were."""
        if self._random is not None:
            torch.set_rng_state(self._random["cpu"].cpu())
            if len(self._random["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all([state.cpu() for state in self._random["cuda"]])
            self._random = None
        if is_known(trainer) and trainer.strategy.reduce_boolean_decision(self._spare.is_due, all=False):
            self._beginning = True
            with self._spare.work():
                self._save(trainer)
            self._beginning = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint of an epoch's beginning one that begins it."""
        if self._beginning:
            at_epoch_start(checkpoint)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the restart of a resumed run; write the checkpoint where Lightning's counts are not known."""
        if not is_known(trainer):
            self._save(trainer)
        elif self._resumed:
            end_restart(trainer)
        self._resumed = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint of the finished run."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run and self._folder:  # type: ignore[attr-defined]  # set by a connector
            file_io = trainer.strategy.checkpoint_io
            if isinstance(file_io, AtomicCheckpointIO):
                file_io.flush()  # it speaks of the best one
            trainer.save_checkpoint(self._folder / "last.ckpt")
