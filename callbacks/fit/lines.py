"""Decides which verdicts are said while a fit runs."""

from typing import Any

from callbacks.diagnosis.verdict import Fit

# A verdict is said when it was found so often in a row, over such a share of the epochs so far; so many lines a run.
HOLDS, SHARE, MOST_LINES = 3, 0.1, 3


class LiveLines:
    """Decides which verdicts are said on the way: what holds and was not said last, a few in a run."""

    def __init__(self) -> None:
        self._held, self._since, self._times = "", 0, 0  # the latest verdict, its first epoch, how often in a row
        self._said, self._lines = str(Fit.UNKNOWN), 0

    def is_new(self, verdict: str, epoch: int) -> bool:
        """Take a verdict; tell whether it is to be said."""
        if verdict != self._held:
            self._held, self._since, self._times = verdict, epoch, 0
        self._times += 1
        holds = self._times >= HOLDS and epoch - self._since >= SHARE * epoch
        if not holds or verdict == self._said or self._lines >= MOST_LINES:
            return False
        self._said, self._lines = verdict, self._lines + 1
        return True

    def state(self) -> list[Any]:
        """Return everything as plain values."""
        return [self._held, self._since, self._times, self._said, self._lines]

    def load(self, state: list[Any]) -> None:
        """Go on from a state."""
        self._held, self._since, self._times, self._said, self._lines = state
