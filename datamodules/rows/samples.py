"""Samples of encoded rows, for what is told of a table by a look at a part of it."""

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.encoding import Column, Encoding, NumericColumn
from datamodules.rows.batching import Rows

SAMPLE = 20_000  # rows of a set that are looked at
CELLS = 2**22  # of a set that are looked at: a fraction of the time it took to encode them
MOST_COLUMNS = 300  # of a wide table, those that go best with the target


def numbers(y: object) -> NDArray[np.float64]:
    """Return targets as numbers, classes by theirs."""
    return np.asarray(y, dtype=np.float64)


def drawn(n: int, most: int) -> NDArray[np.int64]:
    """Return the numbers of at most so many of n rows, in random order, the same each time."""
    rng = np.random.default_rng(0)
    return rng.permutation(n) if n <= most else rng.choice(n, most, replace=False)


def taken(rows: Rows, at: NDArray[np.int64], start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
    """Return some features, as stored, of some rows."""
    return np.asarray(np.asarray(rows.x[:, start:stop])[at])


def feature_places(encoding: Encoding, rows: Rows) -> list[tuple[Column, int, int]]:
    """Return each column with where its features begin and end in rows as stored, without its bins."""
    found, at = [], 0
    for column in encoding.columns:
        bins = len(column.bin_means) if isinstance(column, NumericColumn) else 0
        plain = len(column.feature_names) - bins
        found.append((column, at, at + plain))
        at += plain + (bins if rows.expansion is None else bool(bins))
    return found
