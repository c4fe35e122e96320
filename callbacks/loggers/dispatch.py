"""Hands what callbacks show to the adapters of all loggers: TensorBoard, W&B, Comet, MLflow, any that can show, files.

Each function hands one kind of thing to all of them. Where one of them fails, the others get it all the same, and then
the failure is raised. On ranks that do not write they do nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any, Concatenate, ParamSpec
from weakref import WeakKeyDictionary

from callbacks.host.packages import Logger, Trainer, kinds
from callbacks.loggers.base import LoggerAdapter, NumbersAdapter
from callbacks.loggers.files import FilesAdapter
from callbacks.loggers.services import CometAdapter, MLflowAdapter, WandbAdapter
from callbacks.loggers.tensorboard import TensorBoardAdapter

_P = ParamSpec("_P")
_KINDS: dict[str, Callable[[Any], LoggerAdapter]] = {
    "TensorBoardLogger": TensorBoardAdapter,
    "WandbLogger": WandbAdapter,
    "CometLogger": CometAdapter,
    "MLFlowLogger": MLflowAdapter,
}
_made: WeakKeyDictionary[Trainer, tuple[list[Logger], list[LoggerAdapter]]] = WeakKeyDictionary()


def adapters(trainer: Trainer) -> list[LoggerAdapter]:
    """Return the adapters of a trainer's loggers; none on ranks that do not write, and in a `fast_dev_run`.

    A CSV logger stands for files in its folder. So does no logger at all, and a logger that takes numbers alone where
    no other one shows more: in the trainer's root folder.
    """
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]  # a connector's
        return []
    loggers = [logger for logger in trainer.loggers if not isinstance(logger, kinds(".loggers.logger.DummyLogger"))]
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


def _by_all(method: Callable[Concatenate[LoggerAdapter, _P], None]) -> Callable[Concatenate[Trainer, _P], None]:
    """Return a function that calls a method of all the adapters of a trainer; `LoggerAdapter` says what it does."""

    def write(trainer: Trainer, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        _each(adapters(trainer), methodcaller(method.__name__, *args, **kwargs))

    return write


write_scalars = _by_all(LoggerAdapter.write_scalars)
write_moment = _by_all(LoggerAdapter.write_moment)
write_text = _by_all(LoggerAdapter.write_text)
write_image = _by_all(LoggerAdapter.write_image)
write_graphs = _by_all(LoggerAdapter.write_graphs)
write_charts = _by_all(LoggerAdapter.write_charts)
write_hyperparameters = _by_all(LoggerAdapter.write_hyperparameters)


def _adapters_of(trainer: Trainer, loggers: Sequence[Logger]) -> list[LoggerAdapter]:
    fresh = not trainer.ckpt_path
    if not loggers:
        return _files(str(trainer.default_root_dir), None, fresh=fresh)
    found: list[LoggerAdapter] = []
    numbers_only: list[Logger] = []
    for logger in loggers:
        kind = next((make for name, make in _KINDS.items() if isinstance(logger, kinds(f".loggers.{name}"))), None)
        if kind is not None:
            found.append(kind(logger))
        elif isinstance(logger, LoggerAdapter):
            found.append(logger)
        elif isinstance(logger, kinds(".loggers.CSVLogger")):
            found += _files(logger.log_dir, logger, fresh=fresh) or [NumbersAdapter(logger)]
        else:
            numbers_only.append(logger)
    for logger in numbers_only:
        place = _files(str(trainer.default_root_dir), logger, fresh=fresh) if not found else []
        found += place or [NumbersAdapter(logger)]
    return found


def _files(folder: Any, logger: Logger | None, *, fresh: bool) -> list[LoggerAdapter]:
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
