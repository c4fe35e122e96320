"""Counts and sums of one column's training rows, from which is told what the column is."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.cells import (
    NUMERIC_SHARE,
    SAMPLE,
    Kind,
    Numbers,
    as_labels,
    coded,
    count_missing,
    says_nothing,
)
from datamodules.columns.dates import DateCounts
from datamodules.columns.written import Written, maybe_thousands, read_written

COUNTS_ROWS = "only counts the rows"  # why such a column is left out
MAX_TRACKED = 20_000  # different names remembered of a column; more of them can only be text or an identifier
_COUNTERS = frozenset({"", "rownames", "rowname", "row", "rowid", "row_id", "index", "unnamed: 0"})
_FIRST = 10  # cells of each chunk that are looked at, letter by letter
_FIRST_DATE, _LAST_DATE = 18_000_101, 21_001_231  # as numbers: between them every cell has to be a date
ALL_DIFFER = "are different"  # likewise
_IDENTIFIER = re.compile(r"(?i:(^|[^a-z])(ids?|uuid|guid|key|pk)$|^id[^a-z])|[a-z]I[dD]$")
_NUMBER = re.compile(r"(?i)(^|[^a-z])(number|no|nr|num|serial|account)\.?$")
_THING = re.compile(  # what rows are often, and is numbered then in any order
    r"(?i)^(case|obs|observation|subject|subj|patient|pat|person|participant|respondent|record|row|index|sample)s?\.?$"
)
_FEW_ROWS = 20  # of fewer, whole numbers may well all be different
_MOST_DISTINCT = 2**22  # numbers kept of a column to tell whether all are different
# What statistics programs and people write for a missing number, below or above all others; at least so many of them.
_CODES = (-9.0, -99.0, -999.0, -9999.0, -99999.0, 999.0, 9999.0, 99999.0, 999999.0)
_LEAST_CODES, _LEAST_SHARE = 3, 0.005
_FAR_OFF = 0.5  # of the range of the others
_LEADING_ZERO = re.compile(r"[+-]?0\d")


def is_identifier_name(name: str) -> bool:
    """Return whether a column's name says that it is an identifier."""
    return bool(_IDENTIFIER.search(name))


