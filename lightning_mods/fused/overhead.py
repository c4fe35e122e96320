"""`LongLived`: what was there before training is not looked through for garbage while it goes on."""

import gc
import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities.model_helpers import is_overridden

import callbacks

_EPOCH_HOOKS = tuple(
    [f"on_train_{what}" for what in ("epoch_start", "epoch_end", "batch_start", "batch_end")]
    + [f"on_validation_{what}" for what in ("start", "end", "epoch_start", "epoch_end", "batch_start", "batch_end")]
    + ["on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"]
)
_OURS = (f"{callbacks.__name__}.", "lightning_mods.")  # the user may have `callbacks` of his own
_NOTHING = nullcontext()

Method = TypeVar("Method", bound=Callable[..., object])


class NoProfiler(PassThroughProfiler):
    """Lightning's profiler that records nothing, without making a generator for each thing that it does not record."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]  # it may be any
        """Do nothing before and after."""
        return _NOTHING


def pass_by_idle_hooks(asked: Iterable[Callback]) -> None:
    """Have Lightning pass by the hooks of an epoch that our own callbacks leave as they are.

    Of a callback's hooks it passes by those that cannot be called. Others' callbacks stay as they are: they may be
    called by somebody else.
    """
<<<<<<< HEAD:lightning_mods/fused/overhead.py
    for callback in asked:
        if type(callback).__module__.startswith(_OURS):
=======
    for callback in asked:
        if type(callback).__module__.startswith(_OURS):
>>>>>>> siblings:lightning_mods/light_dispatch.py
            for name in _EPOCH_HOOKS:
                if not is_overridden(name, callback, Callback):
                    setattr(callback, name, None)


def known(method: Method) -> Method:
    """Note a method's parameters, which Lightning asks for at every batch or validation, where Python looks first."""
    method.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    return method


class LongLived(Callback):
    """Takes what the libraries have loaded out of the garbage collector's sight, until the fit is over.

    They leave some hundred thousand objects. Looking through them every now and then took a twentieth of the time of
    epochs of some milliseconds, and found nothing (https://docs.python.org/3/library/gc.html#gc.freeze). What was made
    before training and is given up in it goes as ever, unless it hangs in a circle: then it goes when the fit is over.
    """

    def __init__(self) -> None:
        self._epochs = 0
        self._ours = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, unless the process looks after its garbage itself."""
        self._epochs = 0
        self._ours = gc.isenabled() and not gc.get_freeze_count()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do it after the first epoch: its first step loads much of torch."""
        self._epochs += 1
        if self._ours and self._epochs == 2:
            gc.collect(1)  # what is young; to look through all would take as long as many epochs
            gc.freeze()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put all back."""
        self._end()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put all back."""
        self._end()

    def _end(self) -> None:
        if self._ours:
            self._ours = False
            gc.unfreeze()
