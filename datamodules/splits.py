"""The rows of training, validation and test: shared out by the target."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DataError
from datamodules.targets import Target

MIN_ROWS_TO_SHARE = 3  # one each for three sets; a class with fewer stays in training whole
_BINS = 10  # deciles of a regression target: enough to spread its tails evenly over the sets


@dataclass(frozen=True)
class Splits:
    """Disjoint, sorted row numbers of three sets; together they are all rows that were given."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]  # may be empty, as `test`
    test: NDArray[np.int64]
    unshared: tuple[int, ...] = ()  # strata (class numbers) that stayed in training whole, as they have too few rows


def quantile_bins(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin of each number, of up to ten of equally many rows, to stratify a regression by.

    Equal values are told apart by their place in the file, so bins stay equal. `values` are finite.
    """
    n = len(values)
    bins = int(np.clip(n // 20, 1, _BINS))  # one of fewer than 20 rows would have nothing to give to a set of 5 %
    ranks = np.empty(n, dtype=np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(n)
    return ranks * bins // max(n, 1)


def split_target(target: Target, fractions: tuple[float, float], seed: int) -> Splits:
    """Split the rows that have a target, stratified by class or by deciles of the target."""
    rows = np.flatnonzero(~target.missing).astype(np.int64)
    values = target.values[rows]
    strata = values if target.task == "classification" else quantile_bins(values)
    return split_rows(rows, strata, val_fraction=fractions[0], test_fraction=fractions[1], seed=seed)


def split_rows(
    rows: NDArray[np.int64], strata: NDArray[np.int64], *, val_fraction: float, test_fraction: float, seed: int
) -> Splits:
    """Share distinct row numbers out among training, validation and test, each stratum (from 0) in proportion.

    Each held-out set gets `round(fraction * rows)` rows (at least one, else it is a DataError), handed to the strata
    by the largest remainder; every stratum keeps at least one row in training. The result is a function of the
    arguments; the fractions sum to less than 1.
    """
    rng = np.random.default_rng(seed)
    sizes = np.bincount(strata) if len(strata) else np.zeros(0, dtype=np.int64)
    spare = np.where(sizes >= MIN_ROWS_TO_SHARE, sizes - 1, 0)
    n_val = _apportion(sizes, spare, val_fraction, rng)
    n_test = _apportion(sizes, spare - n_val, test_fraction, rng)
    if (val_fraction > 0 and not n_val.any()) or (test_fraction > 0 and not n_test.any()):
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
    few = np.flatnonzero((sizes > 0) & (sizes < MIN_ROWS_TO_SHARE) & (val_fraction + test_fraction > 0))
    train, val, test = (np.sort(rows[order[held]]) for held in (~in_val & ~in_test, in_val, in_test))
    return Splits(train, val, test, tuple(map(int, few)))


def _apportion(
    sizes: NDArray[np.int64], spare: NDArray[np.int64], fraction: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    # Whole numbers near `fraction * sizes`, none above `spare`, summing to the rounded total where that can be.
    shares = np.where(spare > 0, sizes, 0) * fraction
    given = np.minimum(np.floor(shares).astype(np.int64), spare)
    total = min(max(round(float(sizes.sum()) * fraction), int(fraction > 0)), int(spare.sum()))
    # ties are broken at random, else the first classes would always win the odd row
    by_remainder = np.lexsort((rng.random(len(sizes)), -(shares - given)))
    while given.sum() < total:
        room = by_remainder[(given < spare)[by_remainder]][: total - int(given.sum())]
        given[room] += 1
    return given
