"""Callbacks that plug into anybody's LightningModule. Names load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from callbacks.fit_monitor import FitMonitor
    from callbacks.gradient_logger import GradientLogger
    from callbacks.gradient_monitor import GradientMonitor
    from callbacks.graph_logger import GraphLogger
    from callbacks.optuna_search import OptunaSearch
    from callbacks.tensorboard_layout import TensorBoardLayout
    from callbacks.trial_pruning import TrialPruning

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
    "FitMonitor": "fit_monitor",
    "GradientLogger": "gradient_logger",
    "GradientMonitor": "gradient_monitor",
    "GraphLogger": "graph_logger",
    "OptunaSearch": "optuna_search",
    "TensorBoardLayout": "tensorboard_layout",
    "TrialPruning": "trial_pruning",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that the parts that need only the standard library cost no torch.
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
