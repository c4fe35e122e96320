"""The last word of a study: the best trials, what mattered, and where the verdicts fall."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

from callbacks.search import TrialRow
from lightning_mods.study_names import short_names, shown

_FEWEST = 3  # trials of a verdict before it is said where they lie
_CORNER = 0.25  # how far from the middle of all trials, as a share of the range, the middle of a verdict's must lie


@dataclass(frozen=True)
class Report:
    """What became of a study, as text.

    Args:
        name: The study's name.
        metrics: Names of the objectives.
        names: What was searched.
        best: The best trials, best first; with several metrics the Pareto front.
        rows: All trials that count.
        importances: Name to its share in the spread of the (first) objective, largest first.
    """

    name: str
    metrics: Sequence[str]
    names: Sequence[str]
    best: Sequence[TrialRow]
    rows: Sequence[TrialRow]
    importances: Mapping[str, float]

    def __str__(self) -> str:
        """The text, several paragraphs."""
        parts = [self._head(), self._table(), self._mattered(), self._verdicts(), self._failures()]
        return "\n\n".join(part for part in parts if part)

    def _head(self) -> str:
        states = [row.state for row in self.rows]
        epochs = sum(int(row.attrs.get("epochs", 0)) for row in self.rows)
        counts = [
            f"{states.count(state)} {word}"
            for state, word in (("COMPLETE", "complete"), ("PRUNED", "pruned"), ("FAIL", "failed"))
            if states.count(state)
        ]
        pareto = ", a Pareto front" if len(self.metrics) > 1 else ""
        of = f"{_count(len(states), 'trial')} ({', '.join(counts)}), {_count(epochs, 'epoch')}"
        return f"study {self.name}: {of}{pareto}"

    def _table(self) -> str:
        if not self.best:
            return "No trial came to a value."
        short = short_names(self.names)
        head = ["trial", *self.metrics, *short.values(), "verdict", "best epoch", "seconds"]
        rows = [head]
        for row in self.best:
            values = [shown(row.params[name]) if name in row.params else "–" for name in short]
            seconds = "–" if row.seconds is None else f"{row.seconds:.1f}"
            verdict, epoch = str(row.attrs.get("verdict", "–")), str(row.attrs.get("best_epoch", "–"))
            rows.append([str(row.number), *(f"{v:.6g}" for v in row.values), *values, verdict, epoch, seconds])
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def _mattered(self) -> str:
        if not self.importances:
            return ""
        short = short_names(self.names)
        shares = ", ".join(f"{short[name]} {100 * share:.0f} %" for name, share in self.importances.items())
        of = f" for {self.metrics[0]}" if len(self.metrics) > 1 else ""
        return f"What mattered{of}: {shares}"

    def _verdicts(self) -> str:
        found: dict[str, list[TrialRow]] = {}
        for row in self.rows:
            if "verdict" in row.attrs:
                found.setdefault(str(row.attrs["verdict"]), []).append(row)
        lines = [
            f"  {verdict:<9} {_count(len(rows), 'trial'):>10}{self._corner(rows)}"
            for verdict, rows in sorted(found.items(), key=lambda item: -len(item[1]))
        ]
        return "\n".join(["Where the verdicts fall:", *lines]) if lines else ""

    def _corner(self, rows: Sequence[TrialRow]) -> str:
        """In which part of the space some trials lie, compared with all of them."""
        if len(rows) < _FEWEST or len(rows) == len(self.rows):
            return ""
        short = short_names(self.names)
        words = [
            f"{word} {short[name]} ({_span([row.params[name] for row in rows if name in row.params])})"
            for name in self.names
            if (word := self._side(name, rows))
        ]
        return f"  at {' and '.join(words)}" if words else "  all over"

    def _side(self, name: str, rows: Sequence[TrialRow]) -> str:
        all_of = _positions([row.params.get(name) for row in self.rows])
        if not all_of:
            return ""
        low, high = min(all_of.values()), max(all_of.values())
        if low == high:
            return ""
        middle = statistics.median(all_of[row.params[name]] for row in rows if name in row.params)
        apart = (middle - statistics.median(all_of[row.params[name]] for row in self.rows if name in row.params)) / (
            high - low
        )
        return "high" if apart > _CORNER else "low" if apart < -_CORNER else ""

    def _failures(self) -> str:
        failed: dict[str, int] = {}
        for row in self.rows:
            if row.state == "FAIL":
                failed[row.reason or "its process was killed too often"] = failed.get(row.reason, 0) + 1
        return "\n".join(f"failed: {reason} ({_count(count, 'trial')})" for reason, count in failed.items())


def _positions(values: Sequence[object]) -> dict[object, float]:
    """Numbers on a line, by their logarithms where they span more than a decade; nothing for what is no number."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len([value for value in values if value is not None]) or not numbers:
        return {}
    if min(numbers) > 0 and max(numbers) / min(numbers) > 10:
        return {value: log(value) for value in numbers}
    return {value: float(value) for value in numbers}


def _span(values: Sequence[object]) -> str:
    numbers = sorted(value for value in values if isinstance(value, int | float))
    low, high = f"{numbers[0]:.2g}", f"{numbers[-1]:.2g}"
    if all(isinstance(value, int) for value in numbers):
        low, high = str(numbers[0]), str(numbers[-1])
    return low if low == high else f"{low} to {high}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
