"""When to act: a schedule is a function from the number of a step, 0 the first, to whether it is due.

Those here are frozen values that can be compared, printed and nested, and they look at nothing but the step: a resumed
run acts where the uninterrupted one would have. They also say which step is due next, so that whoever is called at
every step has one comparison to make.
"""

from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int], bool]
NEVER = -1


@dataclass(frozen=True)
class Every:
    """Due at 0, n, 2n, …

    >>> [step for step in range(10) if Every(4)(step)]
    [0, 4, 8]

    Args:
        n: Steps from one to the next; 0 for never.

    Raises:
        ValueError: n is below 0.
    """

    n: int

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError(f"n must be at least 0, not {self.n}.")

    def __call__(self, step: int) -> bool:
        """Whether it is due."""
        return self.n > 0 and step % self.n == 0

    def upcoming(self, step: int) -> int:
        """The first step from this one on that is due, or `NEVER`."""
        return -(-step // self.n) * self.n if self.n else NEVER


@dataclass(frozen=True)
class AnyOf:
    """Due whenever one of several is.

    >>> [step for step in range(10) if AnyOf((Every(4), Every(6)))(step)]
    [0, 4, 6, 8]

    Args:
        schedules: The several.
    """

    schedules: tuple["Every | AnyOf", ...]

    def __call__(self, step: int) -> bool:
        """Whether one of them is due."""
        return any(schedule(step) for schedule in self.schedules)

    def upcoming(self, step: int) -> int:
        """The first step from this one on at which one of them is due, or `NEVER`."""
        return min((due for each in self.schedules if (due := each.upcoming(step)) != NEVER), default=NEVER)
