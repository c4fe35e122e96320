"""What a search says: a line while it runs, a few when it ends. Standard library only."""

from __future__ import annotations

import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from callbacks._search_results import Progress, TrialRow

EVERY = 10.0  # seconds between two lines where there is no terminal


def setting(params: Mapping[str, Any]) -> str:
    """`lr=0.0123, batch_size=64`."""
    return ", ".join(f"{name}={_number(value)}" for name, value in params.items())


def progress_line(at: Progress, monitor: str) -> str:
    """How far the search is, what is best so far, and how long it will take."""
    said = [f"{at.done}/{at.total} trials"]
    if at.best is not None:
        said.append(f"best {monitor} {at.best.values[0]:.4g} with {setting(at.best.params)}")
    said += [f"{count} {what}" for count, what in ((at.pruned, "pruned"), (at.failed, "failed")) if count]
    if at.left is not None and at.done < at.total:
        said.append(f"{_time(at.left)} left")
    return "search: " + ", ".join(said)


class ProgressLine:
    """Shows the progress: on a terminal in one line that is written over, elsewhere a line now and then.

    Args:
        monitor: Name of the metric.
        stream: Where to; None for standard error.
    """

    def __init__(self, monitor: str, stream: TextIO | None = None) -> None:
        self._monitor = monitor
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._last = time.monotonic()
        self._open = False

    def show(self, at: Progress) -> None:
        """Show it, if it is time."""
        if not self._live and time.monotonic() - self._last < EVERY:
            return
        self._last = time.monotonic()
        line = progress_line(at, self._monitor)
        self._stream.write(f"\r{line}\x1b[K" if self._live else f"{line}\n")
        self._stream.flush()
        self._open = self._live

    def end(self) -> None:
        """Leave the line."""
        if self._open:
            self._stream.write("\n")
            self._open = False


def closing(
    best: TrialRow, rows: Sequence[TrialRow], *, monitor: str, shares: Mapping[str, float], where: str
) -> list[str]:
    """What the search came to.

    Args:
        best: The best trial.
        rows: All trials that count.
        monitor: Name of the metric.
        shares: How much each name mattered, empty if that cannot be said.
        where: Where the study lies.
    """
    states = [row.state for row in rows]
    counts = [
        f"{states.count(state)} {word}"
        for state, word in (("COMPLETE", "complete"), ("PRUNED", "pruned"), ("FAIL", "failed"))
        if states.count(state)
    ]
    lines = [
        f"search: {setting(best.params)} reached {monitor} {best.values[0]:.6g}, the best of {len(rows)} trials "
        f"({', '.join(counts)})."
    ]
    if len(shares) > 1:
        lines.append("  mattered  " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items()))
    if corner := corners(rows):
        lines.append(f"  verdicts  {corner}")
    return [*lines, f"  study     {where}"]


def corners(rows: Sequence[TrialRow]) -> str:
    """Where the verdicts fall: `9 underfit at low lr (0.0001 to 0.002); 3 diverged at high lr (0.4 to 0.9)`.

    Low and high mean that the middle one of them lies in the lowest or highest third of all trials, and none in the
    third at the other end.
    """
    judged = [row for row in rows if row.attrs.get("verdict")]
    said = []
    for verdict in ("underfit", "good", "overfit", "diverged", "unknown"):
        group = [row for row in judged if row.attrs["verdict"] == verdict]
        if group:
            places = [_side(name, group, judged) for name in _numeric(judged)]
            at = " and ".join(place for place in places if place)
            word = "too short to tell" if verdict == "unknown" else verdict
            said.append(f"{len(group)} {word}" + (f" at {at}" if at else ""))
    return "; ".join(said)


def _numeric(rows: Sequence[TrialRow]) -> list[str]:
    names = {name: None for row in rows for name, value in row.params.items() if isinstance(value, int | float)}
    return list(names)


def _side(name: str, group: Sequence[TrialRow], rows: Sequence[TrialRow]) -> str:
    mine = sorted(row.params[name] for row in group if name in row.params)
    everyone = sorted(row.params[name] for row in rows if name in row.params)
    if not mine or len(mine) == len(everyone) or len(set(everyone)) < 3:
        return ""
    first, middle, last = (_rank(value, everyone) for value in (mine[0], mine[len(mine) // 2], mine[-1]))
    low, high = middle < 1 / 3 and last <= 2 / 3, middle > 2 / 3 and first >= 1 / 3
    if not low and not high:
        return ""
    span = _number(mine[0]) if mine[0] == mine[-1] else f"{_number(mine[0])} to {_number(mine[-1])}"
    return f"{'low' if low else 'high'} {name} ({span})"


def _rank(value: Any, values: Sequence[Any]) -> float:
    """The share of values that are lower, equal ones counted by half."""
    return (bisect_left(values, value) + bisect_right(values, value)) / 2 / len(values)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _time(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
