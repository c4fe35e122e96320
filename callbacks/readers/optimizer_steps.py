"""Follow an optimizer through its steps: when its gradients are there, when they are clipped, when it has stepped.

Lightning runs forward, backward, `on_before_optimizer_step` and clipping in a closure within the step; with a gradient
scaler before it, and the scaler may then leave the step out. In manual optimization a raw optimizer may step with no
closure and no Lightning. So the moments come from three sides: torch's hooks around the step, the end of the closure,
and Lightning's hook.
"""

from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from callbacks.host.packages import Callback, is_overridden
from callbacks.readers.pacing import NEVER

NO_HOOKS = "it is no torch.optim.Optimizer with step hooks"
BETWEEN, BEFORE, WITHIN = range(3)  # steps; a step whose gradients are there, before `step` is called; the call


@dataclass(eq=False)
class ObservedSteps:
    """Counts the steps of one optimizer for one reader, from now until it leaves the `observer`.

    The functions are called in the steps that are due. `gradients` returns the norms of all of them, on their device,
    or None if not all were read.
    """

    optimizer: Optimizer
    index: int  # its place among the trainer's
    upcoming: Callable[[int], int]  # the first step from one on that is due; asked after each that was due
    owner: Callback  # for which is read
    gradients: Callable[["ObservedSteps"], Tensor | None]  # they are unscaled, accumulated, and not yet clipped
    clipped: Callable[["ObservedSteps"], None]  # after whatever clips has clipped; the weights are still the old ones
    stepped: Callable[["ObservedSteps"], None]  # the step was taken, or a gradient scaler left it out
    taken: InitVar[int] = 0  # steps before

    def __post_init__(self, taken: int) -> None:
        self.next = self.upcoming(taken)
        self.is_due = False  # whether the step that is under way is
        self.turn = -1  # the observer's count when Lightning last called the owner's hook
        self.read = self.read_clipped = False  # in this step
        self.norms: Tensor | None = None  # of the gradients of this step
        self.observer = StepObserver.of(self.optimizer)
        self.before = taken - self.observer.count  # steps that the observer did not count
        self.observer.listen(self)

    @property
    def count(self) -> int:
        """Steps begun."""
        return self.before + self.observer.count

    @property
    def step(self) -> int:
        """Number of the step that is under way, 0 the first."""
        return self.count - 1

    def skip(self, n: int) -> None:
        """Count steps that were taken by somebody who told the listener of those that were due."""
        self.before += n
        self.next = self.upcoming(self.count)
        self.observer.plan()

    def read_gradients(self) -> None:
        """Have the gradients read, once a step."""
        if not self.read:
            self.read = True
            self.norms = self.gradients(self)


