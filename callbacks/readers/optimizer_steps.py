"""Follow an optimizer through its steps: when its gradients are there, when they are clipped, when it has stepped.

Lightning runs forward, backward, `on_before_optimizer_step` and clipping in a closure within the step; with a gradient
scaler before it, and the scaler may then leave the step out. In manual optimization a raw optimizer may step with no
closure and no Lightning. So the moments come from three sides: torch's hooks around the step, the end of the closure,
and Lightning's hook.
"""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from pytorch_lightning import Callback
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

BETWEEN, BEFORE, WITHIN = range(3)  # steps; a step whose gradients are there, before `step` is called; the call


class StepListener:
    """Reads the steps of an optimizer that are due; what it leaves out is passed by."""

    def gradients(self, steps: "ObservedSteps") -> Tensor | None:
        """Read gradients: they are unscaled and accumulated, and nothing has clipped them yet.

        Returns:
            The norms of all gradients of the optimizer, on their device; None if they were not read.
        """
        return None

    def clipped(self, steps: "ObservedSteps") -> None:
        """Read gradients after whatever clips has clipped; the weights are still the old ones."""

    def stepped(self, steps: "ObservedSteps") -> None:
        """Read weights after the step was taken, or a gradient scaler left it out."""


class StepObserver:
    """Observes one optimizer for all callbacks that listen to its steps, with one pair of hooks.

    Nobody holds an optimizer by it: its hooks are gone when the last listener has left.
    """

    def __init__(self) -> None:
        self.is_due = False  # whether a step is under way that somebody reads
        self._listening: list[ObservedSteps] = []
        self._where = BETWEEN
        self._handles: list[Any] = []

    @staticmethod
    def of(optimizer: Optimizer) -> "StepObserver":
        """Return the one observer of an optimizer."""
        found = _OBSERVERS.get(optimizer)
        if found is None:
            found = _OBSERVERS[optimizer] = StepObserver()
        return found

    def listen(self, steps: "ObservedSteps") -> None:
        """Tell a listener of the steps to come."""
        if not self._listening:
            self._where = BETWEEN
            self._handles = [
                steps.optimizer.register_step_pre_hook(self._enter),
                steps.optimizer.register_step_post_hook(self._leave),
            ]
        self._listening.append(steps)

    def leave(self, steps: "ObservedSteps") -> None:
        """Tell a listener no longer."""
        if steps in self._listening:
            self._listening.remove(steps)
        if not self._listening:
            self.is_due = False
            for handle in self._handles:
                handle.remove()

    # ------------------------------------------------------------------ one reading for several callbacks

    def agrees_with(self, callback: Callback, callbacks: Sequence[Callback]) -> bool:
        """Whether a callback sees the gradients that listeners see: none between them may change these."""
        owners = [callback, *(steps.owner for steps in self._listening)]
        among = [i for i, each in enumerate(callbacks) if any(each is owner for owner in owners)]
        between = callbacks[min(among) : max(among)] if among else []
        return len(self._listening) > 0 and not any(
            is_overridden("on_before_optimizer_step", each, Callback)
            for each in between
            if not any(each is owner for owner in owners)
        )

    def norms(self) -> Tensor | None:
        """Return the norms of the gradients of this step if a listener reads them: it reads them now, and not again.

        They are given out once, since LBFGS computes other gradients within the step.
        """
        if self._where == WITHIN:
            for steps in self._listening:
                if steps.is_due and (norms := steps.read_gradients()) is not None:
                    steps.norms = None
                    return norms
        return None

    def gradients_changed(self) -> None:
        """Let those listeners read anew whose own turn in this step is still to come."""
        for steps in self._listening:
            steps.read_again()

    # ------------------------------------------------------------------ moments

    def before_step(self, steps: "ObservedSteps") -> None:
        """Pass on Lightning's `on_before_optimizer_step` of the callback that owns these steps."""
        if self._where == BETWEEN or (self._where == BEFORE and steps.had_turn):  # a scaler: the step comes later
            self._settle()
            self._begin()
            self._where = BEFORE
        steps.had_turn = True
        if steps.is_due:
            steps.read_gradients()

    def settle_skipped(self) -> None:
        """Close a step that a scaler left out."""
        if self._where != WITHIN:
            self._settle()

    def _begin(self) -> None:
        due = False
        for steps in self._listening:
            due = steps.begin() or due
        self.is_due = due

    def _settle(self) -> None:
        self._where = BETWEEN
        if self.is_due:
            self.is_due = False
            for steps in self._listening:
                steps.settle()

    def _enter(self, _: Optimizer, args: Any, kwargs: Any) -> Any:
        if self._where == BETWEEN:
            self._begin()
        self._where = WITHIN
        if not self.is_due:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._about_to_update()
            return None
        if len(args) > 1:
            return (args[0], self._followed(closure), *args[2:]), kwargs
        return args, {**kwargs, "closure": self._followed(closure)}

    def _followed(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            result = closure()
            self._about_to_update()
            return result

        return run

    def _about_to_update(self) -> None:
        for steps in self._listening:
            steps.about_to_update()

    def _leave(self, *_: Any) -> None:
        self._settle()


_OBSERVERS: WeakKeyDictionary[Optimizer, StepObserver] = WeakKeyDictionary()


class ObservedSteps:
    """Counts the steps of one optimizer for one listener, and tells it of those that are due.

    Args:
        optimizer: The optimizer to follow.
        index: Its place among the trainer's.
        upcoming: The first step from a given one on that is due; steps of this optimizer, 0 the first. It is asked
            after each that was due, so that the others cost a comparison.
        listener: Is told.
        owner: The callback that the listener reads for.
        count: Steps taken before.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        index: int,
        *,
        upcoming: Callable[[int], int],
        listener: StepListener,
        owner: Callback,
        count: int = 0,
    ) -> None:
        self.optimizer = optimizer
        self.index = index
        self.owner = owner
        self.count = count  # steps begun
        self.is_due = False
        self.had_turn = False  # whether Lightning's hook of the owner was called in this step
        self.norms: Tensor | None = None  # of the gradients of this step
        self._upcoming = upcoming
        self._next = upcoming(count)
        self._listener = listener
        self._read = self._read_clipped = False
        self._observer = StepObserver.of(optimizer)
        self._observer.listen(self)

    @property
    def step(self) -> int:
        """Number of the step that is under way, 0 the first."""
        return self.count - 1

    def skip(self, n: int) -> None:
        """Count steps that were taken by somebody who told the listener of those that were due."""
        self.count += n
        self._next = self._upcoming(self.count)

    def detach(self) -> None:
        """Follow no longer."""
        self._observer.leave(self)

    def before_step(self) -> None:
        """Pass on Lightning's `on_before_optimizer_step`."""
        self._observer.before_step(self)

    def settle_skipped(self) -> None:
        """Close a step that a scaler left out."""
        self._observer.settle_skipped()

    # ------------------------------------------------------------------ told by the observer

    def begin(self) -> bool:
        """Count a step; return whether it is due."""
        self.had_turn = False
        if self.count == self._next:
            self.is_due = True
            self._next = self._upcoming(self.count + 1)
        self.count += 1
        return self.is_due

    def read_gradients(self) -> Tensor | None:
        """Have the gradients read, once a step; return their norms."""
        if not self._read:
            self._read = True
            self.norms = self._listener.gradients(self)
        return self.norms

    def read_again(self) -> None:
        """Have the gradients read once more, unless the owner's turn in this step is over."""
        if self.is_due and not self.had_turn:
            self._read, self.norms = False, None

    def about_to_update(self) -> None:
        """Have what the update will use read; LBFGS comes here several times a step."""
        if self.is_due:
            self.read_gradients()  # it may be that Lightning had no say in this step
            if not self._read_clipped:
                self._read_clipped = True
                self._listener.clipped(self)

    def settle(self) -> None:
        """End a step."""
        if self.is_due:
            self.is_due = False
            if self._read:
                self._read = self._read_clipped = False
                self.norms = None
                self._listener.stepped(self)
