"""Read level, noise, slope and best epoch off a curve, robustly and without any unit.

A curve is one value an epoch, oldest first. `None` and NaN are missing and leave a hole, not a zero. Rows
must be in the order of their epochs; rows written twice are found by `repeats`. Everything here scales with
the values and moves with a constant added to them, so whatever is divided by a range of the same curve has
no unit. Standard library only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from math import gcd, isfinite, sqrt
from statistics import fmean

MOST_POINTS = 128  # a longer curve is read as this many block medians: 1 000 epochs then cost no more than 128
ROUNDING = 1e-9  # of a curve's range: what differs by less is equal, or a change of unit could change a verdict
_TO_SIGMA = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
STANDS_OUT = 10, 7  # values, of which the first lies so many standard deviations above the others
_SECOND_DIFFERENCE = sqrt(6)  # of white noise: 1² + 2² + 1²
_LARGEST = 1e150  # beyond it differences of squares overflow; a loss that large has left the numbers


@dataclass(frozen=True)
class Curve:
    """A cleaned, thinned and smoothed curve."""

    epochs: list[int]  # in which each point's block ends
    points: list[float]  # the block medians, as they are
    values: list[float]  # `points`, with lone spikes and dips taken off
    smooth: list[float]  # `values`, averaged as far as their noise asks for
    noise: float  # standard deviation of the noise of one value
    smooth_noise: float  # the same of one smoothed value
    best: int  # index of the lowest point of `smooth`
    best_epoch: int  # the epoch that point stands for
    keep_epoch: int  # whose weights a checkpoint keeps: the first with the lowest value
    kept: float  # its value
    end: float  # level at the end, by a line through the last points rather than by the last value
    last: float  # the last value itself
    raw_lowest: float  # the lowest value itself, lucky or not
    count: int  # finite values in the curve before it was thinned

    @property
    def start(self) -> float:
        """The first value."""
        return self.values[0]

    @property
    def lowest(self) -> float:
        """The level at the best epoch: of the smoothed curve, and never above the end."""
        return min(self.smooth[self.best], self.end)

    @property
    def keep(self) -> int:
        """The index of the point that the epoch to keep is in."""
        return min(bisect_left(self.epochs, self.keep_epoch), len(self.epochs) - 1)

    def keeping(self, epoch: int | None, values: Sequence[float | None]) -> Curve:
        """Return the curve with another epoch to keep, if that one has a finite value among the curve's."""
        value = values[epoch] if epoch is not None and 0 <= epoch < len(values) else None
        if epoch is None or value is None or not isfinite(value):
            return self
        return replace(self, keep_epoch=epoch, kept=value)

    def at(self, share: float) -> float:
        """Return the smoothed level at a share (0 to 1) of the way."""
        return self.smooth[round(share * (len(self.smooth) - 1))]

    def at_epoch(self, epoch: int) -> float:
        """Return the smoothed level at an epoch, or at the nearest later one."""
        return self.smooth[min(bisect_left(self.epochs, epoch), len(self.smooth) - 1)]

    def rising(self, first: int) -> float:
        """Return the share of the steps from point `first` on that go up."""
        tail = self.values[first:]
        least = ROUNDING * (max(self.values) - min(self.values))
        return sum(b - a > least for a, b in pairwise(tail)) / max(1, len(tail) - 1)

    def change(self, share: float) -> float:
        """Return the rise of the curve over its last `share`, from the robust slope there."""
        length = max(3, round(share * len(self.values)))
        tail = self.values[-length:]
        return slope(tail) * (len(tail) - 1)


def finite(values: Iterable[float | None]) -> tuple[list[int], list[float]]:
    """Return the epochs and values that are numbers; missing and infinite ones are left out."""
    numbers = list(values)
    kept = [i for i, v in enumerate(numbers) if v is not None and -_LARGEST < v < _LARGEST]
    return kept, [float(numbers[i] or 0.0) for i in kept]  # `or`: no None is left, which mypy cannot see


def ends_infinite(values: Sequence[float | None]) -> bool:
    """Tell whether the last number of a curve is infinite, or as good as."""
    last = next((v for v in reversed(values) if v is not None and v == v), 0.0)
    return abs(last) >= _LARGEST


