"""How well one column alone tells the target, and what is told too well to be known beforehand."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.summary import is_thing_name

MIN_ROWS = 50  # with a target that the trivial prediction misses: on fewer, a good column may miss none by chance
FIRST_LOOK = 2000  # rows that decide whether a column is worth more of them
TOO_WELL = {"regression": 0.995, "classification": 0.99}
"""Share of the target's spread, or of the trivial prediction's errors, that only a leak explains alone.

What is measured beside a target has errors of its own: over the tables of `benchmarks/cautions.py`, which scores the
columns of hundreds of tables, copies, codes and functions of the target lie above, a length beside a weight below.
"""
_WORTH = 0.9  # of a first look
_FEW_GROUPS = 20  # below, they are codes of the target rather than things that have one
_GROUPS_A_CLASS = 3
_TURNS = 0.2  # of the values of a number at which another class begins, where that is a function of it
_MOVES_WITH = 0.95  # share of steps in file order that a function of the target, or its negative, takes with it
_FEW_ALONE = 0.1  # of the rows: where so few have a value that no other row has, they are not scored


@dataclass(frozen=True)
class Told:
    """What a column alone tells of the target."""

    score: float  # R² of the target's ranks, or share of right classes; each row predicted from the other rows
    skill: float  # share of the trivial prediction's errors that it avoids, at most 1; R² is one by itself
    groups: int  # different values, with rows without one as a value of their own


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each number, shape (rows,); equal numbers get the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    middles = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(middles[places], dtype=np.float64)


def told(values: NDArray[np.float64], target: NDArray[np.float64] | NDArray[np.int64], *, ordered: bool) -> Told:
    """Return what a column tells of the target when each row is predicted from all other rows.

    A row is predicted from those with the same value: by their mean target, or the most frequent class. A number that
    stands alone is predicted from the next smaller and the next larger one, a name that does is not; where these are
    few they are left aside. So a copy, however
    scaled, rounded or coded, is told from a column that goes with the target; no model has to be fitted.

    Args:
        values: The column's cells as numbers, shape (rows,), without NaN; names as codes.
        target: Ranks of the target (see `ranks`) as floats, or class numbers as integers, shape (rows,).
        ordered: Whether the values are numbers rather than names.
    """
    order = np.argsort(values, kind="stable")
    x, y = values[order], target[order]
    group = np.cumsum(np.concatenate([[True], x[1:] != x[:-1]])) - 1
    alone = np.bincount(group)[group] == 1
    if 0 < alone.sum() <= _FEW_ALONE * len(x):  # of a code, the rare values tell nothing either way
        y, group = y[~alone], np.unique(group[~alone], return_inverse=True)[1]
    sizes = np.bincount(group)
    if y.dtype.kind == "f":
        return _told_of_amounts(y.astype(np.float64), group, sizes, ordered)
    return _told_of_classes(y.astype(np.int64), group, sizes, ordered)


def _told_of_amounts(y: NDArray[np.float64], group: NDArray[np.int64], sizes: NDArray[np.int64], ordered: bool) -> Told:
    sums = np.bincount(group, y)
    predicted = (sums[group] - y) / np.maximum(sizes[group] - 1, 1)
    single = sizes[group] == 1
    if single.any():
        around = np.full(len(sizes), y.mean())
        if ordered and len(sizes) > 1:
            means = sums / sizes
            around[1:-1] = (means[:-2] + means[2:]) / 2
            around[0], around[-1] = means[1], means[-2]
        predicted[single] = around[group[single]]
    spread = float(np.square(y - y.mean()).sum())
    score = 1.0 - float(np.square(y - predicted).sum()) / spread if spread else 0.0
    return Told(score, score, len(sizes))


def _told_of_classes(y: NDArray[np.int64], group: NDArray[np.int64], sizes: NDArray[np.int64], ordered: bool) -> Told:
    n_classes = int(y.max()) + 1
    pairs, counts = np.unique(group * n_classes + y, return_counts=True)
    by_count = np.lexsort((-counts, pairs // n_classes))
    pairs, counts = pairs[by_count], counts[by_count]
    of = pairs // n_classes
    first = np.flatnonzero(np.concatenate([[True], of[1:] != of[:-1]]))
    top, most = pairs[first] % n_classes, counts[first]
    has_next = np.append(first[1:], len(pairs)) - first > 1
    next_most = np.where(has_next, counts[np.minimum(first + 1, len(pairs) - 1)], 0)
    # without the row itself, its class must still be the most frequent one
    right = ((y == top[group]) & (most[group] - 1 > next_most[group])).astype(np.float64)
    single = sizes[group] == 1
    if single.any():
        at = group[single]
        before, after = np.maximum(at - 1, 0), np.minimum(at + 1, len(sizes) - 1)
        agree = (at > 0) & (top[before] == y[single]), (at < len(sizes) - 1) & (top[after] == y[single])
        right[single] = (agree[0] / 2.0 + agree[1] / 2.0) if ordered else 0.0
    score, trivial = float(right.mean()), float(np.bincount(y).max()) / len(y)
    return Told(score, (score - trivial) / (1.0 - trivial) if trivial < 1.0 else 0.0, len(sizes))


def is_group(
    name: str, values: NDArray[np.float64], target: NDArray[np.float64] | NDArray[np.int64], *, ordered: bool
) -> bool:
    """Return whether a column that tells the target names the things that have one: patients, schools.

    Each has several rows and one target in all of them. A code of the target has few values, and a number that
    the target is a function of tells it of values that lie between, unless its name says that it is an identifier.

    Args:
        name: Of the column.
        values: Its cells, as for `told`.
        target: Likewise.
        ordered: Likewise.
    """
    things, first, group, sizes = np.unique(values, return_index=True, return_inverse=True, return_counts=True)
    is_named = is_thing_name(name)
    few, most = _FEW_GROUPS / 2 if is_named else _FEW_GROUPS, len(values) / 2
    if not few <= len(things) <= most or (target[first][group] != target)[sizes[group] > 1].any():
        return False
    if target.dtype.kind != "f" and len(things) < _GROUPS_A_CLASS * len(np.unique(target)):
        return False
    if is_named or not ordered:
        return True
    if target.dtype.kind != "f":
        return float(np.mean(np.diff(target[first]) != 0)) > _TURNS
    return told(things, target[first], ordered=True).skill < _WORTH


def moves_with(values: NDArray[np.float64], target: NDArray[np.float64] | NDArray[np.int64]) -> bool:
    """Return whether numbers rise and fall with the target from row to row, as a function of it does; in file order."""
    steps = np.sign(np.diff(values)) * np.sign(np.diff(target))
    steps = steps[steps != 0]
    return len(steps) > 0 and abs(float(steps.mean())) >= 2 * _MOVES_WITH - 1


def worth_more(found: Told) -> bool:
    """Return whether a first look makes it likely that a column tells too much."""
    return found.skill >= _WORTH


def enough_rows(target: NDArray[np.float64] | NDArray[np.int64]) -> bool:
    """Return whether there are rows enough to tell a leak from a good column."""
    missed = len(target) if target.dtype.kind == "f" else len(target) - int(np.bincount(target).max())
    return missed >= MIN_ROWS
