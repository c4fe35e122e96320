"""Row numbers in, disjoint sets out: stratified, and a function of the seed alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DataError

MIN_ROWS_TO_SHARE = 3
"""A class with fewer rows stays in training whole: one row each for three sets is the least one can share."""

_BINS = 10  # deciles of a regression target: enough to spread its tails evenly over the sets


@dataclass(frozen=True)
class Splits:
    """Disjoint, sorted row numbers (int64); together they are all rows that were given.

    Attributes:
        train: Rows to learn from.
        val: Rows to choose by; may be empty.
        test: Rows to judge by; may be empty.
        unshared: Strata (class numbers) that stayed in training whole because they have too few rows.
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    unshared: tuple[int, ...] = ()


def quantile_bins(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Cut numbers into up to ten bins of equally many rows, to stratify a regression by.

    Args:
        values: Shape (rows,), finite. Equal values are told apart by their place in the file, so bins stay equal.

    Returns:
        Bin numbers, shape (rows,), int64.
    """
    n = len(values)
    # a bin of fewer than 20 rows would have nothing to give to a set of 5 %
    bins = int(np.clip(n // 20, 1, _BINS))
    ranks = np.empty(n, dtype=np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(n)
    return ranks * bins // max(n, 1)


def split_rows(
    rows: NDArray[np.int64], strata: NDArray[np.int64], *, val_fraction: float, test_fraction: float, seed: int
) -> Splits:
    """Share rows out among training, validation and test, each stratum in proportion.

    Each held-out set gets `round(fraction * rows)` rows (at least one), handed to the strata by the largest
    remainder; every stratum keeps at least one row in training.

    Args:
        rows: Row numbers, shape (rows,), distinct.
        strata: The class or bin of each, shape (rows,), whole numbers from 0.
        val_fraction: Share of the rows to validate on, in [0, 1).
        test_fraction: Share of the rows to test on, in [0, 1); the two sum to less than 1.
        seed: With the other arguments it fixes the result.

    Raises:
        DataError: There are too few rows to fill the sets.
    """
    rng = np.random.default_rng(seed)
    sizes = np.bincount(strata) if len(strata) else np.zeros(0, dtype=np.int64)
    held = int(val_fraction > 0) + int(test_fraction > 0)
    spare = np.where(sizes >= MIN_ROWS_TO_SHARE, sizes - 1, 0)
    n_val = _apportion(sizes, spare, val_fraction, rng)
    n_test = _apportion(sizes, spare - n_val, test_fraction, rng)
    if held and (n_val.sum() == 0) * (val_fraction > 0) + (n_test.sum() == 0) * (test_fraction > 0):
        raise DataError(
            f"{len(rows)} rows with a target are too few to hold out {val_fraction:g} for validation and "
            f"{test_fraction:g} for test; give more rows, or set the fraction to 0."
        )
    # rows of one stratum stand together, in random order within it
    order = rng.permutation(len(rows))
    order = order[np.argsort(strata[order], kind="stable")]
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    in_val = place < np.repeat(n_val, sizes)
    in_test = ~in_val & (place < np.repeat(n_val + n_test, sizes))
    few = np.flatnonzero((sizes > 0) & (sizes < MIN_ROWS_TO_SHARE)) if held else np.zeros(0, dtype=np.int64)
    return Splits(
        train=np.sort(rows[order[~in_val & ~in_test]]),
        val=np.sort(rows[order[in_val]]),
        test=np.sort(rows[order[in_test]]),
        unshared=tuple(int(c) for c in few),
    )


def _apportion(
    sizes: NDArray[np.int64], spare: NDArray[np.int64], fraction: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Whole numbers near `fraction * sizes`, none above `spare`, summing to the rounded total where that can be."""
    shares = np.where(spare > 0, sizes, 0) * fraction
    given = np.minimum(np.floor(shares).astype(np.int64), spare)
    total = min(max(round(float(sizes.sum()) * fraction), int(fraction > 0)), int(spare.sum()))
    # ties are broken at random, else the first classes would always win the odd row
    by_remainder = np.lexsort((rng.random(len(sizes)), -(shares - given)))
    while given.sum() < total:
        room = by_remainder[(given < spare)[by_remainder]][: total - int(given.sum())]
        given[room] += 1
    return given