def ends_in_nan(values: Sequence[float | None], least: int = 2) -> bool:
    """Tell whether a curve ends in NaN at least so often, and longer than any hole before: that is no missing value."""
    if not values or values[-1] is None or values[-1] == values[-1]:
        return False
    runs = [(bad, sum(1 for _ in run)) for bad, run in groupby(v is not None and v != v for v in values)]
    return runs[-1][1] > max([least - 1, *(length for bad, length in runs[:-1] if bad)])


def repeats(rows: Iterable[object]) -> int:
    """Count how often every row was written: 2 for a, a, b, b; 1 where one row stands alone, or nothing changes."""
    lengths = [sum(1 for _ in run) for _, run in groupby(rows)]
    return gcd(*lengths) if len(lengths) > 1 else 1


def median(values: Iterable[float]) -> float:
    """Return the middle value; a third of the time of `statistics.median`, which checks its input."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])


def noise(values: Sequence[float]) -> float:
    """Return the standard deviation of the noise of one value, from second differences, which no trend survives.

    Zero for fewer than three values, and for a curve more than half of which is straight.
    """
    bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return _TO_SIGMA * median(bends) / _SECOND_DIFFERENCE if bends else 0.0


def order_scores(values: Sequence[float]) -> tuple[float, float, float]:
    """Return how little neighbours differ, by value and by rank, and how the ranks rise, in standard errors of noise.

    Values in a random order score about 0. Neighbours that are alike score below it (von Neumann 1941, Bartels 1982),
    a trend above or below (Spearman 1904). Ranks see a fall among spikes, values one that is over after an epoch.
    """
    n, order = len(values), sorted(range(len(values)), key=values.__getitem__)
    ranks, at = [0.0] * n, 0
    for _, group in groupby(order, key=values.__getitem__):  # ties share their mean rank
        tied = list(group)
        for i in tied:
            ranks[i] = at + (len(tied) - 1) / 2
        at += len(tied)
    centre = (n - 1) / 2
    spread = sqrt(sum((r - centre) ** 2 for r in ranks) * sum((i - centre) ** 2 for i in range(n)))
    trend = sum((i - centre) * (r - centre) for i, r in enumerate(ranks)) / spread * sqrt(n - 1) if spread else 0.0
    return _alike(values), _alike(ranks), trend


def _alike(values: Sequence[float]) -> float:
    n, mean = len(values), fmean(values)
    spread = sum((v - mean) ** 2 for v in values)
    ratio = sum((b - a) ** 2 for a, b in pairwise(values)) / spread if spread > 0 else 2.0
    return (ratio - 2) / sqrt(4 * (n - 2) / (n * n - 1)) if n > 2 else 0.0


def has_order(values: Sequence[float]) -> bool:
    """Tell whether the order of a curve's values says anything: for noise in 1 of 60, for a constant never."""
    n, scores = len(values), order_scores(values)
    if n >= STANDS_OUT[0]:  # a few values have no spread that one could stand out of
        middle = median(values[1:])
        if values[0] - middle > STANDS_OUT[1] * _TO_SIGMA * median(abs(v - middle) for v in values[1:]) > 0:
            return True  # the fall is over after an epoch
    # Of a few values no order is very rare: the bounds are what 1 or 2 in 100 reach.
    return min(scores[:2]) <= 2.5 / n - 2.7 or abs(scores[2]) >= 2.9 - 4 / n


def have_order(one: Sequence[float], other: Sequence[float]) -> bool:
    """Tell whether two curves of equally many values say something together: alone, or by what both have of it."""
    if has_order(one) or has_order(other):
        return True
    alike = [(a + b) / sqrt(2) for a, b in zip(order_scores(one), order_scores(other), strict=True)]
    return min(alike[:2]) <= -2.6 or abs(alike[2]) >= 3


def slope(values: Sequence[float]) -> float:
    """Return the robust slope per point: the median over pairs half the curve apart (after Theil 1950), in O(n)."""
    far = len(values) // 2
    if far == 0:
        return 0.0
    return median(b - a for a, b in zip(values, values[far:], strict=False)) / far


