"""How often work that costs time may be done: as often as it takes no more than a share of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic


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
        """Do it."""
        began = monotonic()
        try:
            yield
        finally:
            ended = monotonic()
            self._next = ended + (ended - began) / self.share
