"""Callbacks that plug into anybody's LightningModule. Names load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from callbacks.fit.monitor import FitMonitor
    from callbacks.gradients.logger import GradientLogger
    from callbacks.graphs.logger import GraphLogger
    from callbacks.health.monitor import GradientMonitor
    from callbacks.loggers.layout import TensorBoardLayout
    from callbacks.tuning.observer import TrialPruning
    from callbacks.tuning.optuna_search import OptunaSearch

__all__ = [
    "FitMonitor",
    "GradientLogger",
    "GradientMonitor",
    "GraphLogger",
    "OptunaSearch",
    "TensorBoardLayout",
    "TrialPruning",
]

_HOMES = {
    "FitMonitor": "fit.monitor",
    "GradientLogger": "gradients.logger",
    "GradientMonitor": "health.monitor",
    "GraphLogger": "graphs.logger",
    "OptunaSearch": "tuning.optuna_search",
    "TensorBoardLayout": "loggers.layout",
    "TrialPruning": "tuning.observer",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that the parts that need only the standard library cost no torch.
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
