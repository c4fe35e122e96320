"""Dates as features: how long ago, and where in the day, the week and the year."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.cells import count_missing
from datamodules.columns.dates import DAY, DateCounts, DateStyle, as_times
from datamodules.columns.summary import Moments
from datamodules.errors import DataError

YEAR = 365.2425  # days, the mean of the Gregorian calendar


@dataclass(frozen=True)
class Cycle:
    """A period of the calendar: its features are sines and cosines of where a time is in it, and of multiples."""

    period: float  # days
    offset: float  # days from its beginning to 1970-01-01
    waves: int  # multiples of the frequency; three tell all days of a week apart
    whole_days: bool  # whether the time of day counts


CYCLES = {
    "year": Cycle(YEAR, 0.0, 2, whole_days=True),
    "week": Cycle(7.0, 3.0, 3, whole_days=True),  # 1970 began on a Thursday
    "day": Cycle(1.0, 0.0, 2, whole_days=False),
}
_LEAST_YEARS = 0.5  # that dates have to span for the season to say more than their order does
_ONE_DAY = 0.9  # share of dates on one day of the week, or on the first of a month: they tell no days of the week

Floats = NDArray[np.float64]


@dataclass
class DateFacts:
    """What a column of dates holds in the training rows, in a style that is known; NaN is left out."""

    style: DateStyle
    moments: Moments = field(default_factory=Moments)  # seconds since 1970
    n: int = 0  # training rows
    weekdays: NDArray[np.int64] = field(default_factory=lambda: np.zeros(7, dtype=np.int64))
    n_first: int = 0  # dates that are the first of a month
    n_midnight: int = 0  # that have no time of day

    def add(self, seconds: Floats) -> None:
        """Take in times of training rows, shape (rows,)."""
        self.n += len(seconds)
        seconds = seconds[np.isfinite(seconds)]
        self.moments.add(seconds)
        days = np.floor(seconds / DAY)
        self.weekdays += np.bincount((days.astype(np.int64) + 3) % 7, minlength=7)
        dates = days.astype(np.int64).astype("M8[D]")
        self.n_first += int((dates == dates.astype("M8[M]").astype("M8[D]")).sum())
        self.n_midnight += int((seconds == days * DAY).sum())

    @property
    def cycles(self) -> tuple[str, ...]:
        """Return the names of the cycles in which the times differ, as far as the style tells."""
        n = self.moments.n
        if self.style == "duration":
            return ()
        has_times = self.n_midnight < n
        if self.style == "clock":
            return ("day",) if has_times else ()
        years = (self.moments.high - self.moments.low) / DAY / YEAR
        has_days = self.weekdays.max() < _ONE_DAY * n and self.n_first < _ONE_DAY * n
        found = {"year": years >= _LEAST_YEARS, "week": has_days, "day": has_times}
        return tuple(name for name, is_there in found.items() if is_there)


@dataclass(frozen=True)
class DateColumn:
    """A column of dates or times: seconds since 1970, standardised, and sines and cosines of the calendar's cycles.

    A missing one is the mean, and 0 in all cycles.
    """

    name: str
    style: DateStyle  # how text is read
    mean: float  # of the training rows, in seconds since 1970-01-01 UTC
    scale: float  # their standard deviation, or a tenth of their range if that is more; above 0
    cycles: tuple[str, ...] = ()  # names in `CYCLES`
    trend: bool = True  # whether the time itself is a feature
    indicator: bool = False  # training rows had gaps, so another feature is 1 where the cell is missing
    junk: bool = False  # training rows had cells that are no dates; they count as missing
    kind: ClassVar[str] = "date"

    @property
    def feature_names(self) -> list[str]:
        """Return the names of the features that the column becomes."""
        waves = [
            f"{self.name} {'sin' if not quarter else 'cos'} {k} of the {name}"
            for name in self.cycles
            for k, quarter in _waves(CYCLES[name])
        ]
        return [self.name] * self.trend + [f"{self.name} is missing"] * self.indicator + waves

    def values(self, array: Any, start: int, infinities: Any) -> Floats:
        """Read cells as seconds since 1970-01-01 UTC, shape (rows,); NaN where they are missing."""
        seconds = as_times(array, self.style)
        lost = int(np.isnan(seconds).sum()) - count_missing(array)
        if lost > 0 and not self.junk:
            pairs = zip(array.to_pylist(), np.isnan(seconds), strict=True)
            example = next(cell for cell, gap in pairs if gap and cell is not None and str(cell).strip())
            before = f"{infinities.label!r}: column {self.name!r} held dates in the training rows"
            raise DataError(f"{before}; here {lost} cells are none, such as {example!r}. Mend or empty them.")
        return seconds

    def waves(self, seconds: Floats) -> list[Floats]:
        """Return the features of all cycles, each of shape (rows,); 0 for NaN."""
        gaps = np.isnan(seconds)
        return [
            np.where(gaps, 0.0, np.sin(2 * np.pi * _phase(seconds, CYCLES[name], k, quarter)))
            for name in self.cycles
            for k, quarter in _waves(CYCLES[name])
        ]


def _waves(cycle: Cycle) -> Sequence[tuple[int, float]]:
    return [(k, quarter) for k in range(1, cycle.waves + 1) for quarter in (0.0, 0.25)]


def wave_numbers(column: DateColumn) -> list[tuple[float, float, float, float, float]]:
    """Return for each wave: whether whole days count, the offset and the period in days, the multiple, the quarter."""
    return [
        (float(c.whole_days), c.offset, c.period, float(k), quarter)
        for c in (CYCLES[name] for name in column.cycles)
        for k, quarter in _waves(c)
    ]


def _phase(seconds: Floats, cycle: Cycle, k: int, quarter: float) -> Floats:
    days = seconds / DAY
    turns = ((np.floor(days) if cycle.whole_days else days) + cycle.offset) / cycle.period * k + quarter
    phase: Floats = turns - np.floor(turns)
    return phase


def date_column(name: str, counts: DateCounts, facts: DateFacts) -> DateColumn | str:
    """Return how to encode a column of dates, or why not to."""
    moments = facts.moments
    if not moments.n:
        return "all missing"
    gaps = moments.n < facts.n
    if moments.constant and not gaps:
        return "constant"
    cycles = () if moments.constant else facts.cycles
    trend = facts.style != "clock" or not cycles
    scale = 1.0 if moments.constant else moments.scale
    junk = counts.share < 1.0
    return DateColumn(name, facts.style, moments.center, scale, cycles, trend, indicator=gaps, junk=junk)
