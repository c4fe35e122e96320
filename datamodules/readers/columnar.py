"""Tables whose columns have types: Parquet, Arrow IPC (Feather) and NPZ files, and scikit-learn's bundled ones."""

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DataError, shortened
from datamodules.readers.limits import check_expansion, check_memory
from datamodules.readers.table import Batches, Table, chunk_rows

_BUFFER = 2**15  # bytes of a column of a Parquet file that are read at a time
_TARGET = "target"  # what the target column of a bundled table is called
_UNITS = ("s", "ms", "us", "ns")  # of Arrow's times
_TIMES = ("datetime64[D]", *(f"{kind}[{unit}]" for kind in ("datetime64", "timedelta64") for unit in _UNITS))
_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def parquet_table(file: Path) -> Table:
    """Open a Parquet file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        meta = opened.metadata
        names = tuple(opened.schema_arrow.names)
        size = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))

    def read(columns: Sequence[str]) -> Iterator[Any]:
        # `pre_buffer` would keep the bytes of the whole file until the last batch; without a buffer of its own each
        # column would keep those of the whole row group.
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER) as reader:
            # a Parquet column path is dotted, so ["a.b"] would also find b inside a: `_arrow_table` selects by name
            wanted = set(columns)
            roots = [n for n in reader.schema_arrow.names if n in wanted]
            yield from reader.iter_batches(batch_size=chunk_rows(len(names)), columns=roots)

    # Runs of one value take no bytes, but do once they are encoded.
    return _arrow_table(file, names, max(3 * size, 4 * meta.num_rows * len(names)), read)


def arrow_table(file: Path) -> Table:
    """Open a file of Arrow IPC, which Feather version 2 is, or a stream of it; version 1 of Feather is a DataError."""
    import pyarrow as pa

    with file.open("rb") as stream:
        start = stream.read(6)
    if start.startswith(b"FEA1"):
        raise DataError(f"{str(file)!r} is Feather version 1; write it anew as version 2 or Parquet.")
    is_stream = file.suffix.lower() != ".feather" and start != b"ARROW1"
    opener = pa.ipc.open_stream if is_stream else pa.ipc.open_file
    with pa.memory_map(str(file)) as stream:
        names = tuple(opener(stream).schema.names)

    def read(columns: Sequence[str]) -> Iterator[Any]:
        wanted = set(columns)
        places = [place for place, name in enumerate(names) if name in wanted]
        with pa.memory_map(str(file)) as stream:
            reader = opener(stream, options=pa.ipc.IpcReadOptions(included_fields=places))
            yield from reader if is_stream else map(reader.get_batch, range(reader.num_record_batches))

    return _arrow_table(file, names, 4 * file.stat().st_size, read)


def _arrow_table(file: Path, names: tuple[str, ...], size: int, read: Batches) -> Table:
    def batches(columns: Sequence[str]) -> Iterator[Any]:
        for batch in read(columns):
            chosen = batch.select(list(columns))
            # A damaged file may have text end before it begins, or be no UTF-8: whoever reads such cells crashes.
            chosen.validate(full=True)
            yield readable(chosen)

    return Table(str(file), names, batches, file, bytes_estimate=size, is_columnar=True)


def readable(batch: Any) -> Any:
    """Return a batch or table with views of text as text, since Arrow has few functions for them."""
    import pyarrow as pa

    def is_view(kind: Any) -> bool:
        return bool(pa.types.is_string_view(kind.value_type if pa.types.is_dictionary(kind) else kind))

    def plain(column: Any) -> Any:
        if isinstance(column, pa.ChunkedArray):
            return pa.chunked_array([plain(chunk) for chunk in column.chunks], pa.string())
        if pa.types.is_dictionary(column.type):
            return column.dictionary.cast(pa.string()).take(column.indices)
        return column.cast(pa.string())

    for place, field in enumerate(batch.schema):
        if is_view(field.type):
            batch = batch.set_column(place, field.with_type(pa.string()), plain(batch.column(place)))
    return batch


def npz_table(file: Path, max_expansion: float) -> Table:
    """Open an NPZ file: 1-D arrays are columns, a 2-D array X becomes columns X_0, X_1, …; never unpickles.

    The arrays are read whole: NPZ has no way to read rows 1000 to 2000. Python objects, arrays of three dimensions
    and lengths that differ are DataErrors, and so is a header that claims more than is there.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        check_expansion(file, unpacked, max_expansion)
        check_memory(str(file), 2 * unpacked, "write it as Parquet, which is read in parts")
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise DataError(f"{str(file)!r} has two arrays named {name!r}; rename one.")
            with archive.open(member) as stream:
                arrays[name] = _array(stream, member.file_size, f"{str(file)!r}: array {name!r}")
    return _from_arrays(str(file), flattened(str(file), arrays), file)


