"""Histograms of many groups of numbers in one pass: with a call to torch for each they would cost ten times as much."""

import math
from collections.abc import Sequence

import numpy as np

from callbacks._board import Histogram

BINS = 30  # TensorBoard's Histograms tab lays what it gets over 30 bins of its own

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Whole = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def histograms(values: Array, sizes: Sequence[int]) -> list[Histogram | None]:
    """One for each of the groups of `sizes` that `values` consists of, none of them empty.

    Counts are of the finite values, between the smallest and the largest; None where there are none, or where they lie
    further apart than a number can tell. Bins are as many as Rice's rule says, twice the cube root of the numbers
    (https://en.wikipedia.org/wiki/Histogram#Rice_rule), and at most 30.
    """
    starts = np.cumsum([0, *sizes[:-1]])
    lows, highs = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    with np.errstate(over="ignore", invalid="ignore"):
        spans = highs - lows
    if np.isfinite(spans).all():
        return list(_finite(values, np.asarray(sizes), starts, lows=lows, highs=highs))
    found: list[Histogram | None] = []  # broken ones are dear, and rare
    for group in np.split(values, starts[1:]):
        kept = group[np.isfinite(group)]
        with np.errstate(over="ignore"):
            tellable = len(kept) > 0 and bool(np.isfinite(np.ptp(kept)))
        found += histograms(kept, [len(kept)]) if tellable else [None]
    return found


def _finite(values: Array, sizes: Whole, starts: Whole, *, lows: Array, highs: Array) -> list[Histogram]:
    margins = np.where(lows == highs, np.maximum(np.abs(lows) * 1e-3, 1e-12), 0.0)  # one value stands in the middle
    lows, highs = lows - margins, highs + margins
    bins = np.array([bins_for(int(size)) for size in sizes])
    firsts = np.cumsum(bins) - bins
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        places = ((values - np.repeat(lows, sizes)) * np.repeat(bins / (highs - lows), sizes)).astype(np.int64)
        squares = np.add.reduceat(values * values, starts).tolist()
    places = np.clip(places, 0, np.repeat(bins - 1, sizes)) + np.repeat(firsts, sizes)
    counts = np.bincount(places, minlength=int(bins.sum())).tolist()
    totals = np.add.reduceat(values, starts).tolist()
    edges = zip(lows.tolist(), highs.tolist(), firsts.tolist(), bins.tolist(), strict=True)
    return [
        Histogram(low, high, counts[first : first + many], total, square)
        for (low, high, first, many), total, square in zip(edges, totals, squares, strict=True)
    ]


def bins_for(size: int) -> int:
    """How many bins so many numbers get."""
    return min(math.ceil(2 * math.cbrt(size)), BINS)
