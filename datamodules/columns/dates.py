"""Cells of a table's column, read as dates and times: seconds since 1970, whatever way they are written."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.cells import coded, kind_of

DateStyle = Literal["ymd", "dmy", "mdy", "compact", "clock", "duration"]
"""How a column writes its dates; a plain word, so that a checkpoint keeps it and new files are read alike.

`ymd`, `dmy` and `mdy` tell what 01/02/03 means, and the last two 01/02/2003. Dates that begin with four digits or name
their month are read under each of the three, and so are months, quarters and weeks, as their first day. `compact` is
20201231, `clock` a time of day, `duration` hours, minutes and seconds of any number of hours.
"""

DAY = 86400.0  # seconds
STYLES: tuple[DateStyle, ...] = get_args(DateStyle)
_YEARS = 1800, 2100  # of a date that is compact or lacks a day: other such numbers are something else
_PIVOT = 69  # two-digit years from here on are of the last century, as POSIX has it for strptime's %y
_JANUARY_ON = "january february march april may june july august september october november december"
_MONTH_OF = {name[:n]: at for at, name in enumerate(_JANUARY_ON.split(), 1) for n in range(3, len(name) + 1)}

# Arrow's strptime knows neither fractions of seconds nor zones, and names months in the machine's language: so its
# regular expressions (RE2) take the cells apart, and NumPy's calendar puts them together.
_TIME = r"(?P<H>\d{1,2}):(?P<M>\d{2})(?::(?P<S>\d{2}(?:[.,]\d+)?))?\s*(?P<p>[AaPp]\.?[Mm]\.?)?"
_ZONE = r"\s*(?P<z>[Zz]|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?"
_END = rf"(?:[T ,:]\s*{_TIME}{_ZONE})?\s*$"
_WEEKDAY = r"^\s*(?:(?i:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+)?"
_NUMBERS = rf"{_WEEKDAY}(?P<a>\d{{4}}|\d{{1,2}})(?P<s>[-/.])(?P<b>\d{{1,2}})(?P<t>[-/.])(?P<c>\d{{4}}|\d{{1,2}}){_END}"
_NAMED = (  # 31 Dec 2020; Dec 31, 2020; 2020-Dec-31; Dec 2020; 2020 Dec
    rf"{_WEEKDAY}(?P<d>\d{{1,2}})(?:st|nd|rd|th)?[-\s/.]*(?P<m>[A-Za-z]{{3,9}})\.?,?[-\s/]*(?P<y>\d{{4}}|\d{{2}}){_END}",
    rf"{_WEEKDAY}(?P<m>[A-Za-z]{{3,9}})\.?[-\s/]*(?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?:,|[-\s/])\s*(?P<y>\d{{4}}){_END}",
    rf"{_WEEKDAY}(?P<y>\d{{4}})[-\s/](?P<m>[A-Za-z]{{3,9}})\.?[-\s/](?P<d>\d{{1,2}}){_END}",
    rf"^\s*(?P<m>[A-Za-z]{{3,9}})\.?[-\s,/]*(?P<y>\d{{4}}){_END}",
    rf"^\s*(?P<y>\d{{4}})[-\s/]*(?P<m>[A-Za-z]{{3,9}})\.?{_END}",
)
_YEAR_MONTH = r"^\s*(?P<y>\d{4})[-/](?P<m>\d{2})\s*$"  # 2020-3 may be a term
_NO_DAY = (  # 2020-03, 2020M3; 03/2020; 2020Q1; Q1 2020; 2020-W05. 2020.03 is a number
    _YEAR_MONTH,
    r"^\s*(?P<y>\d{4})[-\s]?[Mm](?P<m>\d{1,2})\s*$",
    r"^\s*(?P<m>\d{1,2})[-/](?P<y>\d{4})\s*$",
    r"^\s*(?P<y>\d{4})[-\s/]?[Qq](?P<q>[1-4])\s*$",
    r"^\s*[Qq](?P<q>[1-4])[-\s/]?(?P<y>\d{4})\s*$",
    r"^\s*(?P<y>\d{4})[-\s]?W(?P<w>\d{2})\s*$",
)
_CLOCK = r"^\s*(?P<H>\d+):(?P<M>\d{2})(?::(?P<S>\d{2}(?:[.,]\d+)?))?\s*(?P<p>[AaPp]\.?[Mm]\.?)?\s*$"

Floats = NDArray[np.float64]


@dataclass
class DateCounts:
    """Counts the cells that can be read in each style, from which is told how a column writes its dates.

    Where no cell tells whether the day or the month is first, dots mean the day (31.12.2020), other signs the month,
    as pandas has it.
    """

    n: int = 0  # cells with something in them
    dates: dict[DateStyle, int] = field(default_factory=lambda: dict.fromkeys(STYLES, 0))
    n_short: int = 0  # cells of three numbers, the first of which is no year
    n_dotted: int = 0  # of these, with dots between them
    n_months: int = 0  # cells such as 2003-04
    n_seasons: int = 0  # of these, that may be a year and the next
    typed: DateStyle | None = None  # what the file itself says the column is

    def add(self, array: Any) -> None:
        """Take in a chunk of the column (an Arrow array)."""
        if kind_of(array.type) == "time":
            self.typed = _style_of(array.type)
            found = int(np.isfinite(_typed(array)).sum())
            self.n += found
            self.dates[self.typed] += found
            return
        array = coded(array)
        texts = _texts(array)
        codes = array.indices.drop_null().to_numpy(zero_copy_only=False)
        counts = np.bincount(codes.astype(np.int64), minlength=len(texts))
        self.n += int(counts[_found(texts, r"\S")].sum())
        read = _Readings(texts)
        self.n_months += int(counts[read.year_month].sum())
        self.n_seasons += int(counts[read.season].sum())
        for style in STYLES:
            self.dates[style] += int(counts[np.isfinite(read.seconds(style))].sum())
        self.n_short += int(counts[read.short].sum())
        self.n_dotted += int(counts[read.short & (read.sign == ".")].sum())

    @property
    def style(self) -> DateStyle | None:
        """Return the style that most cells can be read in; None where they can be in none."""
        if self.typed is not None:
            return self.typed
        days: tuple[DateStyle, ...] = ("dmy", "mdy") if self.n_dotted else ("mdy", "dmy")
        orders: tuple[DateStyle, ...] = (*days, "ymd") if self.n_short else ("ymd",)
        best = max((*orders, *STYLES[3:]), key=self._found)
        return best if self._found(best) else None

    def _found(self, style: DateStyle) -> int:
        # where no 2003-04 can be a month alone, all are seasons
        none = self.n_months if style in STYLES[:3] and self.n_seasons == self.n_months else 0
        return self.dates[style] - none

    @property
    def ambiguous(self) -> bool:
        """Return whether no cell tells if the day or the month is first where that matters."""
        return self.style in ("dmy", "mdy") and self.dates["dmy"] == self.dates["mdy"]

    @property
    def share(self) -> float:
        """Return the share of the cells with something in them that are dates in the style, from 0 to 1."""
        style = self.style
        return self._found(style) / self.n if style is not None else 0.0


def as_times(array: Any, style: DateStyle | None = None) -> Floats:
    """Read an Arrow array of any flat type as seconds since 1970-01-01 UTC, shape (rows,).

    NaN is a cell that is missing or no date. What names no zone is taken as UTC. A time of day counts from 0, and so
    does a duration. Text without a `style` is read in the one that most of its cells have.
    """
    kind = kind_of(array.type)
    if kind == "time":
        return _typed(array)
    if kind in ("other", "bool"):
        return np.full(len(array), np.nan)
    if style is None:
        counts = DateCounts()
        counts.add(array)
        style = counts.style
    if style is None:
        return np.full(len(array), np.nan)
    array = coded(array)
    seconds = np.append(_Readings(_texts(array)).seconds(style), np.nan)  # the last is reached by -1: missing
    codes = array.indices.fill_null(-1) if array.null_count else array.indices
    return seconds[np.asarray(codes.to_numpy(zero_copy_only=False), dtype=np.int64)]


def _style_of(dtype: Any) -> DateStyle:
    import pyarrow.types as at

    return "clock" if at.is_time(dtype) else "duration" if at.is_duration(dtype) else "ymd"


def _typed(array: Any) -> Floats:
    """Read an array of Arrow's dates, times, time stamps or durations."""
    import pyarrow as pa
    import pyarrow.types as at

    dtype = array.type
    if at.is_interval(dtype):  # months, days and nanoseconds: no number of seconds
        return np.full(len(array), np.nan)
    if at.is_date32(dtype):
        units = 1 / DAY
    elif at.is_date64(dtype):
        units = 1e3
    else:
        units = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[dtype.unit]
    whole = array.cast(pa.int32() if dtype.bit_width == 32 else pa.int64())
    missing = np.asarray(whole.is_null().to_numpy(zero_copy_only=False), dtype=bool)
    ticks = whole.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    # in two parts: nanoseconds since 1970 are more than float64 counts
    seconds = ticks * DAY if units < 1 else ticks // int(units) + (ticks % int(units)) / units
    return np.where(missing, np.nan, seconds)


