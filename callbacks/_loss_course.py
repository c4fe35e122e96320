"""The course of a loss over a run of any length, in bounded memory."""

from collections.abc import Iterable
from math import isfinite, sqrt
from statistics import fmean
from typing import Any

FIRST = 8  # losses kept as they came
BLOCKS = 64  # means kept at most; then neighbours are joined

STILL = 0.05  # of the loss


class LossCourse:
    """Keeps the first losses, and the mean and the peak of blocks of equal length over the whole run.

    A loss that is NaN or infinite is counted and kept out of the means.
    """

    def __init__(self) -> None:
        self.first: list[float] = []
        self.means: list[float] = []
        self.count = 0
        self.peak = float("-inf")
        self.last = float("nan")
        self._size = 1
        self._open: list[float] = []

    def add(self, loss: float) -> None:
        """Take in the loss of one batch."""
        self.extend([loss])

    def extend(self, losses: Iterable[float]) -> list[float]:
        """Take in the losses of some batches, in their order; return those that are finite."""
        finite = [loss for loss in losses if isfinite(loss)]
        if not finite:
            return finite
        self.count += len(finite)
        self.last = finite[-1]
        self.peak = max(self.peak, *finite)
        self.first += finite[: FIRST - len(self.first)]
        self._open += finite
        while len(self._open) >= self._size:
            self.means.append(sum(self._open[: self._size]) / self._size)
            del self._open[: self._size]
            if len(self.means) > BLOCKS:
                self.means = [(a + b) / 2 for a, b in zip(self.means[::2], self.means[1::2], strict=False)]
                self._size *= 2
        return finite

    @property
    def start(self) -> float:
        """The loss of the first batch; NaN before it."""
        return self.first[0] if self.first else float("nan")

    @property
    def recent(self) -> float:
        """The mean over the last eighth of the run, at least two blocks; NaN before the first."""
        tail = self.means[-max(2, len(self.means) // 8) :]
        return fmean(tail) if tail else float("nan")

    @property
    def floor(self) -> float:
        """The lowest of the last eighth of the means, at least four: one batch of a single row lifts no floor."""
        return min(self.means[-max(4, len(self.means) // 8) :], default=float("nan"))

    @property
    def stands_still(self) -> bool:
        """Whether the last quarter lies within 5 % of the first, or within twice what chance makes of such means."""
        quarter = len(self.means) // 4
        if quarter < 2:
            return False
        first, last = self.means[:quarter], self.means[-quarter:]
        here, there = fmean(first), fmean(last)
        squares = sum((v - here) ** 2 for v in first) + sum((v - there) ** 2 for v in last)
        chance = 2 * sqrt(squares / (quarter * (quarter - 1)))
        return abs(here - there) < max(STILL * abs(here), chance)

    def state(self) -> dict[str, Any]:
        """The course as plain data."""
        return {
            "first": list(self.first),
            "means": list(self.means),
            "count": self.count,
            "peak": self.peak,
            "last": self.last,
            "size": self._size,
            "open": list(self._open),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on with a course that was kept."""
        self.first, self.means, self.count = list(state["first"]), list(state["means"]), state["count"]
        self.peak, self.last = state["peak"], state["last"]
        self._size, self._open = state["size"], list(state["open"])
