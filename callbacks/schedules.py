"""When to act: a schedule is a function from the number of a step, 0 the first, to whether it is due.

Any function will do (`lambda step: step == 3`); those here are frozen values that can be compared, printed and nested,
and they look at nothing but the step: a resumed run acts where the uninterrupted one would have.
"""

from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int], bool]


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
        _at_least("n", self.n, 0)

    def __call__(self, step: int) -> bool:
        """Whether it is due."""
        return self.n > 0 and step % self.n == 0


@dataclass(frozen=True)
class Spread:
    """Due at first, 2 first, 4 first, 8 first, …: as often in the first thousand steps as in the next million.

    >>> [step for step in range(100) if Spread(10)(step)]
    [10, 20, 40, 80]

    Args:
        first: The first step that is due; 0 for never.

    Raises:
        ValueError: first is below 0.
    """

    first: int

    def __post_init__(self) -> None:
        _at_least("first", self.first, 0)

    def __call__(self, step: int) -> bool:
        """Whether it is due."""
        if not self.first or not step or step % self.first:
            return False
        times = step // self.first
        return times & (times - 1) == 0  # a power of two has one bit


@dataclass(frozen=True)
class EarlyThen:
    """Due at each of the first steps, and as another schedule says from then on.

    >>> [step for step in range(12) if EarlyThen(3, Every(5))(step)]
    [0, 1, 2, 5, 10]

    Args:
        steps: How many steps count as early, at least 0.
        then: The schedule of the others.

    Raises:
        ValueError: steps is below 0.
    """

    steps: int
    then: Schedule

    def __post_init__(self) -> None:
        _at_least("steps", self.steps, 0)

    def __call__(self, step: int) -> bool:
        """Whether it is due."""
        return step < self.steps or self.then(step)


@dataclass(frozen=True)
class Either:
    """Due whenever one of two schedules is.

    >>> [step for step in range(10) if Either(Every(4), Every(6))(step)]
    [0, 4, 6, 8]

    Args:
        one: A schedule.
        other: Another.
    """

    one: Schedule
    other: Schedule

    def __call__(self, step: int) -> bool:
        """Whether it is due."""
        return self.one(step) or self.other(step)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")