class StepObserver:
    """Observes one optimizer for all callbacks that listen to its steps, with one pair of hooks.

    It is told by Lightning through the callbacks, and by torch; its hooks are gone when the last listener has left.
    A step that nobody reads costs it a comparison, however many listen.
    """

    def __init__(self) -> None:
        self.count = 0  # steps begun while somebody listened
        self.is_due = False  # whether a step is under way that somebody reads
        self._next = NEVER  # the count before the next one
        self._listening: list[ObservedSteps] = []
        self._each: list[Callable[[Optimizer], None]] = []  # called in every step
        self._called = 0  # the count when they last were
        self.where = BETWEEN
        self._hooks: list[RemovableHandle] = []

    @staticmethod
    def of(optimizer: Optimizer) -> "StepObserver":
        """Return the one observer of an optimizer."""
        return _OBSERVERS.setdefault(optimizer, StepObserver())

    @staticmethod
    def follows(optimizer: Any) -> bool:
        """Return whether an optimizer tells of its steps: whoever wraps one need not be one, or make itself one."""
        return hasattr(optimizer, "_optimizer_step_pre_hooks")

    def listen(self, steps: ObservedSteps) -> None:
        """Tell a listener of the steps to come."""
        self._hang(steps.optimizer)
        self._listening.append(steps)
        self.plan()

    def before_each(self, optimizer: Optimizer, call: Callable[[Optimizer], None]) -> None:
        """Call a function in every step, when its gradients are there and before the weights are changed."""
        self._hang(optimizer)
        self._each.append(call)

    def _hang(self, optimizer: Optimizer) -> None:
        if not self._listening and not self._each:
            self.where = BETWEEN
            pre, post = optimizer.register_step_pre_hook, optimizer.register_step_post_hook
            self._hooks = [pre(self._enter), post(self._leave)]

    def leave(self, listener: ObservedSteps | Callable[[Optimizer], None]) -> None:
        """Tell a listener no longer, or a function."""
        self._listening = [each for each in self._listening if each is not listener]
        self._each = [each for each in self._each if each is not listener]
        if not self._listening and not self._each:
            self.is_due = False
            for hook in self._hooks:
                hook.remove()

    # ------------------------------------------------------------------ one reading for several callbacks

    def agrees_with(self, callback: Callback, callbacks: Sequence[Callback]) -> bool:
        """Return whether listeners see the gradients that a callback sees: none between them may change these.

        The callback has no listener of its own here; `callbacks` are the trainer's, as their hooks are called.
        """
        owners = [callback, *(steps.owner for steps in self._listening)]
        places = [i for i, each in enumerate(callbacks) if any(each is owner for owner in owners)]
        between = (callbacks[i] for i in range(min(places, default=0), max(places, default=0)) if i not in places)
        changed = any(is_overridden("on_before_optimizer_step", each) for each in between)
        return bool(self._listening) and not changed

    def norms(self) -> Tensor | None:
        """Return the norms of the gradients of this step if a listener reads them: it reads them now, and not again.

        They are given out once, since LBFGS computes other gradients within the step.
        """
        for steps in self._listening:
            if steps.is_due and self.where == WITHIN:
                steps.read_gradients()
                if steps.norms is not None:
                    norms, steps.norms = steps.norms, None
                    return norms
        return None

    def gradients_changed(self) -> None:
        """Let those listeners read anew whose own turn in this step is still to come."""
        for steps in self._listening:
            if steps.turn != self.count:
                steps.read, steps.norms = False, None

    def before_step(self, steps: ObservedSteps) -> None:
        """Read gradients in Lightning's `on_before_optimizer_step` of the callback that owns these steps."""
        where = self.where
        if where != WITHIN and (where == BETWEEN or steps.turn == self.count):  # a scaler: the step comes later
            self._settle()
            self._begin()
            self.where = BEFORE
        steps.turn = self.count
        if steps.is_due:
            steps.read_gradients()

    def settle_skipped(self) -> None:
        """Close a step that a scaler left out."""
        if self.where != WITHIN:
            self._settle()

    def plan(self) -> None:
        """Find out after how many more steps a listener reads again."""
        self._next = min((each.next - each.before for each in self._listening if each.next != NEVER), default=NEVER)

    def _begin(self) -> None:
        if self.count == self._next:
            for steps in self._listening:
                if steps.count == steps.next:
                    steps.is_due = self.is_due = True
                    steps.next = steps.upcoming(steps.count + 1)
            self.plan()
        self.count += 1

    def _enter(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if self.where == BETWEEN:
            self._begin()
        self.where = WITHIN
        if not self.is_due and not self._each:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._about_to_update(optimizer)
            return None

        def followed() -> Any:
            result = closure()
            self._about_to_update(optimizer)
            return result

        return ((args[0], followed, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": followed})

    def _about_to_update(self, optimizer: Optimizer) -> None:
        if self._called != self.count:  # LBFGS comes here several times a step
            self._called = self.count
            for call in self._each:
                call(optimizer)
        for steps in self._listening:
            if steps.is_due:
                steps.read_gradients()  # it may be that Lightning had no say in this step
                if not steps.read_clipped:
                    steps.read_clipped = True
                    steps.clipped(steps)

    def _leave(self, *_: Any) -> None:
        if self.is_due:
            self._settle()
        else:
            self.where = BETWEEN

    def _settle(self) -> None:
        self.where = BETWEEN
        self.is_due = False
        for steps in self._listening:
            was_read = steps.is_due and steps.read
            steps.is_due = steps.read = steps.read_clipped = False
            steps.norms = None
            if was_read:
                steps.stepped(steps)


_OBSERVERS: WeakKeyDictionary[Optimizer, StepObserver] = WeakKeyDictionary()
