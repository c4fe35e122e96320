"""Columns of a table: cells read as numbers or names, and the counts and sums of one column's training rows."""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["number", "text", "bool", "category", "time", "other"]
"""What the file says a column is: `text` may still be numbers, as everything in a CSV is text."""

NUMERIC_SHARE = 0.9  # of a text column's cells that must parse for it to be numbers; the rest is junk such as "?"
MAX_TRACKED = 20_000  # different names remembered of a column; more of them can only be text or an identifier
_COUNTERS = frozenset({"", "rownames", "rowname", "row", "rowid", "row_id", "index", "unnamed: 0"})
_FIRST = 10  # cells of each chunk that are looked at, letter by letter
_SAMPLE = 200  # names kept of a column with more than that, to tell dates from text
_DATE = re.compile(
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))"
    r"([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?\s?([AaPp][Mm])?\s?(Z|[+-]\d{2}:?\d{2})?)?"
    r"|\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?"
)
_LEADING_ZERO = re.compile(r"[+-]?0\d")
_WRITTEN = re.compile(  # 1,234.5 or 1.234,5 or 12,5 or $5 or 7 %
    r"[€$£¥]?\s?[+-]?(\d{1,3}([,.'’\s]\d{3})+|\d+)([.,]\d+)?\s?(%|€|\$|£|¥)?"
)
_WHOLE_FLOAT = re.compile(r"[+-]?\d+\.0+")


@dataclass(frozen=True)
class Numbers:
    """A column that was read as numbers."""

    values: NDArray[np.float64]  # shape (rows,); NaN where the cell is missing or no number
    n_junk: int = 0  # cells that hold something that is no number
    example: str | None = None  # one of those


@dataclass(frozen=True)
class Labels:
    """A column that was read as names: `names[codes[i]]` is row i."""

    codes: NDArray[np.int64]  # shape (rows,); -1 where the cell is missing
    names: list[str]  # distinct, in order of appearance


def kind_of(dtype: Any) -> Kind:
    """Tell what sort of column an Arrow type holds."""
    import pyarrow.types as at

    if at.is_dictionary(dtype):
        return "category"
    if at.is_boolean(dtype):
        return "bool"
    if at.is_integer(dtype) or at.is_floating(dtype) or at.is_decimal(dtype):
        return "number"
    if at.is_string(dtype) or at.is_large_string(dtype) or at.is_string_view(dtype) or at.is_null(dtype):
        return "text"
    if at.is_temporal(dtype):
        return "time"
    return "other"


def label_of(value: object) -> str | None:
    """Return a cell as a name; None for a missing one (None, NaN, empty or blank text).

    Whole floats, also as text, lose the ".0" that pandas gives whole numbers with gaps: one name in every file.
    """
    if value is None or value != value:
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    text = str(value).strip()
    if _WHOLE_FLOAT.fullmatch(text):
        text = text.partition(".")[0]
    return text or None


def _coded(array: Any) -> Any:
    # cells replaced by numbers into the list of the different values
    import pyarrow as pa

    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    return array if isinstance(array, pa.DictionaryArray) else array.dictionary_encode()


def _values(array: Any) -> list[Any]:
    import pyarrow as pa

    try:
        return list(array.to_pylist())
    except (ValueError, OverflowError):  # a time beyond the year 9999, or in a zone that is none: as the file counts it
        return list(array.cast(pa.int64() if array.type.bit_width == 64 else pa.int32()).to_pylist())


def as_labels(array: Any) -> Labels:
    """Read an Arrow array of any flat type as names."""
    import pyarrow as pa

    array = _coded(array)
    places: dict[str, int] = {}
    # one entry more, reached by code -1: the cell that is missing
    remap = np.full(len(array.dictionary) + 1, -1, dtype=np.int64)
    for i, value in enumerate(_values(array.dictionary)):
        name = label_of(value)
        if name is not None:
            remap[i] = places.setdefault(name, len(places))
    raw = array.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    return Labels(remap[raw], list(places))


