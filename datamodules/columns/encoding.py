"""Columns as features: numbers standardised and in bins, categories one-hot; and as inputs of an exported model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.calendar import DateColumn
from datamodules.columns.cells import as_labels, kind_of, single
from datamodules.columns.written import read_written
from datamodules.errors import DataError, nearest, shortened

TAIL = 6.0
"""Scales up to which a number stays linear; beyond, it grows with the logarithm.

Heavy tails carry signal (a flight that leaves ten hours late arrives late), so nothing is clipped, and a column's
scale grows with its range (`Moments.scale`). But a cell far outside, a sentinel or a slip of units, makes an SGD step
that ends the training. On digits, ames, cells and Chicago (validation loss, three seeds) this came out at or near
the best of plain standardising, logarithms from 3, 5 or 10 deviations on, and scaling by an eighth or twelfth of
the range.
"""

_BLOCK = 256  # rows expanded in one go: they stay in the processor's cache, which takes a third of the time


@dataclass(frozen=True)
class NumericColumn:
    """A column of numbers, standardised; a missing one becomes the mean, that is 0.

    With `edges` it is also encoded piecewise linearly: bin t is clip((x - edges[t]) / (edges[t + 1] - edges[t]), 0, 1)
    minus its mean over the training rows, and 0 where the cell is missing (Gorishniy et al. 2022, "On embeddings for
    numerical features in tabular deep learning", arXiv:2203.05556).
    """

    name: str
    mean: float  # of the training rows
    scale: float  # their standard deviation, or a tenth of their range if that is more; above 0
    indicator: bool = False  # training rows had gaps, so a second feature is 1 where the cell is missing
    junk: bool = False  # training rows had text among the numbers; it counts as missing
    constant: bool = False  # all present cells were one number: only the indicator says anything
    edges: tuple[float, ...] = ()  # of the bins, rising; none, or at least three
    bin_means: tuple[float, ...] = ()  # of the training rows, one a bin
    written: tuple[str, ...] = ()  # how text is read, see `written.Written`
    low: float | None = None  # the smallest number of the training rows; None where all were one, or nobody noted it
    high: float | None = None  # likewise the largest
    kind: ClassVar[str] = "numeric"

    @property
    def feature_names(self) -> list[str]:
        """Return the names of the features that the column becomes."""
        plain = [self.name] * (not self.constant) + [f"{self.name} is missing"] * self.indicator
        return plain + [f"{self.name} bin {t + 1}" for t in range(len(self.bin_means))]

    def values(self, array: Any, start: int, infinities: "InfinityCount") -> NDArray[np.float64]:
        """Read cells as numbers, shape (rows,); NaN where they are missing."""
        read = read_written(array, self.written)
        if read.n_junk and not self.junk:
            found = f"here {read.n_junk} cells are text, such as {read.example!r}"
            before = f"{infinities.label!r}: column {self.name!r} held numbers in the training rows"
            raise DataError(f"{before}; {found}. Mend or empty them.")
        infinities.add(self, read.values, start)
        return read.values

    def encode(self, array: Any, start: int, infinities: "InfinityCount") -> NDArray[np.float32]:
        """Encode cells, shape (rows,), as float32 of shape (rows, features), all bins in one: see `positions`."""
        values = self.values(array, start, infinities)
        missing, scaled = np.isnan(values), scaled_values(values, self.mean, self.scale)
        parts = [scaled] * (not self.constant) + [missing] * self.indicator
        parts += [positions(values, self.edges)] if self.edges else []
        return np.stack(parts, axis=1).astype(np.float32)


def scaled_values(values: NDArray[np.float64], mean: float, scale: float) -> NDArray[np.float64]:
    """Return numbers standardised, linear up to `TAIL` and logarithmic beyond; 0 for NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (values - mean) / scale
    scaled[np.isnan(values)] = 0.0
    far = np.abs(scaled) > TAIL
    if far.any():
        z = np.abs(np.nan_to_num(scaled[far], posinf=np.finfo(np.float64).max))
        scaled[far] = np.sign(scaled[far]) * (TAIL + np.log1p(z - TAIL))
    return scaled


def encoded_dates(column: DateColumn, seconds: NDArray[np.float64]) -> NDArray[np.float32]:
    """Encode times, shape (rows,), as float32 of shape (rows, features)."""
    trend = [scaled_values(seconds, column.mean, column.scale)] * column.trend
    parts = [*trend, *[np.isnan(seconds)] * column.indicator, *column.waves(seconds)]
    return np.stack(parts, axis=1).astype(np.float32)


def positions(values: NDArray[np.float64], edges: Sequence[float]) -> NDArray[np.float64]:
    """Return how many bins lie below each number, and the share of its own that does: one number that tells all bins.

    Shape (rows,), from 0 at the first edge to the number of bins at the last, and NaN for NaN.
    """
    at = np.asarray(edges)
    bins = np.clip(np.searchsorted(at, values, side="right") - 1, 0, len(at) - 2)
    with np.errstate(over="ignore"):  # far outside: the clip copes
        share = np.clip((values - at[bins]) / (at[bins + 1] - at[bins]), 0.0, 1.0)
    position: NDArray[np.float64] = bins + share
    return position


@dataclass(frozen=True)
class CategoryColumn:
    """A column of categories, one-hot over the names that were frequent enough in the training rows.

    With `infrequent`, rarer names and those never seen share one feature; without it they have 0 in every feature.
    With `missing`, as training rows had gaps, these have a feature; without it a gap counts as a name never seen.
    """

    name: str
    categories: tuple[str, ...]  # with a feature of their own
    infrequent: bool = False
    missing: bool = False
    rare: float = 0.0  # share of further rows whose name will be none of `categories`; 0 also where nobody noted it
    kind: ClassVar[str] = "category"

    @property
    def feature_names(self) -> list[str]:
        """Return the names of the features that the column becomes."""
        other = [f"{self.name} is infrequent"] * self.infrequent + [f"{self.name} is missing"] * self.missing
        return [f"{self.name}={c}" for c in self.categories] + other

    @property
    def unknown_code(self) -> int:
        """Return the code of a name that is none of `categories`: one more than the last of these."""
        return len(self.categories)

    @property
    def missing_code(self) -> int:
        """Return the code of a missing cell."""
        return len(self.categories) + 1

    def codes(self, array: Any) -> NDArray[np.int64]:
        """Read cells as codes, shape (rows,): the place in `categories`, `unknown_code` or `missing_code`."""
        read = as_labels(array)
        place = {c: i for i, c in enumerate(self.categories)}
        # the last entry is reached by code -1: the cell that is missing
        known = [*(place.get(n, self.unknown_code) for n in read.names), self.missing_code]
        return np.array(known, dtype=np.int64)[read.codes]

    def encode(self, array: Any, start: int, infinities: "InfinityCount") -> NDArray[np.float32]:
        """Encode cells, shape (rows,), as float32 of shape (rows, features)."""
        # a code that is no feature's number leaves 0 in every feature
        k = len(self.categories)
        other = k if self.infrequent else -1
        gap = k + self.infrequent if self.missing else other
        codes = self.codes(array)
        infinities.add_codes(self, codes, array)
        column = np.array([*range(k), other, gap], dtype=np.int64)[codes]
        out = np.zeros((len(column), len(self.feature_names)), dtype=np.float32)
        hot = np.flatnonzero(column >= 0)
        out[hot, column[hot]] = 1.0
        return out


Column = NumericColumn | CategoryColumn | DateColumn
KINDS: dict[str, type[Any]] = {each.kind: each for each in (NumericColumn, CategoryColumn, DateColumn)}


@dataclass
class InfinityCount:
    """Count of infinite cells met while a table is encoded, so that the error can say how many there are in all."""

    label: str  # of the table
    found: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, column: NumericColumn, values: NDArray[np.float64], start: int) -> None:
        """Count the infinities of one chunk that begins at row `start`."""
        infinite = np.flatnonzero(np.isinf(values))
        if len(infinite):
            n, first = self.found.get(column.name, (0, start + int(infinite[0])))
            self.found[column.name] = (n + len(infinite), first)

    def add_codes(self, column: CategoryColumn, codes: NDArray[np.int64], array: Any) -> None:
        """Take in a chunk of a category column, which has no infinities; `codes` were read from the Arrow array."""

    def check(self) -> None:
        """Raise a DataError if infinite cells were met."""
        for name, (n, first) in self.found.items():
            raise infinite_error(self.label, name, n, first)


