"""MLPs trained with SGD under PyTorch Lightning, and the verbs: `python -m lightning_mods.fit`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_mods.siblings import NAMES, install, version

if TYPE_CHECKING:
    from lightning_mods.classifier import MLPClassifier
    from lightning_mods.comet_logger import OfflineCometLogger
    from lightning_mods.mlp import MLP
    from lightning_mods.module import MLPModule
    from lightning_mods.regressor import MLPRegressor
    from lightning_mods.visdom_logger import VisdomLogger

__all__ = ["MLP", "MLPClassifier", "MLPModule", "MLPRegressor", "OfflineCometLogger", "VisdomLogger"]

install()  # before anything imports `callbacks` or `datamodules`

_HOMES = {
    "MLP": "mlp",
    "MLPClassifier": "classifier",
    "MLPModule": "module",
    "MLPRegressor": "regressor",
    "OfflineCometLogger": "comet_logger",
    "VisdomLogger": "visdom_logger",
}


def __getattr__(name: str) -> Any:
    # Names load on first use: `python -m lightning_mods.fit --help` need not wait for torchmetrics.
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in NAMES:
        return import_module(f"{__name__}.{name}")
    if name == "__version__":
        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
