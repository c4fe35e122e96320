"""Keep the history of gradient norms by layer in bounded memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

COLUMNS = 128  # when there are more, neighbours are merged
ROWS = 200  # more layers a picture cannot tell apart


@dataclass
class Column:
    """A stretch of time."""

    first: int  # the first step in it
    last: int  # the last one
    total: list[float]  # sum of the finite norms, a layer each
    count: list[int]  # how many they were
    broken: list[int]  # how many norms were not finite
    taken: int  # moments in it


@dataclass
class GradientFlow:
    """Gradient norm of each layer over time. The longer the run, the longer the stretch that one column stands for."""

    layers: list[str]  # names of the layers, the input's first; of more than 200 an even choice is kept
    columns: list[Column] = field(default_factory=list)  # at most 128, oldest first
    width: int = 1  # moments in a column
    of: int = 0  # how many layers there are in truth; 0 for as many as are named

    def __post_init__(self) -> None:
        self.of = self.of or len(self.layers)
        if len(self.layers) > ROWS:
            self.layers = [self.layers[i * len(self.layers) // ROWS] for i in range(ROWS)]
        self._rows = {name: row for row, name in enumerate(self.layers)}

    def add(self, step: int, norms: Mapping[str, float]) -> None:
        """Add the norms of the layers that had a gradient; a layer not known yet is put last."""
        for name in norms:
            if name not in self._rows and len(self.layers) < ROWS and self.of <= ROWS:
                self._append(name)
        column = self._open(step, [self._rows[name] for name in norms if name in self._rows])
        column.last = step
        for name, norm in norms.items():
            row = self._rows.get(name)
            if row is None:
                continue
            if isfinite(norm):
                column.total[row] += norm
                column.count[row] += 1
            else:
                column.broken[row] += 1

    def means(self) -> list[list[float | None]]:
        """Return the mean norm by layer and column; None where there was no gradient, NaN where one was not finite."""
        return [[_mean(column, row) for column in self.columns] for row in range(len(self.layers))]

    def arrange(self, names: Sequence[str]) -> None:
        """Put the layers into the order of `names`; those that are not among them come last."""
        rank = {name: position for position, name in enumerate(names)}
        order = sorted(range(len(self.layers)), key=lambda row: rank.get(self.layers[row], len(rank)))
        self.layers = [self.layers[row] for row in order]
        self._rows = {name: row for row, name in enumerate(self.layers)}
        for column in self.columns:
            column.total = [column.total[row] for row in order]
            column.count = [column.count[row] for row in order]
            column.broken = [column.broken[row] for row in order]

    def state(self) -> dict[str, Any]:
        """Return the history as plain numbers and lists."""
        columns = [[c.first, c.last, c.total, c.count, c.broken, c.taken] for c in self.columns]
        return {"layers": list(self.layers), "columns": columns, "width": self.width, "of": self.of}

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> "GradientFlow":
        """Return the history that a state was made of; what is none raises a ValueError or TypeError."""
        columns = [
            Column(int(a), int(b), [*map(float, sums)], [*map(int, n)], [*map(int, bad)], int(c))
            for a, b, sums, n, bad, c in state["columns"]
        ]
        layers = [*map(str, state["layers"])]
        sizes = {len(row) for c in columns for row in (c.total, c.count, c.broken)}
        if sizes - {len(layers)} or len(set(layers)) < len(layers) or len(columns) > COLUMNS or state["width"] < 1:
            raise ValueError("a history of gradient flow has a column for each layer, and all of one length")
        return cls(layers, columns, int(state["width"]), int(state["of"]))

    def _append(self, name: str) -> None:
        self._rows[name] = len(self.layers)
        self.layers.append(name)
        self.of += 1
        for column in self.columns:
            column.total.append(0.0)
            column.count.append(0)
            column.broken.append(0)

    def _open(self, step: int, rows: Sequence[int]) -> Column:
        # The last one while it has room, or while another optimizer's layers fill it.
        last = self.columns[-1] if self.columns else None
        if last is not None and last.taken <= self.width and not any(last.count[r] + last.broken[r] for r in rows):
            last.taken = max(last.taken, 1)
            return last
        if last is not None and last.taken < self.width:
            last.taken += 1
            return last
        if len(self.columns) >= COLUMNS:
            self._merge()
            return self._open(step, rows)
        size = len(self.layers)
        self.columns.append(Column(step, step, [0.0] * size, [0] * size, [0] * size, 1))
        return self.columns[-1]

    def _merge(self) -> None:
        self.columns = [_joined(*pair) for pair in zip(self.columns[::2], self.columns[1::2], strict=True)]
        self.width *= 2


def _joined(one: Column, other: Column) -> Column:
    total = [a + b for a, b in zip(one.total, other.total, strict=True)]
    count = [a + b for a, b in zip(one.count, other.count, strict=True)]
    broken = [a + b for a, b in zip(one.broken, other.broken, strict=True)]
    return Column(one.first, other.last, total, count, broken, one.taken + other.taken)


def _mean(column: Column, row: int) -> float | None:
    if column.broken[row]:
        return float("nan")
    return column.total[row] / column.count[row] if column.count[row] else None
