"""The rows of training, validation and test: shared out by the target, by groups or by time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.cells import NUMERIC_SHARE, as_numbers, kind_of, single
from datamodules.columns.dates import DateCounts, as_times
from datamodules.errors import DataError, nearest
from datamodules.readers.table import Table
from datamodules.targets import Target, read_labels

MIN_ROWS_TO_SHARE = 3  # one each for three sets; a class with fewer stays in training whole
MAX_WEIGHT = 1e18  # of a row
_DRAWS = 20  # orders of groups that are tried
_BINS = 10  # deciles of a regression target: enough to spread its tails evenly over the sets


@dataclass(frozen=True)
class Fold:
    """One of several parts that rows are cut into: it is held out, and the others are trained on."""

    number: int  # from 1; 0 for none of them, so that all are trained on
    of: int  # 0 for no folds


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


def split_target(
    target: Target,
    fractions: tuple[float, float],
    seed: int,
    *,
    groups: NDArray[np.int64] | None = None,
    times: NDArray[np.float64] | None = None,
    weights: NDArray[np.float64] | None = None,
) -> Splits:
    """Split the rows that have a target: by time, by groups, or stratified by class or by deciles of the target.

    `groups`, `times` and `weights` are those of all rows of the table; a row of weight 0 is in no set.
    """
    rows = rows_that_count(target, weights)
    values = target.values[rows]
    if times is not None:
        return split_by_time(rows, times[rows], fractions)
    strata = values if target.task == "classification" else quantile_bins(values)
    if groups is not None:
        numbers = np.unique(groups[rows], return_inverse=True)[1]
        return split_by_group(rows, numbers, strata, fractions, seed)
    return split_rows(rows, strata, val_fraction=fractions[0], test_fraction=fractions[1], seed=seed)


def rows_that_count(target: Target, weights: NDArray[np.float64] | None) -> NDArray[np.int64]:
    """Return the numbers of the rows that have a target, and no weight of 0."""
    counts = ~target.missing if weights is None else ~target.missing & (weights > 0)
    return np.flatnonzero(counts).astype(np.int64)


def hold_out_fold(
    splits: Splits, target: Target, fold: Fold, seed: int, *, groups: NDArray[np.int64] | None = None
) -> Splits:
    """Cut all rows but those for test into folds, and validate on one.

    Folds are stratified by class, or by the target, and of the same size but for a row; with `groups`, those of all
    rows of the table, the rows of a group are in one fold. A DataError says that there are too few.
    """
    rest = np.sort(np.concatenate([splits.train, splits.val]))
    if not fold.number:
        return Splits(rest, np.zeros(0, dtype=np.int64), splits.test)
    numbers = _fold_numbers(rest, target, fold.of, seed, groups)
    held = numbers == fold.number - 1
    return Splits(rest[~held], rest[held], splits.test)


def _fold_numbers(
    rows: NDArray[np.int64], target: Target, folds: int, seed: int, groups: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    values, needed = target.values[rows], f"--data.folds={folds} needs at least as many"
    if len(rows) < folds:
        raise DataError(f"{needed} rows that are not for test; there are {len(rows)}.")
    if target.task == "classification":
        counts = np.bincount(values)
        few = min(np.flatnonzero(counts), key=lambda number: counts[number])
        if counts[few] < folds:
            name, least = (target.class_names or ())[few], int(counts[few])
            do = f"give --data.folds={least}, or" if least > 1 else "give it more rows, or"
            raise DataError(
                f"{needed} rows of each class that are not for test; class {name!r} has {least}: {do} leave it out."
            )
    if groups is None:
        return deal_out(values, folds, seed)
    own = np.unique(groups[rows], return_inverse=True)[1]
    if own.max() + 1 < folds:
        raise DataError(f"{needed} groups outside the test rows; there are {own.max() + 1}.")
    return _deal_out_groups(own, values if target.task == "classification" else quantile_bins(values), folds, seed)


def deal_out(values: NDArray[Any], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold, from 0, of each row: in the order of their targets, those of equal ones shuffled, in turns.

    So every fold has its share of each class, or of low and high targets.
    """
    drawn = np.random.default_rng(seed).permutation(len(values))
    numbers = np.empty(len(values), dtype=np.int64)
    numbers[drawn[np.argsort(values[drawn], kind="stable")]] = np.arange(len(values)) % folds
    return numbers


