"""What a table to predict holds that training rows did not: names never seen, numbers far outside, columns missing."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.cells import as_labels
from datamodules.columns.encoding import CategoryColumn, InfinityCount, NumericColumn
from datamodules.errors import shortened

_MANY_ROWS = 400  # of which a spread of less than ten deviations says that the column has no heavy tail
_BY_CHANCE = 0.01  # how likely as many cells beyond all training rows may be, were they drawn alike, to be told
_LINES = 5  # told at most
_SIGMAS = 4.0  # above the share of rare names that rows like those of training have


@dataclass
class _Far:
    column: NumericColumn
    low: int = 0  # cells below the smallest of the training rows by more than their range
    high: int = 0
    example: float = 0.0


@dataclass
class _New:
    column: CategoryColumn
    cells: int = 0
    example: str = ""


@dataclass
class UnusualCells(InfinityCount):
    """Counts also, while a table is encoded, what the training rows did not have.

    A number is far outside if it is beyond their smallest or largest by more than the range between these. In a column
    with a heavy tail that happens to healthy rows as well, so there it is told where it would be rare by chance.
    """

    n_train: int = 0  # training rows
    lacking: tuple[str, ...] = ()  # columns that the table has not
    rows: int = 0
    _far: dict[str, _Far] = field(default_factory=dict)
    _new: dict[str, _New] = field(default_factory=dict)

    def add(self, column: NumericColumn, values: NDArray[np.float64], start: int) -> None:
        """Count infinities, and numbers that are far outside."""
        super().add(column, values, start)
        if column.low is None or column.high is None:
            return
        span = column.high - column.low
        low, high = values < column.low - span, values > column.high + span
        if low.any() or high.any():
            found = self._far.setdefault(column.name, _Far(column, example=float(values[low | high][0])))
            found.low += int(low.sum())
            found.high += int(high.sum())

    def add_codes(self, column: CategoryColumn, codes: NDArray[np.int64], array: Any) -> None:
        """Count names that are none of the column's categories."""
        unknown = np.flatnonzero(codes == column.unknown_code)
        if len(unknown):
            first = as_labels(array.slice(int(unknown[0]), 1)).names[0]
            found = self._new.setdefault(column.name, _New(column, example=first))
            found.cells += len(unknown)

    def lines(self) -> list[str]:
        """Return what was found, a line each, those of most cells first; none about a table like the training rows."""
        told = sorted([*self._told()], key=lambda each: -each[0])
        lines = [line for _, line in told[:_LINES]]
        if rest := len(told) - len(lines):
            lines[-1] += f"; {rest} more column{'s' * (rest > 1)} have unusual cells"
        return [*self._about_lacking(), *lines]

    def _about_lacking(self) -> Iterator[str]:
        if self.lacking:
            several = len(self.lacking) > 1
            names = f"column{'s' * several} {shortened(map(repr, self.lacking))}, used in training,"
            yield f"the {names} {'are' if several else 'is'} not there: missing in all {self.rows:,} rows"

    def _told(self) -> Iterator[tuple[int, str]]:
        # cells, and what is said of them
        for far in self._far.values():
            if self._is_odd(far):
                n, c = far.low + far.high, far.column
                range_ = f"{c.low:.6g} to {c.high:.6g}"
                yield n, f"{self._share(c.name, n, 'lie')} far outside those of training ({range_}): {far.example:.6g}"
        for new in self._new.values():
            n, name, example = new.cells, new.column.name, f"such as {shortened([repr(new.example)])}"
            if not new.column.infrequent:
                yield n, f"{self._share(name, n, 'hold')} names that training never saw, {example}"
            elif self._is_often(n, new.column.rare):
                usual = f"of rows like those of training {new.column.rare:.1%} would"
                yield n, f"{self._share(name, n, 'hold')} names that training saw rarely or never, {example}; {usual}"

    def _share(self, name: str, n: int, verb: str) -> str:
        return f"{shortened([name])}: {n:,} of {self.rows:,} cells {verb if n > 1 else verb + 's'}"

    def _is_odd(self, far: _Far) -> bool:
        c = far.column
        assert c.low is not None
        assert c.high is not None
        has_no_tail = c.scale > (c.high / 10 - c.low / 10) * (1 + 1e-9) and self.n_train >= _MANY_ROWS
        return has_no_tail or min(self._by_chance(far.low), self._by_chance(far.high)) < _BY_CHANCE

    def _by_chance(self, n: int) -> float:
        """How likely it is that n of these rows lie beyond all training rows on one side, if all were drawn alike.

        That is the chance that the n most extreme of all are among these, whatever the distribution.
        """
        rows, both = self.rows, self.rows + self.n_train
        logarithm = math.lgamma(rows + 1) - math.lgamma(rows - n + 1)
        return math.exp(logarithm - math.lgamma(both + 1) + math.lgamma(both - n + 1))

    def _is_often(self, n: int, share: float) -> bool:
        usual = share * self.rows
        return bool(share) and n > 2 * usual and n - usual > _SIGMAS * math.sqrt(usual * (1 - share))
