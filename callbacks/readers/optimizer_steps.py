"""Follows one optimizer through its steps: when its gradients are there, when they are clipped, when it has stepped."""

from collections.abc import Callable
from typing import Any, Protocol

from torch.optim import Optimizer

BETWEEN, BEFORE, WITHIN = range(3)  # steps; a step whose gradients are there, before `step` is called; the call


class StepObserver(Protocol):
    """Looks at the steps that are due."""

    def gradients(self, watch: "StepWatch") -> None:
        """The gradients are there, unscaled and accumulated; nothing has clipped them yet."""

    def clipped(self, watch: "StepWatch") -> None:
        """Whatever clips has clipped; the weights are still the old ones."""

    def stepped(self, watch: "StepWatch") -> None:
        """The step was taken, or a gradient scaler left it out."""


class StepWatch:
    """Tells a witness of the steps of one optimizer that are due, whoever calls `step`, and how.

    Lightning runs forward, backward, `on_before_optimizer_step` and clipping in a closure within the step; with a
    gradient scaler before it, and the scaler may then leave the step out. In manual optimization a raw optimizer may
    step with no closure and no Lightning. So the moments come from three sides: torch's hooks around the step, the
    end of the closure, and Lightning's hook.

    Args:
        optimizer: Whom to follow.
        index: Its place among the trainer's.
        upcoming: The first step from a given one on that is due; steps of this optimizer, 0 the first. It is asked
            after each that was due, so that the others cost a comparison.
        witness: Whom to tell.
        count: Steps it has taken before.
    """

    def __init__(
        self, optimizer: Optimizer, index: int, *, upcoming: Callable[[int], int], witness: StepObserver, count: int = 0
    ) -> None:
        self.optimizer = optimizer
        self.index = index
        self.count = count  # steps begun
        self._upcoming = upcoming
        self._next = upcoming(count)
        self._witness = witness
        self._where = BETWEEN
        self._is_due = self._read = self._read_clipped = False
        self._handles = [optimizer.register_step_pre_hook(self._enter), optimizer.register_step_post_hook(self._leave)]

    @property
    def step(self) -> int:
        """Number of the step it is in, 0 the first."""
        return self.count - 1

    def skip(self, n: int) -> None:
        """Count steps that were taken by somebody who told the witness of those that were due."""
        self.count += n
        self._next = self._upcoming(self.count)

    def detach(self) -> None:
        """Follow no longer."""
        for handle in self._handles:
            handle.remove()

    def before_step(self) -> None:
        """Lightning's `on_before_optimizer_step`."""
        if self._where != WITHIN:  # there is a scaler: the step comes later
            self._settle()
            self._begin()
            self._where = BEFORE
        if self._is_due and not self._read:
            self._read = True
            self._witness.gradients(self)

    def settle_skipped(self) -> None:
        """Close a step that a scaler left out."""
        if self._where != WITHIN:
            self._settle()

    def _settle(self) -> None:
        self._where = BETWEEN
        if self._is_due:
            self._is_due = False
            if self._read:
                self._read = self._read_clipped = False
                self._witness.stepped(self)

    def _begin(self) -> None:
        if self.count == self._next:
            self._is_due = True
            self._next = self._upcoming(self.count + 1)
        self.count += 1

    def _enter(self, _: Optimizer, args: Any, kwargs: Any) -> Any:
        if self._where == BETWEEN:
            self._begin()
        self._where = WITHIN
        if not self._is_due:
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
        if not self._read:  # Lightning had no say in this step
            self._read = True
            self._witness.gradients(self)
        if not self._read_clipped:  # LBFGS comes here several times a step
            self._read_clipped = True
            self._witness.clipped(self)

    def _leave(self, *_: Any) -> None:
        if self._is_due:
            self._settle()
        else:
            self._where = BETWEEN
