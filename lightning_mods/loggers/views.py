"""How the loggers of a fit are closed, and how a person looks at what they hold."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lightning_mods.loggers.comet import OfflineCometLogger
from lightning_mods.loggers.visdom import VisdomLogger


def close_loggers(loggers: Sequence[Logger]) -> None:
    """Let what is still in memory be written: the run of this process is over."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            if logger.version is not None:
                logger.experiment.finish()
        elif isinstance(logger, CometLogger):
            if logger.version is not None:
                logger.experiment.end()
        elif isinstance(logger, VisdomLogger):
            logger.flush()


class CloseLoggers(Callback):
    """Closes the loggers of a fit after which the process goes on with another one."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close them."""
        if stage == "fit" and trainer.is_global_zero:
            close_loggers(trainer.loggers)


def how_to_look(loggers: Sequence[Logger], folder: Path) -> list[str]:
    """A command or an address for each logger, after it was closed.

    Args:
        loggers: Of a trainer; none for files in `folder`.
        folder: The run's.
    """
    return [each for logger in loggers for each in _views(logger)] or ([] if loggers else [shlex.quote(str(folder))])


def _views(logger: Logger) -> Iterator[str]:
    if isinstance(logger, TensorBoardLogger):
        yield f"tensorboard --logdir {_quoted(logger.root_dir)}"
    elif isinstance(logger, WandbLogger):
        if logger.version is not None:
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
