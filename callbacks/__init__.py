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

# What the modules were called up to version 0.1: configurations name classes by them.
_FORMER = {
    "fit_monitor": "fit.monitor",
    "gradient_logger": "gradients.logger",
    "gradient_monitor": "health.monitor",
    "graph_logger": "graphs.logger",
    "optuna_search": "tuning.optuna_search",
    "tensorboard_layout": "loggers.layout",
    "trial_pruning": "tuning.observer",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that the parts that need only the standard library cost no torch.
    if name in _HOMES:
        import_module(f"{__name__}.host.packages").adopt()  # a package may have been loaded since the class was
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _FORMER:
        return import_module(f"{__name__}.{_FORMER[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