def is_thing_name(name: str) -> bool:
    """Return whether a column's name says that it names or numbers the rows, or the things that have some."""
    return is_identifier_name(name) or bool(_THING.match(name))


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
    kept: bool = False  # the user says it is no identifier
    named: bool = False  # names are counted of numbers too
    n: int = 0  # training rows seen
    n_unnamed: int = 0  # of these, before the first name was counted
    n_missing: int = 0  # of these, missing cells (no junk)
    n_numbers: int = 0  # of these, numbers, infinite ones too
    n_junk: int = 0  # of these, cells that are text where the others are numbers
    junk: str | None = None  # one of those
    moments: Moments = field(default_factory=Moments)  # of the cells that are numbers
    codes: dict[float, int] = field(default_factory=dict)  # cells that may stand for a missing number
    others: tuple[float, float] = (float("inf"), float("-inf"))  # least and largest of the others
    n_infinite: int = 0  # among ALL rows read
    sampled: NDArray[np.int64] | None = None  # numbers of training rows, sorted, whose cells are kept
    sample: list[NDArray[np.float64]] = field(default_factory=list)  # those as numbers, a chunk's after the other's
    first_infinite: int | None = None  # the number of that row
    row_numbers: tuple[int, ...] = (0, 1)  # offsets c for which cell i has been i + c in every row so far
    last: float | None = float("-inf")  # largest training cell, while each was larger than the one before
    falling: float | None = float("inf")  # smallest one, while each was smaller than the one before
    counts: dict[str, int] = field(default_factory=dict)  # of each name; a sample beyond `MAX_TRACKED` names
    overflow: bool = False  # whether there were more
    zeros: str | None = None  # a cell such as "01234", among the first of each chunk
    dotted: str | None = ""  # a cell such as "1.234", if the first of each chunk may all be thousands; else None
    written: Written = ()  # how its numbers are written, told before
    ambiguous: bool = False  # and whether that was a choice between two
    distinct: list[NDArray[np.float64]] | None = field(default_factory=list)  # whole numbers, while all differ

    def add(self, array: Any, rows: NDArray[np.int64], start: int) -> None:
        """Take in a chunk (an Arrow array) that begins at row `start`; `rows`, counted within it, are to train on."""
        self.n += len(rows)
        if self.kind == "other" or (self.kind == "time" and not self.forced):
            self.n_missing += int(np.asarray(array.is_null().to_numpy(zero_copy_only=False))[rows].sum())
            return
        if self.kind in ("number", "text") and not self.forced:
            before = self.n_numbers
            self._add_numbers(read_written(array, self.written), rows, start)
            if self.kind == "text" and self.zeros is None:
                first = array.slice(0, _FIRST).to_pylist()
                self.zeros = next((cell for cell in first if cell and _LEADING_ZERO.match(cell)), None)
                if self.dotted is not None and any(first):
                    self.dotted = maybe_thousands(first)
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
        self._add_codes(values)
        self._add_distinct(values)
        if self.last is not None:
            rising = values[0] > self.last and values[-1] >= values[0] and bool(np.all(values[1:] > values[:-1]))
            self.last = float(values[-1]) if rising else None
        if self.falling is not None:
            falling = values[0] < self.falling and values[-1] <= values[0] and bool(np.all(values[1:] < values[:-1]))
            self.falling = float(values[-1]) if falling else None
        first = values[0] - rows[0] - start  # tells most columns
        self.row_numbers = tuple(c for c in self.row_numbers if c == first and np.array_equal(values, rows + start + c))

    def _add_codes(self, values: NDArray[np.float64]) -> None:
        values = values[~np.isnan(values)]
        for _ in range(2):  # the least and the largest may be one
            low, high = (values.min(), values.max()) if len(values) else self.others
            for code in {low, high}.intersection(_CODES):
                self.codes[code] = self.codes.get(code, 0) + int((values == code).sum())
                values = values[values != code]
        if len(values):
            self.others = min(self.others[0], float(values.min())), max(self.others[1], float(values.max()))

    def _add_distinct(self, values: NDArray[np.float64]) -> None:
        # most columns are told by their first cells; the others cost a sort
        if self.distinct is None:
            return
        few = values[:SAMPLE]
        if len(np.unique(few)) < len(few) or not (few == np.floor(few)).all() or self.moments.n > _MOST_DISTINCT:
            self.distinct = None
            return
        ordered = np.unique(values)
        all_new = len(ordered) == len(values) and bool((ordered == np.floor(ordered)).all())
        all_new = all_new and not any(
            len(np.intersect1d(known, ordered, assume_unique=True)) for known in self.distinct
        )
        self.distinct = [*self.distinct, ordered] if all_new else None

    def _add_labels(self, array: Any) -> None:
        # past `MAX_TRACKED` names only the gaps are counted, as spelling names out costs most
        import pyarrow as pa

        if isinstance(array, pa.DictionaryArray):  # its list may hold values that no training row has
            array = array.dictionary.take(array.indices)
        array = array if self.overflow else coded(array)
        if not self.overflow and not self.forced and len(array.dictionary) > MAX_TRACKED:
            self.overflow = True
            sample = as_labels(array.dictionary.slice(0, SAMPLE))
            self.counts = dict(list(self.counts.items())[:SAMPLE]) or dict.fromkeys(sample.names, 1)
            array = array.dictionary.take(array.indices)
        if self.overflow:
            self.n_missing += count_missing(array)
            return
        read = as_labels(array)
        self.n_missing += int((read.codes < 0).sum())
        counts = np.bincount(read.codes + 1, minlength=len(read.names) + 1)[1:]
        for name, count in zip(read.names, counts.tolist(), strict=True):
            self.counts[name] = self.counts.get(name, 0) + count
        if len(self.counts) > MAX_TRACKED and not self.forced:
            self.overflow = True
            self.counts = dict(list(self.counts.items())[:SAMPLE])

    @property
    def n_present(self) -> int:
        """Return the number of training rows with a cell, junk included."""
        return self.n - self.n_missing

    @property
    def are_numbers(self) -> bool:
        """Return whether these are numbers: by the file's word, or nine in ten of the cells that say something.

        A cell that stands for a missing number, or spells NaN in whatever way, says nothing.
        """
        if self.forced or self.kind not in ("number", "text") or not self.n_numbers:
            return False
        said = self.n_present - sum(n for name, n in self.counts.items() if says_nothing(name))
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
    def missing_code(self) -> tuple[float, int] | None:
        """Return a number that may stand for a missing one, such as -99, and how often it occurs; None without one.

        It is below or above all others, by half their range, or the only one below 0, and occurs again and again.
        """
        low, high = self.others
        for code, n in self.codes.items():
            beyond = low - code if code < low else code - high
            far = beyond >= _FAR_OFF * (high - low) or code < 0 <= low
            if beyond > 0 and low < high and far and n >= max(_LEAST_CODES, _LEAST_SHARE * self.n):
                return code, n
        return None

    def is_identifier(self, n_rows: int) -> bool:
        """Return whether these are whole numbers, all different, that name the rows of a table of `n_rows`.

        That is what their name says; or they number the rows from first to last or back. Amounts that happen to
        differ are spread wider than that, and years begin later.
        """
        if not self._all_differ:
            return False
        in_order = self.last is not None or self.falling is not None
        if is_identifier_name(self.name) or (self._are_row_numbers(n_rows) and (in_order or is_thing_name(self.name))):
            return True
        dense = in_order or self.moments.high - self.moments.low < 20 * n_rows
        return dense and bool(_NUMBER.search(self.name))

    def may_be_ranking(self, n_rows: int) -> bool:
        """Return whether these are row numbers in an order of their own: places in a ranking, or shuffled ones."""
        return self._all_differ and self._are_row_numbers(n_rows)

    @property
    def _all_differ(self) -> bool:
        return self.distinct is not None and self.n >= _FEW_ROWS and self.moments.n == self.n

    def _are_row_numbers(self, n_rows: int) -> bool:
        low = self.moments.low
        return self.moments.high - low < n_rows and 0 <= low <= 1 + 0.05 * n_rows

    @property
    def may_be_dates(self) -> bool:
        """Return whether the cells have to be looked at as dates: by the file's word, by some names, or as 20201231."""
        import pyarrow as pa

        if self.forced or self.kind == "time":
            return not self.forced
        if self.kind not in ("text", "number", "category") or not self.n_present:
            return False
        if self.are_numbers:
            return self.moments.low >= _FIRST_DATE and self.moments.high <= _LAST_DATE and not self.n_junk
        counts = DateCounts()
        counts.add(pa.array(list(self.counts)[:SAMPLE], type=pa.string()))
        return counts.share >= NUMERIC_SHARE