def infinite_error(label: str, column: str, n: int, first: int) -> DataError:
    """Return the error that says how many infinities a column has and where the first is, counted from row 0."""
    return DataError(
        f"{label!r}: column {column!r} has {n} infinite value{'s' * (n != 1)}, the first in row {first + 1} (the row "
        f"after the header is 1); make them missing, or leave the column out with --data.drop=[{column}]."
    )


@dataclass(frozen=True)
class Expansion:
    """Features of stored rows, in which the bins of a column are one number: its position among them.

    Feature f is clip(stored[source[f]] - start[f], low[f], high[f]) - mean[f], and 0 where that is NaN. The arrays
    may be NumPy's or torch's, as the rows are.
    """

    source: Any
    start: Any
    low: Any
    high: Any
    mean: Any

    def __call__(self, stored: Any) -> Any:
        """Return the features, shape (rows, features), of stored rows."""
        if isinstance(stored, np.ndarray):
            features = stored[:, self.source]
            features -= self.start
            np.clip(features, self.low, self.high, out=features)
            features -= self.mean
            return np.nan_to_num(features, copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf)
        features = stored.index_select(1, self.source).sub_(self.start).clamp_(self.low, self.high).sub_(self.mean)
        return features.nan_to_num_(0.0, np.inf, -np.inf)

    def converted(self, convert: Callable[[Any], Any]) -> "Expansion":
        """Return the same with each array converted."""
        return Expansion(*map(convert, vars(self).values()))