def _texts(array: Any) -> Any:
    """Return the different values of a dictionary array as text; whole numbers without a fraction."""
    import pyarrow as pa

    values = array.dictionary
    if pa.types.is_floating(values.type):
        found = values.to_numpy(zero_copy_only=False)
        whole = np.isfinite(found) & (np.abs(found) < 1e9) & (found == np.floor(found))
        values = pa.array(np.where(whole, found, 0).astype(np.int64), mask=~whole)
    return values.cast(pa.string()) if not pa.types.is_string(values.type) else values


def _found(texts: Any, pattern: str) -> NDArray[np.bool_]:
    import pyarrow.compute as pc

    found = pc.match_substring_regex(texts, pattern).fill_null(False)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)


class _Readings:
    """Text cells taken apart once, and put together in whatever style."""

    def __init__(self, texts: Any) -> None:
        self._n = len(texts)
        self._texts = texts
        self._numbers = _Groups(texts, _NUMBERS)
        self._named = [_Groups(texts, pattern) for pattern in _NAMED]
        self._no_day = [_Groups(texts, pattern) for pattern in _NO_DAY]
        self._clock = _Groups(texts, _CLOCK)
        months = self._no_day[0]
        self.year_month = months.there & np.isfinite(_of_period(months))
        self.season = self.year_month & (months.whole("m") == (months.whole("y") + 1) % 100)
        self.sign = self._numbers.text("s")
        lengths = np.char.str_len(self._numbers.text("a"))
        self._year_first = lengths == 4
        self.short = self._numbers.there & ~self._year_first & (self.sign == self._numbers.text("t"))

    def seconds(self, style: DateStyle) -> Floats:
        """Return seconds since 1970, shape (texts,); NaN where a text is nothing in this style."""
        if style in ("clock", "duration"):
            return self._clock.time_of_day(most=np.inf if style == "duration" else 24.0)
        if style == "compact":
            return _compact(self._texts)
        out = self._of_numbers(style)
        for each in self._named:
            if each.there.any():
                month = np.array([_MONTH_OF.get(name.lower(), 0) for name in each.text("m").tolist()], dtype=np.int64)
                day = each.whole("d") if "d" in each.names else np.ones(self._n, dtype=np.int64)
                found = _days(_year(each, "y"), month, day) * DAY + each.time_of_day()
                out = np.where(np.isnan(out) & each.there, found, out)
        for each in self._no_day:
            if each.there.any():
                out = np.where(np.isnan(out) & each.there, _of_period(each) * DAY, out)
        return out

    def _of_numbers(self, style: DateStyle) -> Floats:
        parts = self._numbers
        if not parts.there.any():
            return np.full(self._n, np.nan)
        at = "abc"[style.index("y")], "abc"[style.index("m")], "abc"[style.index("d")]
        year, month, day = (
            np.where(self._year_first, parts.whole(f), parts.whole(o)) for f, o in zip("abc", at, strict=True)
        )
        digits = np.where(self._year_first, 4, np.char.str_len(parts.text(at[0])))
        year = _full_year(year, digits)
        # years have two digits or four, days two at most; and 1/2-2003 is nothing
        last = np.where(self._year_first | (style == "ymd"), np.char.str_len(parts.text("c")), 0)
        fits = (self.sign == parts.text("t")) & (digits % 2 == 0) & (last <= 2)
        seconds = _days(year, month, day) * DAY + parts.time_of_day()
        return np.where(parts.there & fits, seconds, np.nan)