def as_numbers(array: Any) -> Numbers:
    """Read an Arrow array as numbers; what is no number becomes NaN and is counted as junk."""
    import pyarrow as pa

    kind = kind_of(array.type)
    if kind == "bool":
        array = array.cast(pa.int8())
    if kind in ("text", "category"):
        return _numbers_in_text(array)
    values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return Numbers(np.asarray(values, dtype=np.float64))


def _numbers_in_text(array: Any) -> Numbers:
    import pyarrow as pa

    if kind_of(array.type) == "text":
        with suppress(pa.ArrowInvalid):  # the common case: every cell is a number or missing
            values = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
            return Numbers(np.asarray(values, dtype=np.float64))
    labels = as_labels(array)
    parsed = np.array([*map(number_of, labels.names), np.nan])
    spelt_nan = np.array([*map(_spells_nan, labels.names), True])
    is_junk = np.isnan(parsed) & ~spelt_nan
    n_junk = int(is_junk[labels.codes].sum())
    blanks = _count_blanks(array)
    example = next((n for n, bad in zip(labels.names, is_junk, strict=False) if bad), " " if blanks else None)
    return Numbers(parsed[labels.codes], n_junk + blanks, example)


def _spells_nan(name: str) -> bool:
    return name.lower().lstrip("+-") == "nan"


def _count_blanks(array: Any) -> int:
    # cells that hold only white space: no number, though as a name they count as missing
    import pyarrow.compute as pc

    return int(pc.sum(pc.utf8_is_space(array)).as_py() or 0) if kind_of(array.type) == "text" else 0


def written_number(names: Iterable[str]) -> str | None:
    """Return one of the names if nine in ten are numbers as people write them: 1,234 or 12 % or $5; else None."""
    sample = list(islice(names, _SAMPLE))
    found = [name for name in sample if _WRITTEN.fullmatch(name) and number_of(name) != number_of(name)]
    return found[0] if found and len(found) >= NUMERIC_SHARE * len(sample) else None


