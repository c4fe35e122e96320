"""Hands what callbacks show to the adapters of all loggers: TensorBoard, W&B, Comet, MLflow, any that can show, files.

Each function hands one kind of thing to all of them. Where one of them fails, the others get it all the same, and then
the failure is raised. On ranks that do not write they do nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger

from callbacks.loggers.base import Drawing, Histogram, LoggerAdapter, NumbersAdapter
from callbacks.loggers.comet import CometAdapter
from callbacks.loggers.files import FilesAdapter
from callbacks.loggers.mlflow import MLflowAdapter
from callbacks.loggers.tensorboard import TensorBoardAdapter
from callbacks.loggers.wandb import WandbAdapter

_KINDS: dict[type[Logger], Callable[[Any], LoggerAdapter]] = {
    TensorBoardLogger: TensorBoardAdapter,
    WandbLogger: WandbAdapter,
    CometLogger: CometAdapter,
    MLFlowLogger: MLflowAdapter,
}
_made: WeakKeyDictionary[Trainer, tuple[list[Logger], list[LoggerAdapter]]] = WeakKeyDictionary()


def adapters(trainer: Trainer) -> list[LoggerAdapter]:
    """Return the adapters of a trainer's loggers; none on ranks that do not write, and in a `fast_dev_run`.

    A CSV logger stands for files in its folder. So does no logger at all, and a logger that takes numbers alone where
    no other one shows more: in the trainer's root folder.
    """
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]  # a connector's
        return []
    loggers = [logger for logger in trainer.loggers if not isinstance(logger, DummyLogger)]
    if trainer.loggers and not loggers:
        return []
    known = _made.get(trainer)
    if known is None or known[0] != loggers:
        _made[trainer] = known = (loggers, _adapters_of(trainer, loggers))
    return known[1]


def are_shown(trainer: Trainer) -> bool:
    """Return whether there is anywhere to look at what is drawn."""
    return bool(adapters(trainer))


def log_metrics(trainer: Trainer, values: Mapping[str, float], step: int) -> None:
    """Hand scalars to every logger as a module's own `log` does; without a logger to a file."""
    if trainer.loggers:
        _each(trainer.loggers, lambda logger: logger.log_metrics(dict(values), step=step))
    else:
        write_scalars(trainer, values, step)


def write_scalars(trainer: Trainer, values: Mapping[str, float], step: int) -> None:
    """Write a few scalars by tag at a step, also after a fit has ended."""
    _each(adapters(trainer), lambda adapter: adapter.write_scalars(values, step))


def write_moment(
    trainer: Trainer, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]
) -> None:
    """Write what belongs to one step: scalars and histograms by tag."""
    _each(adapters(trainer), lambda adapter: adapter.write_moment(step, scalars, histograms))


def write_text(trainer: Trainer, tag: str, text: str, step: int = 0) -> None:
    """Write a text, shown as it stands."""
    _each(adapters(trainer), lambda adapter: adapter.write_text(tag, text, step))


def write_image(trainer: Trainer, tag: str, pixels: Any, step: int) -> None:
    """Write a picture, an array `[height, width, 3]` of bytes."""
    _each(adapters(trainer), lambda adapter: adapter.write_image(tag, pixels, step))


def write_graphs(trainer: Trainer, graphs: Mapping[str, Drawing], step: int = 0) -> None:
    """Write compute graphs by name."""
    _each(adapters(trainer), lambda adapter: adapter.write_graphs(graphs, step))


def write_charts(trainer: Trainer, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Say which tags belong on one chart: category -> chart -> tags."""
    _each(adapters(trainer), lambda adapter: adapter.write_charts(charts))


def write_hyperparameters(trainer: Trainer, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Write the run's settings, and which scalar tags are its results."""
    _each(adapters(trainer), lambda adapter: adapter.write_hyperparameters(values, metrics))


def _adapters_of(trainer: Trainer, loggers: Sequence[Logger]) -> list[LoggerAdapter]:
    fresh = not trainer.ckpt_path
    if not loggers:
        return _files(str(trainer.default_root_dir), None, fresh=fresh)
    found: list[LoggerAdapter] = []
    numbers_only: list[Logger] = []
    for logger in loggers:
        kind = next((make for known, make in _KINDS.items() if isinstance(logger, known)), None)
        if kind is not None:
            found.append(kind(logger))
        elif isinstance(logger, LoggerAdapter):
            found.append(logger)
        elif isinstance(logger, CSVLogger):
            found += _files(logger.log_dir, logger, fresh=fresh) or [NumbersAdapter(logger)]
        else:
            numbers_only.append(logger)
    for logger in numbers_only:
        place = _files(str(trainer.default_root_dir), logger, fresh=fresh) if not found else []
        found += place or [NumbersAdapter(logger)]
    return found


def _files(folder: str, logger: Logger | None, *, fresh: bool) -> list[LoggerAdapter]:
    # Nothing where the folder is not on this machine.
    return [] if "://" in folder else [FilesAdapter(Path(folder), logger, fresh=fresh)]


def _each(receivers: Sequence[Any], write: Callable[[Any], None]) -> None:
    failures = []
    for one in receivers:
        try:
            write(one)
        except Exception as error:  # noqa: BLE001  # the others get it first, then it is raised
            failures.append(error)
    if failures:
        raise failures[0]
