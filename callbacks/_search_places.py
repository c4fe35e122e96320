"""Where the search of a fit is kept, and under which name: the same command finds the same study again."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer

_RUN = re.compile(r"version_\d+")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def runs_folder(trainer: Trainer, log_dir: str | None) -> Path | None:
    """The folder in which each run gets one of its own, or the run's where that is named; None if it is not local.

    Args:
        trainer: The trainer of the fit.
        log_dir: Its `log_dir`, which all ranks must ask for.
    """
    folder = str(log_dir or trainer.default_root_dir)
    if "://" in folder:
        return None
    path = Path(folder)
    # A run that is started again gets the next number, and its search must be found.
    return path.parent if _RUN.fullmatch(path.name) else path


def study_name(module: LightningModule, settings: Mapping[str, Any], facts: Iterable[object]) -> str:
    """A name that is the same for the same fit, and another for another module, data or plan.

    Args:
        module: Its class and the shapes of its parameters count, not their values.
        settings: The hyperparameters.
        facts: Whatever else makes it another search.
    """
    shapes = [(name, tuple(parameter.shape)) for name, parameter in module.named_parameters()]
    told = [f"{name}={value!r}" for name, value in sorted(settings.items())]
    text = repr((type(module).__qualname__, shapes, told, [str(fact) for fact in facts]))
    return f"search-{hashlib.sha256(_ADDRESS.sub('', text).encode()).hexdigest()[:8]}"
