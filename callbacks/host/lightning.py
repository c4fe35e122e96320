"""Lightning's names for what runs within one package: our verbs, and what they are made of.

They come from the main package, as it is when they are first asked for. Classes of ours that shall work in both
packages inherit from those of `packages` instead.
"""

from typing import TYPE_CHECKING, Any

from callbacks.host.packages import main_package, named

if TYPE_CHECKING:  # one of the two says what both are
    from lightning_fabric.utilities.exceptions import MisconfigurationException as MisconfigurationException
    from pytorch_lightning import Callback as Callback
    from pytorch_lightning import LightningDataModule as LightningDataModule
    from pytorch_lightning import LightningModule as LightningModule
    from pytorch_lightning import Trainer as Trainer
    from pytorch_lightning import seed_everything as seed_everything
    from pytorch_lightning.callbacks import Checkpoint as Checkpoint
    from pytorch_lightning.callbacks import EarlyStopping as EarlyStopping
    from pytorch_lightning.callbacks import ModelCheckpoint as ModelCheckpoint
    from pytorch_lightning.callbacks import ProgressBar as ProgressBar
    from pytorch_lightning.callbacks import TQDMProgressBar as TQDMProgressBar
    from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm as Tqdm
    from pytorch_lightning.cli import LightningArgumentParser as LightningArgumentParser
    from pytorch_lightning.cli import LightningCLI as LightningCLI
    from pytorch_lightning.cli import LRSchedulerTypeTuple as LRSchedulerTypeTuple
    from pytorch_lightning.cli import SaveConfigCallback as SaveConfigCallback
    from pytorch_lightning.cli import instantiate_class as instantiate_class
    from pytorch_lightning.loggers import CometLogger as CometLogger
    from pytorch_lightning.loggers import CSVLogger as CSVLogger
    from pytorch_lightning.loggers import Logger as Logger
    from pytorch_lightning.loggers import MLFlowLogger as MLFlowLogger
    from pytorch_lightning.loggers import TensorBoardLogger as TensorBoardLogger
    from pytorch_lightning.loggers import WandbLogger as WandbLogger
    from pytorch_lightning.plugins.io import CheckpointIO as CheckpointIO
    from pytorch_lightning.plugins.io import TorchCheckpointIO as TorchCheckpointIO
    from pytorch_lightning.profilers import PassThroughProfiler as PassThroughProfiler

_MODULES = {
    "": ("Callback", "LightningDataModule", "LightningModule", "Trainer", "seed_everything"),
    ".callbacks": ("Checkpoint", "EarlyStopping", "ModelCheckpoint", "ProgressBar", "TQDMProgressBar"),
    ".callbacks.progress.tqdm_progress": ("Tqdm",),
    ".cli": (
        *("LightningArgumentParser", "LightningCLI", "LRSchedulerTypeTuple", "SaveConfigCallback", "instantiate_class"),
    ),
    "fabric.utilities.exceptions": ("MisconfigurationException",),
    ".loggers": ("CometLogger", "CSVLogger", "Logger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger"),
    ".plugins.io": ("CheckpointIO", "TorchCheckpointIO"),
    ".profilers": ("PassThroughProfiler",),
}
_PATHS = {name: f"{module}.{name}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _PATHS:
        return named(main_package(), _PATHS[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
