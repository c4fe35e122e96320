"""MLPs trained with SGD under PyTorch Lightning, and the verbs: `python -m lightning_mods.fit`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_mods.cli.siblings import NAMES, install, version

if TYPE_CHECKING:
    from lightning_mods.fit.estimators import MLPClassifierEstimator, MLPRegressorEstimator
    from lightning_mods.loggers.comet import OfflineCometLogger
    from lightning_mods.loggers.visdom import VisdomLogger
    from lightning_mods.models.classifier import MLPClassifier
    from lightning_mods.models.ensemble import MLPEnsemble
    from lightning_mods.models.mlp import MLP
    from lightning_mods.models.module import MLPModule
    from lightning_mods.models.regressor import MLPRegressor

__all__ = [
    "MLP",
    "MLPClassifier",
    "MLPClassifierEstimator",
    "MLPEnsemble",
    "MLPModule",
    "MLPRegressor",
    "MLPRegressorEstimator",
    "OfflineCometLogger",
    "VisdomLogger",
]

install()  # before anything imports `callbacks` or `datamodules`

_HOMES = {
    "MLP": "models.mlp",
    "MLPClassifier": "models.classifier",
    "MLPClassifierEstimator": "fit.estimators",
    "MLPEnsemble": "models.ensemble",
    "MLPModule": "models.module",
    "MLPRegressor": "models.regressor",
    "MLPRegressorEstimator": "fit.estimators",
    "OfflineCometLogger": "loggers.comet",
    "VisdomLogger": "loggers.visdom",
}

# What the modules were called up to version 0.1: configurations name classes by them.
_FORMER = {
    "checkpoints": "runs.checkpoints",
    "classifier": "models.classifier",
    "comet_logger": "loggers.comet",
    "event_logger": "loggers.tensorboard",
    "regressor": "models.regressor",
    "visdom_logger": "loggers.visdom",
}


def __getattr__(name: str) -> Any:
    # Names load on first use: `python -m lightning_mods.fit --help` need not wait for torchmetrics.
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _FORMER:
        return import_module(f"{__name__}.{_FORMER[name]}")
    if name in NAMES:
        return import_module(f"{__name__}.{name}")
    if name == "__version__":
        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
