"""Rows that stand in two sets, told from those that are equal because few values go together."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.encoding import Encoding
from datamodules.columns.leaks import FIRST_LOOK
from datamodules.columns.summary import ALL_DIFFER
from datamodules.rows.batching import Rows
from datamodules.rows.samples import CELLS, MOST_COLUMNS, SAMPLE, drawn, feature_places, numbers, taken

_MIN_COPIES, _MIN_SHARE = 3, 0.01  # of a set's rows: below, the scores hardly change
_BY_CHANCE = 0.01  # equal rows to be expected if the columns were independent: above, copies are natural
_TRIED_COPIES = 200
_WORDS = {"val": "validation", "test": "test"}


def copies(encoding: Encoding, train: Rows, held_out: Mapping[str, Rows]) -> Iterator[str]:
    """Say how many rows of each other set, by stage, equal a training row, if they may be copies of it.

    They are none where the rows have names of their own, or where so few values go together that about as many rows
    differ from one in a single column.
    """
    if not held_out or any(ALL_DIFFER in why for why in encoding.dropped.values()):
        return
    width = train.x.shape[1] + 1
    at = np.sort(drawn(len(train), max(CELLS // width, 1)))
    seen = np.sort(_hashes(train, at))
    distinct = 1 + int((seen[1:] != seen[:-1]).sum())
    if 2 * distinct < len(seen):  # most rows are there twice: so are those of any other sample
        return
    least = "at least " if len(at) < len(train) else ""
    parts = []
    for stage, rows in held_out.items():
        some = drawn(len(rows), min(SAMPLE // 4, max(CELLS // width, 1)))
        hashes = _hashes(rows, some)
        again = seen[np.minimum(np.searchsorted(seen, hashes), len(seen) - 1)] == hashes
        n = int(again.sum())
        if n < max(_MIN_COPIES, _MIN_SHARE * len(some)) or _by_chance(train, at, rows, some[again]) > _BY_CHANCE:
            continue
        if _near_copies(encoding, train, at, rows, some) > n / 2:
            continue
        of = f"{len(some):,}" if len(some) == len(rows) else f"{len(some):,} drawn"
        parts.append(f"{least}{n:,} of {of} {_WORDS[stage]} rows ({n / len(some):.0%})")
    if parts:
        equal = "also stand among the training rows, equal in all columns and the target"
        yield f"{' and '.join(parts)} {equal}: they flatter the scores; if they are copies, leave them out of the file"


def _hashes(
    rows: Rows, at: NDArray[np.int64], features: slice = slice(None), *, with_target: bool = True
) -> NDArray[np.uint64]:
    # Sums of products with random odd numbers, modulo 2^64: those of some features are a part of those of all.
    x, y = np.asarray(rows.x), numbers(rows.y)
    factors = np.random.default_rng(0).integers(0, 2**63, x.shape[1] + 1, dtype=np.uint64) * 2 + 1
    found = np.empty(len(at), dtype=np.uint64)
    for start in range(0, len(at), 1024):
        block = at[start : start + 1024]
        cells = np.ascontiguousarray(x[block, features] + np.float32(0)).view(np.uint32).astype(np.uint64)  # no -0
        found[start : start + 1024] = cells @ factors[:-1][features]
        if with_target:
            found[start : start + 1024] += y[block].view(np.uint64) * factors[-1]
    return found


def _near_copies(encoding: Encoding, train: Rows, at: NDArray[np.int64], rows: Rows, some: NDArray[np.int64]) -> int:
    # How many rows equal a training row in all but one column.
    places = feature_places(encoding, rows)
    if len(places) > MOST_COLUMNS:
        return 0
    mine, then = _hashes(rows, some), _hashes(train, at)
    near = np.zeros(len(some), dtype=bool)
    starts = [*(start for _, start, _ in places), rows.x.shape[1]]  # with the bins behind
    for features, with_target in [*((slice(*ends), False) for ends in pairwise(starts)), (slice(0, 0), True)]:
        parts = [_hashes(r, a, features, with_target=with_target) for r, a in ((rows, some), (train, at))]
        left, right = mine - parts[0], then - parts[1]
        order = np.argsort(right, kind="stable")
        first, last = (np.searchsorted(right[order], left, side) for side in ("left", "right"))
        for i in np.flatnonzero((last > first) & ~near):
            near[i] = bool((then[order[first[i] : last[i]]] != mine[i]).any())
    return int(near.sum())


def _by_chance(train: Rows, at: NDArray[np.int64], rows: Rows, copies: NDArray[np.int64]) -> float:
    """Return how many training rows would equal one of the copies if columns were independent, for the middle one."""
    sample = at[drawn(len(at), FIRST_LOOK)]
    x, found = taken(train, sample), taken(rows, copies[:_TRIED_COPIES])
    expected = np.full(len(found), float(len(at)))
    for column, cells in [
        *zip(x.T, found.T, strict=True),
        (numbers(train.y)[sample], numbers(rows.y)[copies[:_TRIED_COPIES]]),
    ]:
        column = np.sort(column)
        same = np.searchsorted(column, cells, "right") - np.searchsorted(column, cells, "left")
        expected *= np.maximum(same - 1, 0.5) / len(column)  # one is the copy itself
    return float(np.median(expected))
