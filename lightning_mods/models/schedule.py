"""`CosineSchedule`: the learning rate falls to zero along half a cosine, step by step."""

import math
from collections.abc import Callable
from typing import Any, Protocol

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def cosine(progress: float) -> float:
    """Return half a cosine, which falls from 1 to 0 as the progress goes from 0 to 1 and no further."""
    return (1.0 + math.cos(math.pi * min(1.0, progress))) / 2.0


class CosineSchedule(LRScheduler):
    """Multiplies the learning rate with `cosine(progress)`, where progress goes from 0 to 1.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts. Unlike in torch's `CosineAnnealingLR`, a
    rate is a function of the step alone, and what is left may be stretched or shortened where a limit of time decides
    when training ends.

    Args:
        optimizer: Whose rates it sets.
        steps: After how many steps the rate is zero, above 0; infinity, until there is a plan, keeps it as it is.

    Attributes:
        since: Where the present pace began: the step, and the progress made until then.
        left: Steps from there to the end.
    """

    def __init__(self, optimizer: Optimizer, steps: float = math.inf) -> None:
        self.since: tuple[int, float] = (0, 0.0)
        self.left = steps
        super().__init__(optimizer)

    def plan(self, steps: float) -> None:
        """Say after how many steps in all the rate is zero, unless a limit of time has said it already."""
        if self.since == (0, 0.0):
            self.left = steps
            self._last_lr = [*self.get_lr()]
            for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
                group["lr"] = rate

    def progress(self, step: int) -> float:
        """Return the share of the schedule that is done before a step is taken; step 0 is the first."""
        begun, done = self.since
        return done + (1.0 - done) * (step - begun) / self.left

    def rates(self, step: int) -> list[float]:
        """Return the rates of a step, one for each group of parameters."""
        return [float(rate) * cosine(self.progress(step)) for rate in self.base_lrs]

    def get_lr(self) -> list[float]:  # type: ignore[override]  # torch says `float | Tensor`
        """Return the rates of the coming step."""
        return self.rates(self.last_epoch)

    def go_on(self, progress: float, left: float) -> None:
        """Go on from another progress, so that the rate is zero after so many further steps."""
        self.since, self.left = (self.last_epoch, progress), left

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain numbers."""
        return {**super().state_dict(), "since": list(self.since)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state."""
        step, done = state_dict["since"]
        super().load_state_dict({**state_dict, "since": (step, done)})


class Clock(Protocol):
    """What is needed of Lightning's `Timer`."""

    def time_elapsed(self) -> float:
        """Return the seconds of training so far."""

    def time_remaining(self) -> float | None:
        """Return the seconds left; None without a limit."""


class TimeLimit:
    """Lets a schedule end when the time does, if that is before its last step; training begins now."""

    def __init__(self, schedule: CosineSchedule, clock: Clock) -> None:
        self._schedule, self._clock = schedule, clock
        self._steps = schedule.since[0] + schedule.left
        self._begun = clock.time_elapsed(), schedule.last_epoch

    def keep(self, agree: Callable[[tuple[float, float]], tuple[float, float]]) -> None:
        """Look at the clock: the progress is the share of the time that is over, or of the steps if that is more.

        Ranks, whose clocks differ, `agree` on one plan: the one of the first.
        """
        elapsed, left, step = self._clock.time_elapsed(), self._clock.time_remaining(), self._schedule.last_epoch
        taken = step - self._begun[1]
        if left is None or taken < 1:
            return
        left = max(left, 0.0)
        possible = left * taken / max(elapsed - self._begun[0], 1e-9)
        progress = max(elapsed / max(elapsed + left, 1e-9), step / self._steps)
        self._schedule.go_on(*agree((min(1.0, progress), max(1.0, min(possible, self._steps - step)))))