def _array(stream: IO[bytes], n_bytes: int, label: str) -> NDArray[Any]:
    # An array of an archive; what its header claims is held against the bytes there are before any are taken.
    read_header = _HEADERS.get(np.lib.format.read_magic(stream))
    if read_header is None:
        raise DataError(f"{label} is in a version of NPY for structures; save arrays of numbers or text.")
    shape, is_fortran, dtype = read_header(stream)
    if dtype.hasobject:
        raise DataError(f"{label} holds pickled Python objects; save arrays of numbers or text.")
    if len(shape) not in (1, 2) or 0 in shape[1:] or dtype.kind not in "biufUSMm" or not dtype.itemsize:
        raise DataError(
            f"{label} has shape {shape} and type {dtype}; "
            "needed are one or two dimensions of numbers, booleans, text or dates."
        )
    claimed, there = math.prod(shape) * dtype.itemsize, n_bytes - stream.tell()
    if claimed != there or min(shape) < 0 or shape[-1] > n_bytes:
        raise DataError(f"{label} is damaged: its header claims {claimed:,} bytes, {there:,} are there.")
    return np.frombuffer(stream.read(), dtype).reshape(shape, order="F" if is_fortran else "C")


def flattened(label: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return arrays as columns of one length, those of two dimensions as numbered ones; lists stay as they are."""
    columns: dict[str, Any] = {}
    for name, array in arrays.items():
        parts = (
            {name: array}
            if getattr(array, "ndim", 1) != 2
            else {f"{name}_{i}": array[:, i] for i in range(array.shape[1])}
        )
        for part, values in parts.items():
            if part in columns:
                raise DataError(f"{label!r} yields two columns named {part!r}; rename one array.")
            is_bytes = isinstance(values, np.ndarray) and values.dtype.kind == "S"
            columns[part] = np.char.decode(values, "utf-8") if is_bytes else values
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = shortened(f"{n}: {k}" for n, k in lengths.items())
        raise DataError(f"{label!r}: all arrays need the same number of rows; found {shown}.")
    return columns


def bundled_table(name: str) -> Table:
    """Load one of scikit-learn's bundled tables; its target column is called "target" and holds class names."""
    digits = _digits_file() if name == "digits" else None
    if digits is not None:
        # What a fit without flags reads. `sklearn.datasets` would bring scipy along and take longer than some fits.
        rows = np.loadtxt(digits, delimiter=",")
        pixels: dict[str, NDArray[Any]] = {f"pixel_{i // 8}_{i % 8}": rows[:, i] for i in range(64)}
        return _from_arrays(name, {**pixels, _TARGET: rows[:, 64].astype(np.int64).astype(str)}, None)
    loaded = getattr(import_module("sklearn.datasets"), f"load_{name}")()
    data = np.asarray(loaded.data)
    columns: dict[str, NDArray[Any]] = {str(n): data[:, i] for i, n in enumerate(loaded.feature_names)}
    target = np.asarray(loaded.target)
    if "target_names" in loaded:
        target = np.asarray(loaded.target_names)[target].astype(str)
    return _from_arrays(name, {**columns, _TARGET: target}, None)


def _digits_file() -> Path | None:
    # None where this version of scikit-learn keeps its digits elsewhere.
    package = find_spec("sklearn")
    folders = package.submodule_search_locations if package is not None else None
    file = Path(folders[0]) / "datasets" / "data" / "digits.csv.gz" if folders else None
    return file if file is not None and file.is_file() else None


def arrow_array(values: NDArray[Any]) -> Any:
    """Return numbers, booleans, text or times of shape (rows,) as an Arrow array."""
    import pyarrow as pa

    # NumPy's byte order of the file, float128 and times in weeks, attoseconds or threes of days are not Arrow's
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind in "biuf" and values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    if values.dtype.kind in "Mm" and values.dtype.name not in _TIMES:
        is_finer = np.datetime_data(values.dtype)[0] in ("ps", "fs", "as")
        values = values.astype(f"{values.dtype.kind}8[{'ns' if is_finer else 's'}]")
    if values.dtype.kind in "UT":
        return pa.array(values.tolist(), type=pa.string())
    return pa.array(np.ascontiguousarray(values))


def _from_arrays(label: str, columns: Mapping[str, NDArray[Any]], file: Path | None) -> Table:
    import pyarrow as pa

    whole = pa.table({name: arrow_array(values) for name, values in columns.items()})
    return memory_table(label, whole, file, _TARGET if file is None else None)


def memory_table(label: str, whole: Any, file: Path | None = None, default_target: str | None = None) -> Table:
    """Return an Arrow table as one that is read like a file."""

    def batches(wanted: Sequence[str]) -> Iterator[Any]:
        return iter(whole.select(list(wanted)).to_batches())

    return Table(label, tuple(whole.column_names), batches, file, int(whole.nbytes), default_target=default_target)