def alike(names: Iterable[str]) -> list[str]:
    """Return the names that differ from another one in nothing but case and spaces, such beside each other."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("".join(name.casefold().split()), []).append(name)
    return [name for group in groups.values() if len(group) > 1 for name in group]


def _count_missing(array: Any) -> int:
    # cells without a name (None, empty or blank text), counted without making a list of names
    import pyarrow.compute as pc

    empty = pc.sum(pc.equal(array, "")).as_py() or 0 if kind_of(array.type) == "text" else 0
    return int(array.null_count + empty + _count_blanks(array))


def number_of(text: str) -> float:
    """Return the number that a CSV writes so; NaN for anything else ("1_000" is a Python habit, not a number)."""
    try:
        return float("nan" if "_" in text else text)
    except ValueError:
        return float("nan")


def single(chunk: Any, name: str) -> Any:
    """Return one column of a chunk (an Arrow table) as one Arrow array."""
    import pyarrow as pa

    column = chunk.column(name)
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


@dataclass
class Moments:
    """Count, mean and spread of numbers, merged exactly by Chan's formula; NaN is left out.

    Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance": sums of squares would lose a small
    spread around a large mean.
    """

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")

    def add(self, values: NDArray[np.float64]) -> None:
        """Take in more numbers, shape (rows,); NaN and infinities are left out."""
        values = values[np.isfinite(values)]
        n = len(values)
        if n == 0:
            return
        with np.errstate(over="ignore", invalid="ignore"):  # numbers near 1e308: `std` copes
            mean = float(values.mean())
            m2 = float(np.square(values - mean).sum())
            delta = mean - self.mean
            total = self.n + n
            self.m2 += m2 + delta * delta * self.n * n / total
            self.mean += delta * n / total
        self.n = total
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    @property
    def constant(self) -> bool:
        """Return whether all numbers are one, up to what float64 can tell apart after a mean was taken off."""
        size = max(abs(self.low), abs(self.high))
        return self.n == 0 or self.high - self.low <= 1e-13 * size

    @property
    def center(self) -> float:
        """Return the mean; where that overflowed, the middle of the range."""
        return self.mean if np.isfinite(self.mean) else self.low / 2 + self.high / 2

    @property
    def std(self) -> float:
        """Return the standard deviation (of all, not a sample's); half the range where its square leaves float64."""
        variance = self.m2 / self.n if self.n else 0.0
        if np.isfinite(variance) and variance > 1e-300:
            return float(np.sqrt(variance))
        return (self.high / 2 - self.low / 2) or 1.0

    @property
    def scale(self) -> float:
        """Return the number to divide by: the standard deviation, or a tenth of the range where that is larger.

        In a column of nearly all zeros, or with a heavy tail, a rare cell lies 30 standard deviations out; as an
        input of a network it would outweigh all others. A tenth of the range keeps it linear and within 10.
        """
        return max(self.std, self.high / 10 - self.low / 10) if self.n else self.std


@dataclass
class ColumnSummary:
    """Counts and sums of a column's training rows, as far as it has been read.

    The names of a text column are counted from the first chunk on that holds something other than numbers. Where that
    was not the first of all and the column is no number column after all, it `lacks_names`, and has to be read again.
    """

    name: str
    kind: Kind  # what the file says it is
    forced: bool = False  # the user says it is a category
    named: bool = False  # names are counted of numbers too
    n: int = 0  # training rows seen
    n_unnamed: int = 0  # of these, before the first name was counted
    n_missing: int = 0  # of these, missing cells (no junk)
    n_numbers: int = 0  # of these, numbers, infinite ones too
    n_junk: int = 0  # of these, cells that are text where the others are numbers
    junk: str | None = None  # one of those
    moments: Moments = field(default_factory=Moments)  # of the cells that are numbers
    n_infinite: int = 0  # among ALL rows read
    sampled: NDArray[np.int64] | None = None  # numbers of training rows, sorted, whose cells are kept
    sample: list[NDArray[np.float64]] = field(default_factory=list)  # those as numbers, a chunk's after the other's
    first_infinite: int | None = None  # the number of that row
    row_numbers: tuple[int, ...] = (0, 1)  # offsets c for which cell i has been i + c in every row so far
    last: float | None = float("-inf")  # largest training cell, while each was larger than the one before
    counts: dict[str, int] = field(default_factory=dict)  # of each name; a sample beyond `MAX_TRACKED` names
    overflow: bool = False  # whether there were more
    zeros: str | None = None  # a cell such as "01234", among the first of each chunk

    def add(self, array: Any, rows: NDArray[np.int64], start: int) -> None:
        """Take in a chunk (an Arrow array) that begins at row `start`; `rows`, counted within it, are to train on."""
        self.n += len(rows)
        if self.kind == "other" or (self.kind == "time" and not self.forced):
            self.n_missing += int(np.asarray(array.is_null().to_numpy(zero_copy_only=False))[rows].sum())
            return
        if self.kind in ("number", "text") and not self.forced:
            before = self.n_numbers
            self._add_numbers(as_numbers(array), rows, start)
            if self.kind == "text" and self.zeros is None:
                first = array.slice(0, _FIRST).to_pylist()
                self.zeros = next((cell for cell in first if cell and _LEADING_ZERO.match(cell)), None)
            if not self.named and not self.n_junk:  # numbers so far, and names cost most of the time
                self.n_missing += len(rows) - (self.n_numbers - before)
                self.n_unnamed += len(rows)
                return
        self._add_labels(array.take(rows))

    def _add_numbers(self, read: Numbers, rows: NDArray[np.int64], start: int) -> None:
        values = read.values[rows]
        if np.isfinite(read.values).all():
            self.n_numbers += len(values)
        else:
            infinite = np.flatnonzero(np.isinf(read.values))
            if len(infinite) and self.first_infinite is None:
                self.first_infinite = start + int(infinite[0])
            self.n_infinite += len(infinite)
            self.n_numbers += len(values) - int(np.isnan(values).sum())
        if self.sampled is not None:
            low, high = np.searchsorted(self.sampled, [start, start + len(read.values)])
            self.sample.append(read.values[self.sampled[low:high] - start])
        self.n_junk += read.n_junk
        self.junk = self.junk or read.example
        self.moments.add(values)
        if not len(values):
            return
        if self.last is not None:
            rising = values[0] > self.last and values[-1] >= values[0] and bool(np.all(values[1:] > values[:-1]))
            self.last = float(values[-1]) if rising else None
        first = values[0] - rows[0] - start  # tells most columns
        self.row_numbers = tuple(c for c in self.row_numbers if c == first and np.array_equal(values, rows + start + c))

    def _add_labels(self, array: Any) -> None:
        # past `MAX_TRACKED` names only the gaps are counted, as spelling names out costs most
        import pyarrow as pa

        if isinstance(array, pa.DictionaryArray):  # its list may hold values that no training row has
            array = array.dictionary.take(array.indices)
        array = array if self.overflow else _coded(array)
        if not self.overflow and not self.forced and len(array.dictionary) > MAX_TRACKED:
            self.overflow = True
            sample = as_labels(array.dictionary.slice(0, _SAMPLE))
            self.counts = dict(list(self.counts.items())[:_SAMPLE]) or dict.fromkeys(sample.names, 1)
            array = array.dictionary.take(array.indices)
        if self.overflow:
            self.n_missing += _count_missing(array)
            return
        read = as_labels(array)
        self.n_missing += int((read.codes < 0).sum())
        counts = np.bincount(read.codes + 1, minlength=len(read.names) + 1)[1:]
        for name, count in zip(read.names, counts.tolist(), strict=True):
            self.counts[name] = self.counts.get(name, 0) + count
        if len(self.counts) > MAX_TRACKED and not self.forced:
            self.overflow = True
            self.counts = dict(list(self.counts.items())[:_SAMPLE])

    @property
    def n_present(self) -> int:
        """Return the number of training rows with a cell, junk included."""
        return self.n - self.n_missing

    @property
    def are_numbers(self) -> bool:
        """Return whether these are numbers: by the file's word, or nine in ten of the cells that say something.

        A cell that spells NaN in whatever way says nothing.
        """
        if self.forced or self.kind not in ("number", "text") or not self.n_numbers:
            return False
        said = self.n_present - sum(n for name, n in self.counts.items() if _spells_nan(name))
        return self.kind == "number" or self.n_numbers >= NUMERIC_SHARE * max(said, self.n_numbers)

    @property
    def lacks_names(self) -> bool:
        """Return whether names are needed to tell what it is, and were not counted from the first row on."""
        return self.kind == "text" and not self.forced and self.n_unnamed > 0 and not self.are_numbers

    @property
    def is_row_number(self) -> bool:
        """Return whether the column only counts the rows: from 0 or 1, or rising under a name that says so.

        The second is what a part of a numbered table looks like. Tables are often sorted by what is to be predicted,
        so that their row numbers tell the target in training, and nothing in a new table.
        """
        if self.n < 2 or self.moments.n != self.n:
            return False
        return bool(self.row_numbers) or (self.last is not None and self.name.strip().lower() in _COUNTERS)

    @property
    def looks_like_dates(self) -> bool:
        """Return whether nine in ten of the names are written like a date or a time of day."""
        names = list(self.counts)[:_SAMPLE]
        return bool(names) and sum(map(bool, map(_DATE.fullmatch, names))) >= 0.9 * len(names)