def _deal_out_groups(groups: NDArray[np.int64], strata: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    from sklearn.model_selection import StratifiedGroupKFold  # half a second

    strata = strata if np.bincount(strata)[np.unique(strata)].min() >= folds else np.zeros_like(strata)
    cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    numbers = np.full(len(groups), -1, dtype=np.int64)
    for number, (_, held) in enumerate(cut.split(groups, strata, groups)):
        numbers[held] = number
    if len(np.unique(numbers)) < folds:
        raise DataError(f"--data.folds={folds}: a fold would have no row, as groups differ so much in size; give less.")
    return numbers


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


def split_by_time(rows: NDArray[np.int64], times: NDArray[np.float64], fractions: tuple[float, float]) -> Splits:
    """Hold out the newest rows for test and the next newest for validation; equal times stay together.

    `times` are those of the rows, finite. The sets are near the fractions; where one would be empty, or nothing is left
    to train on, it is a DataError.
    """
    order = np.sort(times)

    def cut(share: float) -> float:
        # the time from which on rows are held out: of two that are possible the one whose share is nearer
        at = len(order) - round(share * len(order))
        if at >= len(order):
            return float("inf")
        later = order[np.searchsorted(order, order[at], "right") :]
        return float(min([order[at], *later[:1]], key=lambda t: abs((order >= t).mean() - share)))

    for_val, for_test = fractions
    since_test = cut(for_test)
    since_val = min(cut(for_val + for_test), since_test)
    in_test = times >= since_test
    in_val = (times >= since_val) & ~in_test
    train, val, test = (np.sort(rows[held]) for held in (~in_val & ~in_test, in_val, in_test))
    found = Splits(train, val, test)
    _check_sizes(found, fractions, f"{len(np.unique(times))} different times")
    return found


def split_by_group(
    rows: NDArray[np.int64],
    groups: NDArray[np.int64],
    strata: NDArray[np.int64],
    fractions: tuple[float, float],
    seed: int,
) -> Splits:
    """Share rows out so that those of a group (a number for each row) are in one set, near the fractions.

    Of `_DRAWS` orders of the groups, each of which fills one set after the other, the one counts whose sets are nearest
    in size and in the shares of the strata. A set that would be empty is a DataError.
    """
    rng = np.random.default_rng(seed)
    table = np.zeros((int(groups.max(initial=-1)) + 1, int(strata.max(initial=0)) + 1))
    np.add.at(table, (groups, strata), 1.0)
    sizes, whole = table.sum(axis=1), table.sum(axis=0) / max(len(rows), 1)
    best, least = np.zeros(len(sizes), dtype=np.int64), float("inf")
    for _ in range(_DRAWS):
        place = np.zeros(len(sizes), dtype=np.int64)  # 0 for training
        left, cost = rng.permutation(len(sizes)), 0.0
        for number, share in enumerate(fractions, 1):
            wanted, size, taken = share * len(rows), 0.0, []
            for group in left:
                if abs(size + sizes[group] - wanted) < abs(size - wanted):
                    taken.append(group)
                    size += sizes[group]
            place[taken] = number
            left = left[~np.isin(left, taken)]
            cost += abs(size - wanted) / len(rows)
            cost += float(np.abs(table[taken].sum(axis=0) / size - whole).sum()) * share if size else share
        if cost < least:
            best, least = place, cost
    train, val, test = (np.sort(rows[best[groups] == number]) for number in range(3))
    found = Splits(train, val, test)
    _check_sizes(found, fractions, f"{len(sizes)} groups")
    return found


def _check_sizes(found: Splits, fractions: tuple[float, float], what: str) -> None:
    wanted = (1.0, *fractions)
    sets = (("training", found.train), ("validation", found.val), ("test", found.test))
    empty = [name for (name, rows), share in zip(sets, wanted, strict=True) if share and not len(rows)]
    if empty:
        raise DataError(
            f"{what} are too few to hold out {fractions[0]:g} for validation and {fractions[1]:g} for test: no row is "
            f"left for {' and '.join(empty)}; give more rows, or set a fraction to 0."
        )


def read_groups(table: Table, name: str) -> NDArray[np.int64]:
    """Return the number of each row's group, shape (rows,); a DataError says that some have none."""
    codes, _ = read_labels(table, name)
    _check_told(table, "group", name, codes < 0)
    return codes


def read_times(table: Table, name: str) -> NDArray[np.float64]:
    """Return each row's time, shape (rows,): seconds since 1970, or the number it is; a DataError if some have none."""
    counts, parts = DateCounts(), []
    for chunk in table.chunks([name]):
        counts.add(single(chunk, name))
    is_date = counts.share >= NUMERIC_SHARE
    for chunk in table.chunks([name]):
        array = single(chunk, name)
        is_time = is_date or kind_of(array.type) == "time"
        parts.append(as_times(array, counts.style) if is_time else as_numbers(array).values)
    times = np.concatenate([*parts, np.zeros(0)])
    _check_told(table, "time", name, ~np.isfinite(times))
    return times


def read_weights(table: Table, name: str) -> NDArray[np.float64]:
    """Read how much each row counts, shape (rows,): numbers of at least 0, not all 0; else it is a DataError."""
    if name not in table.names:
        raise DataError(f"--data.weight names {name!r}; {table.label!r} has {nearest(name, table.names)}.")
    parts = [as_numbers(single(chunk, name)).values for chunk in table.chunks([name])]
    weights = np.concatenate([*parts, np.zeros(0)])
    _check_told(table, "weight", name, ~np.isfinite(weights))
    wrong = np.flatnonzero((weights < 0) | (weights > MAX_WEIGHT))
    if len(wrong) or not weights.any():
        found = f"row {wrong[0] + 1} holds {weights[wrong[0]]:g}" if len(wrong) else "all are 0"
        raise DataError(f"--data.weight={name} needs numbers from 0 to {MAX_WEIGHT:g}, some above 0; {found}.")
    return weights


def _check_told(table: Table, argument: str, name: str, missing: NDArray[np.bool_]) -> None:
    if missing.any():
        n, first = int(missing.sum()), int(np.flatnonzero(missing)[0]) + 1
        raise DataError(
            f"--data.{argument}={name}: {n} rows of {table.label!r} have none there, the first is row {first} (the row "
            "after the header is 1); fill them in, or leave the rows out."
        )
