"""What Lightning's loops ask of every hook and callback, made cheap: with small networks it costs as much as training.

An epoch calls some 15 hooks of each callback, overridden or not, each inside a profiler's context.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

from pytorch_lightning import Callback
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
    for callback in asked:
        if type(callback).__module__.startswith(_OURS):
            for name in _EPOCH_HOOKS:
                if not is_overridden(name, callback, Callback):
                    setattr(callback, name, None)