def thin(epochs: Sequence[int], values: Sequence[float]) -> tuple[list[int], list[float]]:
    """Return block medians, at most `MOST_POINTS`; the last block is a full one, since the end decides."""
    size = -(-len(values) // MOST_POINTS)
    if size <= 1:
        return list(epochs), list(values)
    stops = range(len(values), 0, -size)
    blocks = [(epochs[stop - 1], median(values[max(0, stop - size) : stop])) for stop in stops]
    return [e for e, _ in reversed(blocks)], [v for _, v in reversed(blocks)]


def despike(values: Sequence[float]) -> list[float]:
    """Return the median of each three neighbours: a lone dip or spike leaves no trace, a monotone curve stays."""
    middle = [sorted(three)[1] for three in zip(values, values[1:], values[2:], strict=False)]
    if not middle:
        return list(values)
    last = values[-1]
    if len(middle) > 1:  # Tukey's end rule: the middle of itself, its neighbour and the line through its neighbours
        last = sorted((last, middle[-1], 3 * middle[-1] - 2 * middle[-2]))[1]
    return [values[0], *middle, last]  # the first stays: the loss before training is no accident


def smoothed(values: Sequence[float], half: int) -> list[float]:
    """Return the running mean over `half` points on either side, fewer towards the ends, so that lines stay lines."""
    total, sums = 0.0, [0.0]
    for value in values:
        total += value
        sums.append(total)
    n = len(values)
    reach = [min(half, i, n - 1 - i) for i in range(n)]
    return [(sums[i + r + 1] - sums[i - r]) / (2 * r + 1) for i, r in enumerate(reach)]


def line_end(values: Sequence[float]) -> float:
    """Return the last point of the least-squares line through the values."""
    n = len(values)
    mean, centre = fmean(values), (n - 1) / 2
    spread = n * (n * n - 1) / 12
    tilt = sum((i - centre) * v for i, v in enumerate(values)) / spread if spread else 0.0
    return mean + tilt * centre


def read_curve(values: Iterable[float | None]) -> Curve | None:
    """Read a curve; None where it holds no number at all. `None` and NaN are missing, infinite values are left out."""
    epochs, numbers = finite(values)
    if not numbers:
        return None
    at, whole = thin(epochs, numbers)
    sigma = noise(whole)
    points = despike(whole)
    spread = max(points) - min(points)
    half = _window(sigma, spread, len(points) // 10)
    smooth = smoothed(points, half)
    # The running mean is ragged at the very end, where its window has shrunk: a line does better there.
    tail = points[-max(2 * half + 1, 3, len(points) // 10) :]
    end = line_end(tail)
    best = _lowest(smooth)
    if end < smooth[best] - ROUNDING * spread:
        best = len(smooth) - 1
    low = min(numbers)
    return Curve(
        at, whole, points, smooth, sigma, sigma / sqrt(2 * half + 1),
        best, _best_epoch(epochs, numbers, at, best), epochs[numbers.index(low)], low,
        end, numbers[-1], low, len(numbers),
    )  # fmt: skip


def _lowest(values: Sequence[float]) -> int:
    """The first of the lowest values; those apart by no more than rounding count as equal."""
    low = min(values)
    reach = low + ROUNDING * (max(values) - low)
    return next(i for i, v in enumerate(values) if v <= reach)


def _window(sigma: float, spread: float, most: int) -> int:
    """Half the smoothing window: the least that brings noise under 2 % of the range."""
    if not 0 < sigma < spread:  # a larger one could overflow in the square
        return 0 if sigma <= 0 else most
    return min(most, max(0, round(((sigma / (0.02 * spread)) ** 2 - 1) / 2)))


def _best_epoch(epochs: Sequence[int], numbers: Sequence[float], at: Sequence[int], best: int) -> int:
    """The epoch of the best point; within a block of a thinned curve, that of the block's lowest value."""
    stop = bisect_left(epochs, at[best]) + 1
    start = bisect_left(epochs, at[best - 1]) + 1 if best else 0
    return epochs[start + _lowest(numbers[start:stop])]