@dataclass(frozen=True)
class Encoding:
    """Encoding of all columns in use, in file order."""

    columns: tuple[Column, ...]
    dropped: Mapping[str, str] = field(default_factory=dict)  # columns not in use, and why
    notes: tuple[str, ...] = ()  # what a user should know about columns in use

    @property
    def feature_names(self) -> list[str]:
        """Return the names of the encoded features, in their order."""
        return [f for c in self.columns for f in c.feature_names]

    @property
    def plain_features(self) -> list[int]:
        """Return the places of the features that are no bins."""
        places: list[int] = []
        at = 0
        for column in self.columns:
            width = len(column.feature_names)
            bins = len(column.bin_means) if isinstance(column, NumericColumn) else 0
            places += range(at, at + width - bins)
            at += width
        return places

    @property
    def inputs(self) -> list[str]:
        """Return the columns a file must have to be encoded, each once: several may be made of one."""
        return [*dict.fromkeys(c.name for c in self.columns)]

    @cached_property
    def expansion(self) -> Expansion | None:
        """Return what makes features of what `encode_stored` returns; None where it returns features."""
        rows: list[tuple[float, ...]] = []
        at = 0
        for column in self.columns:
            means = column.bin_means if isinstance(column, NumericColumn) else ()
            plain = len(column.feature_names) - len(means)
            rows += [(at + i, 0.0, -np.inf, np.inf, 0.0) for i in range(plain)]
            at += plain
            rows += [(at, float(t), 0.0, 1.0, mean) for t, mean in enumerate(means)]
            at += bool(means)
        if at == len(rows):
            return None
        source, *others = np.array(rows).T
        return Expansion(source.astype(np.int64), *(each.astype(np.float32) for each in others))

    @property
    def stored_width(self) -> int:
        """Return the number of columns of what `encode_stored` returns."""
        return len(self.feature_names) if self.expansion is None else int(self.expansion.source.max()) + 1

    def encode(self, chunk: Any, start: int, infinities: InfinityCount) -> NDArray[np.float32]:
        """Encode a chunk (an Arrow table with all of `inputs`) as float32 of shape (rows, features).

        `start` is the number of its first row, `infinities` are checked after the last chunk. A number column that
        holds text, or dates, and did not in training is a DataError.
        """
        return self.features(self.encode_stored(chunk, start, infinities))

    def features(self, stored: NDArray[np.float32], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return the features of what `encode_stored` returns, written to `out` if that is given."""
        if self.expansion is None and out is None:
            return stored
        out = np.empty((len(stored), len(self.feature_names)), dtype=np.float32) if out is None else out
        for at in range(0, len(stored), _BLOCK):
            block = stored[at : at + _BLOCK]
            out[at : at + _BLOCK] = block if self.expansion is None else self.expansion(block)
        return out

    def encode_stored(self, chunk: Any, start: int, infinities: InfinityCount) -> NDArray[np.float32]:
        """Encode a chunk likewise, but with one number for all bins of a column: `expansion` makes features of it."""
        out, at = np.empty((chunk.num_rows, self.stored_width), dtype=np.float32), 0
        for column in self.columns:
            part = _encoded(column, _cells(chunk, column, infinities.label), start, infinities)
            out[:, at : at + part.shape[1]] = part
            at += part.shape[1]
        return out

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Return the columns that are needed and not among `names`."""
        there = set(names)
        return [n for n in self.inputs if n not in there]

    def check_columns(self, names: tuple[str, ...], label: str, instead: str = "") -> None:
        """Raise a DataError, which ends in what would do `instead`, if a file with the columns `names` lacks one."""
        lacking = self.lacking(names)
        if lacking:
            needed = f"column{'s' * (len(lacking) > 1)} {shortened(map(repr, lacking))}, used in training"
            raise DataError(f"{label!r} lacks the {needed}; it has {nearest(lacking[0], names)}{instead}.")

    def to_plain(self) -> dict[str, Any]:
        """Return the encoding as dicts, lists, strings and numbers, for JSON and `torch.load(weights_only=True)`."""
        return {"columns": [*map(_plain, self.columns)], "dropped": dict(self.dropped), "notes": list(self.notes)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Encoding":
        """Return the encoding that `to_plain` wrote."""
        columns: list[Column] = []
        for each in plain["columns"]:
            said: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in each.items() if k != "kind"}
            columns.append(KINDS[each["kind"]](**said))
        return cls(tuple(columns), dict(plain["dropped"]), tuple(plain["notes"]))


def _encoded(column: Column, cells: Any, start: int, infinities: InfinityCount) -> NDArray[np.float32]:
    if isinstance(column, DateColumn):
        return encoded_dates(column, column.values(cells, start, infinities))
    return column.encode(cells, start, infinities)


def _plain(column: Column) -> dict[str, Any]:
    # What is as it is by default is left out: of 100 000 columns, a checkpoint with all of it takes seconds to open.
    said = {f.name: value for f in fields(column) if (value := getattr(column, f.name)) != f.default}
    return {"kind": column.kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in said.items()}}


