"""What steps without hooks leave to Lightning's loop: which must pass through it, what callbacks read of the others.

And a profiler that costs nothing, as the loop goes through one at each of its calls.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain, product
from typing import Any, Protocol, runtime_checkable

from torch import nn
from torch.optim import Optimizer

import callbacks
from callbacks.host.lightning import PassThroughProfiler
from callbacks.host.packages import Callback, LightningModule, Trainer, is_overridden, kinds
from lightning_mods.models.fused.chain_rule import ChainRule
from lightning_mods.models.fused.lightning_internals import batches_done, every_n_train_steps

_ON_MODULES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_ON_PARAMETERS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_ON_OPTIMIZERS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_CALLBACKS = f"{callbacks.__name__}."  # the user may have `callbacks` of his own


class Hooks:
    """Tells whether somebody has hung a hook on the passes through a module, or on the steps of its optimizer."""

    def __init__(self, module: nn.Module) -> None:
        # As they are now: looking for them takes as long as a step.
        parts, parameters = list(module.modules()), list(module.parameters())
        self._places = [*product(parts, _ON_MODULES), *product(parameters, _ON_PARAMETERS)]

    def listened_to(self, optimizer: Optimizer) -> bool:
        """Whether there is one now; what our own callbacks hang on the optimizer does not count."""
        if any(getattr(owner, name, None) for owner, name in self._places):
            return True
        hooks = chain.from_iterable(getattr(optimizer, name, {}).values() for name in _ON_OPTIMIZERS)
        return any(not str(getattr(hook, "__module__", "")).startswith(_CALLBACKS) for hook in hooks)


BATCH_HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_backward"),
    *("on_after_backward", "on_before_optimizer_step", "on_before_zero_grad"),
)
ALL = math.inf

Limit = Callable[[], float]


@dataclass(frozen=True)
class SkippedSteps:
    """Training steps that were taken without the hooks. All losses and weights are finite."""

    losses: Sequence[float]  # of each step, as it is minimised
    batches: Sequence[Any]  # each step's mini-batch


@runtime_checkable
class LooksNowAndThen(Protocol):
    """A callback that knows which training steps it has to see."""

    def steps_free(self, trainer: Trainer) -> float:
        """How many of the next steps may be taken without its hooks; infinity for all."""

    def steps_taken(self, trainer: Trainer, pl_module: LightningModule, taken: SkippedSteps) -> None:
        """Steps were taken without its hooks."""


class Reading(Protocol):
    """What a callback reads of a step that is taken without its hooks."""

    def clipped(self) -> None:
        """The gradients were clipped; called where the fit clips, before the step."""

    def stepped(self) -> None:
        """The step was taken: the parameters have their new values."""

    def keep(self) -> None:
        """The step holds. If this is not called, it is taken again, through the hooks."""


@runtime_checkable
class ReadsGradients(Protocol):
    """A callback that wants the gradients and weights of some of the steps that are taken without its hooks."""

    def next_reading(self, trainer: Trainer, ahead: int) -> float:
        """Which of the coming steps, `ahead` or later, 0 the next one, it reads next; infinity for none."""

    def read_gradients(self, trainer: Trainer, ahead: int) -> Reading:
        """Read `.grad` of the parameters, that of the coming step `ahead`, and their values before it."""


def limit_of(callback: Callback, trainer: Trainer) -> Limit | None:
    """What tells how many steps a callback can do without from now on; None if it has to see each."""
    if isinstance(callback, LooksNowAndThen):
        return lambda: callback.steps_free(trainer)
    if not any(is_overridden(hook, callback) for hook in BATCH_HOOKS):
        return lambda: ALL
    if isinstance(callback, kinds(".callbacks.ModelCheckpoint")):
        if is_overridden("on_train_batch_end", callback, ".callbacks.ModelCheckpoint"):
            return None
        every = every_n_train_steps(callback)
        return lambda: _before_multiple(every, trainer.global_step) if every else ALL
    if isinstance(callback, kinds(".callbacks.ProgressBar")):
        rate = int(getattr(callback, "refresh_rate", 1) or 1)
        return lambda: _before_multiple(rate, batches_done(trainer)) if rate > 1 else ALL
    if type(callback) in kinds(".callbacks.LearningRateMonitor"):
        return (lambda: ALL) if getattr(callback, "logging_interval", None) == "epoch" else None
    return (lambda: ALL) if type(callback) in kinds(".callbacks.Timer") else None


def loop_limit(trainer: Trainer) -> float:
    """How many mini-batches may pass before the next that the training loop itself has to see.

    It has to see the last of an epoch, the last before a validation, and the last that `max_steps` allows.
    """
    done = batches_done(trainer)
    free = trainer.num_training_batches - done - 1
    if trainer.max_steps >= 0:
        free = min(free, trainer.max_steps - trainer.global_step - 1)
    every = trainer.val_check_batch
    if trainer.enable_validation and every is not None and every != math.inf:
        count = batches_done(trainer, in_all=trainer.check_val_every_n_epoch is None)
        free = min(free, _before_multiple(int(every), count))
    return free


def _before_multiple(n: int, done: int) -> int:
    """Steps that may pass before the one that makes their number a multiple of n."""
    return n - 1 - done % n


class Readings:
    """What is read of a chain's steps on the way, kept once it is sure that they hold."""

    def __init__(self, readers: Sequence[ReadsGradients], trainer: Trainer, steps: ChainRule) -> None:
        self._readers, self._trainer, self._steps = readers, trainer, steps
        self._all: list[Reading] = []
        self._open: list[Reading] = []
        self._due = [reader.next_reading(trainer, 0) for reader in readers]
        self.next = min(self._due, default=math.inf)

    @contextmanager
    def shown(self, count: int) -> Iterator[None]:
        """Within it, the module's parameters and `.grad` are those of the steps, if one of so many is to be read."""
        if self.next >= count:
            yield
            return
        steps, parameters = self._steps, self._steps.parameters
        before = [(parameter.data, parameter.grad) for parameter in parameters]
        try:
            for parameter, weight, gradient in zip(parameters, steps.weights, steps.gradients, strict=True):
                parameter.data, parameter.grad = weight, gradient
            yield
        finally:
            for parameter, (weight, gradient_before) in zip(parameters, before, strict=True):
                parameter.data, parameter.grad = weight, gradient_before

    def before_step(self, ahead: int) -> None:
        """Let those read for whom the coming step `ahead` is due."""
        for i, reader in enumerate(self._readers):
            if self._due[i] <= ahead:
                self._open.append(reader.read_gradients(self._trainer, ahead))
                self._due[i] = reader.next_reading(self._trainer, ahead + 1)
        self.next = min(self._due)

    def clipped(self) -> None:
        """Let them look at what clipping left."""
        for reading in self._open:
            reading.clipped()

    def after_step(self) -> None:
        """Let them look at what the step did."""
        for reading in self._open:
            reading.stepped()
        self._all += self._open
        self._open = []

    def keep(self) -> None:
        """The steps hold."""
        for reading in self._all:
            reading.keep()


# ------------------------------------------------------------------ what the loop costs

_NOTHING = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Lightning's profiler that records nothing, without making a generator for each thing that it does not record."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]  # it may be any
        """Do nothing before and after."""
        return _NOTHING