class _Groups:
    """What the groups of a regular expression hold, for each text; empty where it doesn't match."""

    def __init__(self, texts: Any, pattern: str) -> None:
        import pyarrow.compute as pc

        found = pc.extract_regex(texts, pattern)
        self.there = np.asarray(found.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
        self.names = [each.name for each in found.type]
        self._found = found

    def text(self, name: str) -> NDArray[np.str_]:
        """Return what the group holds."""
        if not self.there.any():
            return np.zeros(len(self.there), dtype="U1")
        found = self._found.field(name).fill_null("").to_numpy(zero_copy_only=False).astype(np.str_)
        return np.where(self.there, found, "")

    def number(self, name: str) -> Floats:
        """Return what the group holds as a number; 0 where it is empty."""
        if not self.there.any():
            return np.zeros(len(self.there))
        text = np.char.replace(self.text(name), ",", ".")
        return np.where(text == "", "0", text).astype(np.float64)

    def whole(self, name: str) -> NDArray[np.int64]:
        """Return what the group holds as a whole number; 0 where it is empty."""
        return self.number(name).astype(np.int64)

    def time_of_day(self, most: float = 24.0) -> Floats:
        """Return the seconds since midnight, in UTC; NaN where that is no time of day, or from `most` hours on."""
        if not self.there.any():
            return np.full(len(self.there), np.nan)
        hours, minutes, seconds, half = self.number("H"), self.number("M"), self.number("S"), self.text("p")
        letter = np.char.lower(half.astype("U1"))
        fits = (hours < most) & (minutes < 60) & (seconds < 61) & ((letter == "") | ((hours >= 1) & (hours <= 12)))
        hours = np.where(letter == "", hours, hours % 12 + 12 * (letter == "p"))
        offset = np.zeros(len(hours))
        if "z" in self.names:
            zone = np.char.replace(self.text("z"), ":", "")
            signed = np.char.startswith(zone, "+") | np.char.startswith(zone, "-")
            digits = np.where(signed, np.char.ljust(zone.astype("U5"), 5, "0"), "+0000")
            clock = np.array([int(text) for text in digits.tolist()], dtype=np.int64)
            offset = np.sign(clock) * (np.abs(clock) // 100 * 3600 + np.abs(clock) % 100 * 60.0)
        return np.where(fits & self.there, hours * 3600 + minutes * 60 + seconds - offset, np.nan)


def _year(parts: _Groups, name: str) -> NDArray[np.int64]:
    return _full_year(parts.whole(name), np.char.str_len(parts.text(name)))


def _full_year(year: NDArray[np.int64], digits: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(digits > 2, year, np.where(year < _PIVOT, 2000, 1900) + year)


def _of_period(parts: _Groups) -> Floats:
    """Return the first day of each month, quarter or ISO week, in days since 1970; NaN where there is none."""
    year = parts.whole("y")
    one = np.ones(len(year), dtype=np.int64)
    if "w" in parts.names:
        week = parts.whole("w")
        fourth = _days(year, one, 4 * one)  # of January, which is in the first week; 1970 began on a Thursday
        days = fourth - (fourth + 3) % 7 + 7 * (week - 1)
        fits = (week >= 1) & (days + 3 < _days(year + 1, one, one))  # a week is of the year of its Thursday
        days = np.where(fits, days, np.nan)
    else:
        month = parts.whole("m") if "m" in parts.names else 3 * parts.whole("q") - 2
        days = _days(year, month, one)
    return np.where(parts.there & (year >= _YEARS[0]) & (year <= _YEARS[1]), days, np.nan)


def _compact(texts: Any) -> Floats:
    parts = _Groups(texts, r"^\s*(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})\s*$")
    year = parts.whole("y")
    fits = parts.there & (year >= _YEARS[0]) & (year <= _YEARS[1])
    return np.where(fits, _days(year, parts.whole("m"), parts.whole("d")) * DAY, np.nan)


def _days(year: NDArray[np.int64], month: NDArray[np.int64], day: NDArray[np.int64]) -> Floats:
    """Return the days since 1970-01-01 of dates of the Gregorian calendar; NaN where there is no such day."""
    fits = (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    months = np.where(fits, (year - 1970) * 12 + month - 1, 0).astype("M8[M]")
    days = months.astype("M8[D]") + np.where(fits, day - 1, 0)
    fits &= days.astype("M8[M]") == months  # no 30 February
    return np.where(fits, days.astype(np.int64).astype(np.float64), np.nan)
