"""Cells of a table's column, read as numbers or as names."""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["number", "text", "bool", "category", "time", "other"]
"""What the file says a column is: `text` may still be numbers, as everything in a CSV is text."""

NUMERIC_SHARE = 0.9  # of a text column's cells that must parse for it to be numbers; the rest is junk such as "?"
SAMPLE = 200  # names kept of a column with more than that, to tell dates from text
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


def coded(array: Any) -> Any:
    """Return an Arrow array with its cells replaced by numbers into the list of the different values."""
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


def as_labels(array: Any, *, as_written: bool = False) -> Labels:
    """Read an Arrow array of any flat type as names; `as_written`, "1.000" is not "1"."""
    import pyarrow as pa

    array = coded(array)
    places: dict[str, int] = {}
    # one entry more, reached by code -1: the cell that is missing
    remap = np.full(len(array.dictionary) + 1, -1, dtype=np.int64)
    for i, value in enumerate(_values(array.dictionary)):
        name = (value.strip() or None) if as_written and isinstance(value, str) else label_of(value)
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
    spelt_nan = np.array([*map(spells_nan, labels.names), True])
    is_junk = np.isnan(parsed) & ~spelt_nan
    n_junk = int(is_junk[labels.codes].sum())
    blanks = count_blanks(array)
    example = next((n for n, bad in zip(labels.names, is_junk, strict=False) if bad), " " if blanks else None)
    return Numbers(parsed[labels.codes], n_junk + blanks, example)


# What people put where a number is missing: a column of numbers may have any share of it.
_MARKS = frozenset(
    "- -- --- – — ? ?? . .. … n.a. n.a n/a. k.a. k.a nil missing unknown "  # noqa: SIM905  # they are read so
    "#div/0! #wert! #value! #ref! #num! #name? #null!".split()
)


def says_nothing(name: str) -> bool:
    """Return whether a cell is a mark that stands for a missing number, or spells NaN."""
    return name.lower() in _MARKS or spells_nan(name)


def spells_nan(name: str) -> bool:
    """Return whether a cell spells NaN, in whatever case and with whatever sign."""
    return name.lower().lstrip("+-") == "nan"


def count_blanks(array: Any) -> int:
    """Count the cells that hold only white space: no number, though as a name they count as missing."""
    import pyarrow.compute as pc

    return int(pc.sum(pc.utf8_is_space(array)).as_py() or 0) if kind_of(array.type) == "text" else 0


def alike(names: Iterable[str]) -> list[str]:
    """Return the names that differ from another one in nothing but case and spaces, such beside each other."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("".join(name.casefold().split()), []).append(name)
    return [name for group in groups.values() if len(group) > 1 for name in group]


def count_missing(array: Any) -> int:
    """Count the cells without a name (None, empty or blank text), without making a list of names."""
    import pyarrow.compute as pc

    empty = pc.sum(pc.equal(array, "")).as_py() or 0 if kind_of(array.type) == "text" else 0
    return int(array.null_count + empty + count_blanks(array))


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
