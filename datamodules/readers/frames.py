"""Tables that are in memory already: data frames of any library, Arrow tables, NumPy arrays, dicts of columns."""

import sys
from collections.abc import Iterable, Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from datamodules.errors import DataError, shortened
from datamodules.readers.columnar import arrow_array, flattened, readable
from datamodules.readers.table import reading

_ARRAY = "X"  # the name of an array: its columns are X_0, X_1, …, as those of one in an NPZ file
_TARGET = "target"  # the name of a target that has none
_MISSING = ("NAType", "NaTType")  # of pandas
_NEEDED = "a data frame, an Arrow table, a dict of columns or an array of two dimensions"


def in_memory(data: object, target: Any = None) -> tuple[Any, str, str | None]:
    """Return data as an Arrow table, what to call it, and its target's name; numbers are copied where Arrow has to.

    `data` is a pandas, polars or other data frame (its index is no column), an Arrow table, a dict of columns or an
    array of two dimensions. `target` is the name of a column in it, or one more column, which keeps its name. What is
    none of these, or cannot be read, is a DataError.
    """
    label = f"<{type(data).__name__}>"
    with reading(label, "a table"):
        table = _table(data, label)
        if target is not None and not isinstance(target, str):
            name, column = _target(target)
            if name in table.column_names:
                twice = f"{label!r} has a column {name!r}, and the target given beside it is called so too"
                raise DataError(f"{twice}: leave it out of `data`, or give target={name!r}.")
            if len(column) != table.num_rows:
                raise DataError(f"The target has {len(column)} values, and {label!r} has {table.num_rows} rows.")
            table, target = table.append_column(name, column), name
    if not table.column_names:
        raise DataError(f"{label!r} has no columns.")
    return readable(table), label, target


def _table(data: Any, label: str) -> Any:
    import pyarrow as pa

    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    elif _is_of("DataFrame", data):  # by hand, since `Table.from_pandas` refuses a column of mixed types
        columns = [(str(name), _column(values, f"column {str(name)!r} of {label!r}")) for name, values in data.items()]
        data = pa.Table.from_arrays([values for _, values in columns], names=[name for name, _ in columns])
    elif hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        data = pa.table(data)
    elif hasattr(data, "__dataframe__"):
        from pyarrow.interchange import from_dataframe

        data = from_dataframe(data)
    elif isinstance(data, Mapping):
        data = _from_dict(data, label)
    elif not isinstance(data, pa.Table):
        array = np.asarray(data) if hasattr(data, "__array__") else data
        if not isinstance(array, np.ndarray) or array.ndim != 2:
            shape = f" of shape {array.shape}" if isinstance(array, np.ndarray) else ""
            raise DataError(f"data needs {_NEEDED}; it is of type {type(data).__name__}{shape}.")
        data = _from_dict({_ARRAY: array}, label)
    names = data.column_names
    if twice := sorted({name for name in names if names.count(name) > 1} if len({*names}) < len(names) else ()):
        raise DataError(f"{label!r} has columns of the same name: {shortened(map(repr, twice))}; rename them.")
    return data


def _from_dict(data: Mapping[Any, Any], label: str) -> Any:
    import pyarrow as pa

    arrays = {str(name): values for name, values in data.items()}
    columns = flattened(label, {n: v if _has_own_reader(v) else np.asarray(v) for n, v in arrays.items()})
    read = {name: _column(values, f"column {name!r} of {label!r}") for name, values in columns.items()}
    return pa.table(read)


def _has_own_reader(values: object) -> bool:
    # A column that need not become an array first; a list of cells of several kinds would become one of texts.
    return isinstance(values, list | tuple) or hasattr(values, "__arrow_c_stream__") or _is_of("Series", values)


def _column(values: Any, what: str) -> Any:
    """Return a column as an Arrow array; NaN and NA in one of objects, and all of pandas' own, are missing cells."""
    import pyarrow as pa

    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        if values.ndim != 1 or values.dtype.kind not in "biufUTMm":
            needed = "needed is one dimension of numbers, booleans, text or dates"
            raise DataError(f"The {what} has shape {values.shape} and type {values.dtype}; {needed}.")
        return arrow_array(values)
    if hasattr(values, "__arrow_c_stream__") and not _is_of("Series", values):
        return pa.chunked_array(values)
    if type(getattr(values, "dtype", None)).__name__ == "SparseDtype":
        values = np.asarray(values)
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array(_texts(values, what), pa.string())


def _texts(values: Iterable[Any], what: str) -> list[str | None]:
    # Numbers, names and gaps beside each other, as a CSV file would hold them.
    cells = [None if value is None or type(value).__name__ in _MISSING or value != value else value for value in values]
    others = {type(c).__name__ for c in cells if not isinstance(c, str | Real | Decimal | np.bool_ | None)}
    if others:
        kinds = shortened(sorted({type(cell).__name__ for cell in cells if cell is not None}))
        needed = "needed are numbers, text or dates in each cell"
        raise DataError(f"The {what} holds cells of the types {kinds}; {needed}.")
    return [None if cell is None else str(cell) for cell in cells]


def _target(target: Any) -> tuple[str, Any]:
    # The name of a column that is given beside the data, and its cells.
    if _is_of("DataFrame", target) or getattr(target, "ndim", 1) == 2:
        table = _table(target, "target")
        if table.num_columns != 1:
            raise DataError(f"The target needs one column; it has {table.num_columns}.")
        name = _TARGET if isinstance(target, np.ndarray) else table.column_names[0]
        return name, table.column(0)
    name = getattr(target, "name", None)
    return _TARGET if name is None else str(name), _column(_as_column(target), "target")


def _as_column(target: Any) -> Any:
    return target if _has_own_reader(target) or not hasattr(target, "__array__") else np.asarray(target)


def _is_of(name: str, thing: object) -> bool:
    # Whether it is pandas' class of that name, which is not imported for it.
    kind = getattr(sys.modules.get("pandas"), name, None)
    return kind is not None and isinstance(thing, kind)
