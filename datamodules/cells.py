"""The cells of one column, read as numbers or as labels, whatever their type in the file."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["number", "text", "bool", "category", "time", "other"]
"""What the file says a column is: `text` may still be numbers, as everything in a CSV is text."""

_WHOLE_FLOAT = re.compile(r"[+-]?\d+\.0+")


@dataclass(frozen=True)
class Numbers:
    """A column read as numbers.

    Attributes:
        values: float64, shape (rows,); NaN where the cell is missing or no number.
        n_junk: How many cells hold something that is no number.
        example: One of those, or None.
    """

    values: NDArray[np.float64]
    n_junk: int = 0
    example: str | None = None


@dataclass(frozen=True)
class Labels:
    """A column read as names: `names[codes[i]]` is row i.

    Attributes:
        codes: int64, shape (rows,); -1 where the cell is missing.
        names: The distinct names, in order of appearance.
    """

    codes: NDArray[np.int64]
    names: list[str]


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
    """Write a cell as a name; None for a missing one (None, NaN, empty or blank text).

    Whole floats lose their ".0", also as text, because pandas writes whole numbers with gaps that way and the same
    category must have one name in every file.
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
    """Replace the cells of an Arrow array by numbers into the list of its different values."""
    import pyarrow as pa

    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    return array if isinstance(array, pa.DictionaryArray) else array.dictionary_encode()


def as_labels(array: Any) -> Labels:
    """Read an Arrow array of any flat type as names."""
    import pyarrow as pa

    array = coded(array)
    places: dict[str, int] = {}
    # one entry more, reached by code -1: the cell that is missing
    remap = np.full(len(array.dictionary) + 1, -1, dtype=np.int64)
    for i, value in enumerate(array.dictionary.to_pylist()):
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
        try:  # the common case: every cell is a number or missing
            values = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
            return Numbers(np.asarray(values, dtype=np.float64))
        except pa.ArrowInvalid:
            pass
    labels = as_labels(array)
    parsed = np.array([*map(number_of, labels.names), np.nan])
    spelt_nan = np.array([*(n.lower().lstrip("+-") == "nan" for n in labels.names), True])
    is_junk = np.isnan(parsed) & ~spelt_nan
    n_junk = int(is_junk[labels.codes].sum())
    blanks = _count_blanks(array)
    example = next((n for n, bad in zip(labels.names, is_junk, strict=False) if bad), " " if blanks else None)
    return Numbers(parsed[labels.codes], n_junk + blanks, example)


def _count_blanks(array: Any) -> int:
    """Count the cells that hold only white space: no number, though as a name they count as missing."""
    import pyarrow.compute as pc

    if kind_of(array.type) != "text":
        return 0
    return int(pc.sum(pc.utf8_is_space(array)).as_py() or 0)


def count_missing(array: Any) -> int:
    """Count the cells without a name (None, empty or blank text), without making a list of names."""
    import pyarrow.compute as pc

    empty = pc.sum(pc.equal(array, "")).as_py() or 0 if kind_of(array.type) == "text" else 0
    return int(array.null_count + empty + _count_blanks(array))


def number_of(text: str) -> float:
    """Parse a number as a CSV writes it; NaN for anything else ("1_000" is a Python habit, not a number)."""
    if "_" in text:
        return float("nan")
    try:
        return float(text)
    except ValueError:
        return float("nan")


def single(chunk: Any, name: str) -> Any:
    """One column of a chunk (an Arrow table) as one Arrow array."""
    import pyarrow as pa

    column = chunk.column(name)
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined
