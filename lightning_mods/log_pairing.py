"""Pairing: a log's scattered rows as curves of one value an epoch, training and validation side by side.

The training loss of an epoch is the mean of its rows, the validation loss and the metric its last. Where epochs
cannot be told apart, or are fractions, or too few are left, an evaluation takes the place of an epoch. Rows may
come in any order; of rows written twice the later wins. NaN counts where an epoch holds nothing else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import ceil, isfinite
from statistics import fmean
from typing import Any

from callbacks.diagnosis import FEWEST
from lightning_mods.log_columns import Columns
from lightning_mods.log_table import Cell, Table

_WIDEST = 20  # points there may be for each epoch that was logged; beyond it the numbers are no epochs in a row


@dataclass(frozen=True)
class Curves:
    """The curves, of one length.

    Attributes:
        train: training loss; empty where none is logged.
        val: validation loss.
        metric: the metric, None where none is taken.
        places: what the log itself calls each point: its epoch, its step, or None.
        unit: what a point is: "epoch", "evaluation" or "row".
    """

    train: list[Cell]
    val: list[Cell]
    metric: list[Cell] | None
    places: list[Cell]
    unit: str


@dataclass(frozen=True)
class _Entry:
    order: int
    epoch: Cell
    step: Cell
    value: float


def pair(table: Table, columns: Columns) -> Curves:
    """Pair the chosen columns of a table."""
    epochs = _epochs(table, columns)
    train, val = _entries(table, columns, columns.train, epochs), _entries(table, columns, columns.val, epochs)
    metric = _entries(table, columns, (columns.metric,) if columns.metric else (), epochs)
    whole = all(entry.epoch is not None and entry.epoch.is_integer() for entry in train + val)
    if whole and train + val:
        curves = _by_epoch(train, val, metric)
        evaluated = sum(value is not None for value in curves.val)
        if not val or evaluated >= FEWEST or len(val) <= evaluated:
            return curves
    fractions = not whole and all(entry.epoch is not None for entry in train + val)
    return _by_evaluation(train, val, metric, fractions)


def _epochs(table: Table, columns: Columns) -> list[Cell]:
    """The epoch of every row; of a row without one, that of the next row with one, or else of the last.

    Where only the training rows lie within epochs (Hugging Face), they belong to the epoch that they end in.
    """
    if columns.epoch is None:
        return [None] * table.length
    epochs = [value if value is not None and isfinite(value) else None for value in table.columns[columns.epoch]]
    following: Cell = next((value for value in reversed(epochs) if value is not None), None)
    for row in reversed(range(len(epochs))):
        following = epochs[row] = following if epochs[row] is None else epochs[row]
    evaluated = [epochs[row] for row in range(len(epochs)) if any(_has(table, name, row) for name in columns.val)]
    if evaluated and all(epoch is not None and epoch.is_integer() for epoch in evaluated):
        return [None if epoch is None else float(ceil(epoch)) for epoch in epochs]
    return epochs


def _has(table: Table, name: str, row: int) -> bool:
    return table.columns[name][row] is not None


def _entries(table: Table, columns: Columns, names: Iterable[str], epochs: list[Cell]) -> list[_Entry]:
    """The cells that hold a number, several columns summed; a hole written as NaN between numbers is left out."""
    parts = [table.columns[name] for name in names]
    steps = table.columns[columns.step] if columns.step else [None] * table.length
    found = []
    for row, cells in enumerate(zip(*parts, strict=True)):
        given = [cell for cell in cells if cell is not None]
        if cells and len(given) == len(cells):
            found.append(_Entry(row, epochs[row], steps[row], sum(given)))
    last = max((i for i, entry in enumerate(found) if entry.value == entry.value), default=-1)
    return [entry for i, entry in enumerate(found) if i > last or entry.value == entry.value]


def _by_epoch(train: list[_Entry], val: list[_Entry], metric: list[_Entry]) -> Curves:
    trained = {epoch: _mean(rows) for epoch, rows in _grouped(train).items()}
    evaluated = {epoch: _last(rows) for epoch, rows in _grouped(val).items()}
    measured = {epoch: _last(rows) for epoch, rows in _grouped(metric).items()}
    logged = sorted({*trained, *evaluated})
    first, last = int(logged[0]), int(logged[-1])
    if last - first < _WIDEST * len(logged):
        logged = [float(epoch) for epoch in range(first, last + 1)]
    return Curves(
        train=[trained.get(epoch) for epoch in logged] if train else [],
        val=[evaluated.get(epoch) for epoch in logged],
        metric=[measured.get(epoch) for epoch in logged] if metric else None,
        places=list(logged),
        unit="epoch",
    )


def _grouped(entries: list[_Entry]) -> dict[float, list[float]]:
    """The values of each epoch in the order of their steps.

    A log that was started again goes back a few times, one out of order nearly every row: the first is read run
    by run, so that a later run's epoch replaces an earlier one's, the second is sorted.
    """
    steps = [entry.step for entry in entries]
    back = sum(b is not None and a is not None and b < a for a, b in pairwise(steps))
    if None in steps or 4 * back < len(entries):
        blocks = {epoch: list(rows) for epoch, rows in groupby(entries, key=lambda entry: entry.epoch)}
    else:
        blocks = {}
        for entry in entries:
            blocks.setdefault(entry.epoch, []).append(entry)
    return {
        epoch: [entry.value for entry in _unrepeated(rows, lambda entry: entry.step)]
        for epoch, rows in blocks.items()
        if epoch is not None
    }


def _unrepeated(entries: list[_Entry], place: Callable[[_Entry], Any]) -> list[_Entry]:
    """In the order of their places, the later of two at one place; as they are where a place is missing."""
    if any(place(entry) is None for entry in entries):
        return entries
    last = {place(entry): entry for entry in entries}
    return [last[key] for key in sorted(last)]


def _by_evaluation(train: list[_Entry], val: list[_Entry], metric: list[_Entry], fractions: bool) -> Curves:
    """A point an evaluation, with the training rows since the one before.

    Args:
        train: Rows of the training loss.
        val: Rows of the validation loss.
        metric: Rows of the metric.
        fractions: Whether epochs tell more than their number, so that they do without steps.
    """
    placed = fractions or all(entry.step is not None for entry in train + val)

    def place(entry: _Entry) -> tuple[float, float]:
        return (entry.epoch or 0.0, entry.step or 0.0) if placed else (0.0, float(entry.order))

    train, val, metric = (_unrepeated(entries, place) for entries in (train, val, metric))
    points = val or train
    ends = [place(entry) for entry in points]

    def between(entries: list[_Entry]) -> list[list[float]]:
        if len(entries) == len(points):  # as many as evaluations: each belongs to one, before or after it
            return [[entry.value] for entry in entries]
        at, values = [place(entry) for entry in entries], [entry.value for entry in entries]
        edges = [0, *(bisect_right(at, end) for end in ends)]
        return [values[a:b] for a, b in pairwise(edges)]

    return Curves(
        train=[_mean(values) for values in between(train)] if train else [],
        val=[entry.value for entry in val] or [None] * len(points),
        metric=[_last(values) for values in between(metric)] if metric else None,
        places=[(entry.epoch if fractions else entry.step) if placed else None for entry in points],
        unit="evaluation" if val and placed else "row",
    )


def _mean(values: list[float]) -> Cell:
    """NaN only where there is nothing else."""
    numbers = [value for value in values if value == value]
    if not values:
        return None
    if not numbers:
        return values[-1]
    return fmean(numbers) if all(map(isfinite, numbers)) else sum(numbers)


def _last(values: list[float]) -> Cell:
    return next((value for value in reversed(values) if value == value), values[-1] if values else None)
