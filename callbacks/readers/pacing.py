"""Say when work is due: at every n-th step, or as often as it takes no more than a share of the time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

NEVER = -1


@dataclass(frozen=True)
class Every:
    """Due at 0, n, 2n, …

    >>> [step for step in range(10) if Every(4)(step)]
    [0, 4, 8]

    Raises:
        ValueError: n is below 0.
    """

    n: int  # steps from one to the next; 0 for never

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError(f"n must be at least 0, not {self.n}.")

    def __call__(self, step: int) -> bool:
        """Return whether a step is due."""
        return self.n > 0 and step % self.n == 0

    def upcoming(self, step: int) -> int:
        """Return the first step from this one on that is due, or `NEVER`."""
        return -(-step // self.n) * self.n if self.n else NEVER


@dataclass(frozen=True)
class AnyOf:
    """Due whenever one of several is.

    >>> [step for step in range(10) if AnyOf((Every(4), Every(6)))(step)]
    [0, 4, 6, 8]
    """

    schedules: tuple["Every | AnyOf", ...]

    def __call__(self, step: int) -> bool:
        """Return whether one of the schedules is due."""
        return any(schedule(step) for schedule in self.schedules)

    def upcoming(self, step: int) -> int:
        """Return the first step from this one on at which one of the schedules is due, or `NEVER`."""
        return min((due for each in self.schedules if (due := each.upcoming(step)) != NEVER), default=NEVER)


class SpareTime:
    """Spaces work out by what it cost the last time.

    Args:
        share: Of the time that passes, in (0, 1], that the work may take.
        guess: Seconds that it is thought to take before it was ever done; 0 lets it be done at once.
    """

    def __init__(self, share: float, guess: float = 0.0) -> None:
        self.share = share
        self.guess = guess
        self._next = monotonic() + guess / share

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since it was last done."""
        return monotonic() >= self._next

    @contextmanager
    def work(self) -> Iterator[None]:
        """Time the work that is done in this context."""
        began = monotonic()
        try:
            yield
        finally:
            ended = monotonic()
            self._next = ended + (ended - began) / self.share