def _cells(chunk: Any, column: Column, label: str) -> Any:
    array = single(chunk, column.name)
    kind = kind_of(array.type)
    if kind == "other" or (kind == "time" and column.kind == NumericColumn.kind):
        before = f"{label!r}: column {column.name!r} was {column.kind} in training"
        raise DataError(f"{before}; here its type is {array.type}. Convert it.")
    return array


@dataclass(frozen=True)
class RawRows:
    """Rows as an exported model takes them, their columns in the order of the encoding's."""

    numbers: NDArray[np.float64]  # shape (rows, number and date columns); NaN where a cell is missing
    codes: NDArray[np.int64]  # shape (rows, category columns); see `CategoryColumn.codes`

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Any) -> "RawRows":
        return RawRows(self.numbers[rows], self.codes[rows])

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """Return those of the two that have a column: a table may have numbers alone, or categories alone."""
        return [array for array in (self.numbers, self.codes) if array.shape[1]]


def raw_rows(encoding: Encoding, chunk: Any, start: int, infinities: InfinityCount) -> RawRows:
    """Read a chunk (an Arrow table) as rows for an exported model; what `Encoding.encode` says holds here too."""
    cells = [(c, _cells(chunk, c, infinities.label)) for c in encoding.columns]
    numbers = [c.values(found, start, infinities) for c, found in cells if not isinstance(c, CategoryColumn)]
    codes = [c.codes(found) for c, found in cells if isinstance(c, CategoryColumn)]
    none = np.zeros((chunk.num_rows, 0), dtype=np.int64)  # where there are no columns of a kind
    return RawRows(np.column_stack([none.astype(np.float64), *numbers]), np.column_stack([none, *codes]))
