"""Tables whose columns have types: Parquet, Feather (Arrow IPC) and NPZ files, and scikit-learn's bundled ones."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DataError, shortened
from datamodules.readers.table import CHUNK_ROWS, Batches, Table, explained

_TARGET = "target"  # what the target column of a bundled table is called


def parquet_table(file: Path) -> Table:
    """Open a Parquet file; raise a DataError if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            meta = opened.metadata
            names = tuple(opened.schema_arrow.names)
            size = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
    except (OSError, pa.ArrowException) as error:
        raise explained(file, error, "Parquet") from error

    def read(columns: Sequence[str]) -> Iterator[Any]:
        # `pre_buffer` would keep the bytes of the whole file until the last batch.
        with pq.ParquetFile(file, pre_buffer=False) as reader:
            # a Parquet column path is dotted, so ["a.b"] would also find b inside a: `_arrow_table` selects by name
            wanted = set(columns)
            roots = [n for n in reader.schema_arrow.names if n in wanted]
            yield from reader.iter_batches(batch_size=CHUNK_ROWS, columns=roots)

    return _arrow_table(file, "Parquet", names, 3 * size, read)


def feather_table(file: Path) -> Table:
    """Open a Feather file; raise a DataError if it is none of version 2."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(file)) as stream:
            names = tuple(pa.ipc.open_file(stream).schema.names)
    except (OSError, pa.ArrowException) as error:
        if _magic(file) == b"FEA1":
            raise DataError(f"{str(file)!r} is Feather version 1; write it anew as version 2 or Parquet.") from error
        raise explained(file, error, "Feather") from error

    def read(columns: Sequence[str]) -> Iterator[Any]:
        with pa.memory_map(str(file)) as stream:
            reader = pa.ipc.open_file(stream)
            yield from map(reader.get_batch, range(reader.num_record_batches))

    return _arrow_table(file, "Feather", names, 4 * file.stat().st_size, read)


def _arrow_table(file: Path, kind: str, names: tuple[str, ...], size: int, read: Batches) -> Table:
    import pyarrow as pa

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        try:
            for batch in read(columns):
                yield batch.select(list(columns))
        except (OSError, pa.ArrowException) as error:
            raise explained(file, error, kind) from error

    return Table(str(file), names, batches, file, bytes_estimate=size, is_columnar=True)


def _magic(file: Path) -> bytes:
    with suppress(OSError), file.open("rb") as stream:
        return stream.read(4)
    return b""


def npz_table(file: Path) -> Table:
    """Open an NPZ file: 1-D arrays are columns, a 2-D array X becomes columns X_0, X_1, …; never unpickles.

    The arrays are read whole: NPZ has no way to read rows 1000 to 2000. Python objects, arrays of three dimensions
    and lengths that differ are DataErrors.
    """
    try:
        # opened here, since numpy leaves the file open when it is no archive
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:  # TypeError: a lone array
        if "pickle" in str(error) or "Object arrays" in str(error):
            message = f"{str(file)!r} holds pickled Python objects or is no NPZ; save arrays of numbers or text."
            raise DataError(message) from error
        raise explained(file, error, "NPZ") from error
    return _from_arrays(str(file), _flattened(file, arrays), file)


def _flattened(file: Path, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if array.ndim not in (1, 2) or array.dtype.kind not in "biufUSMm":
            raise DataError(
                f"{str(file)!r}: array {name!r} has shape {array.shape} and type {array.dtype}; "
                "needed are one or two dimensions of numbers, booleans, text or dates."
            )
        parts = {name: array} if array.ndim == 1 else {f"{name}_{i}": array[:, i] for i in range(array.shape[1])}
        for part, values in parts.items():
            if part in columns:
                raise DataError(f"{str(file)!r} yields two columns named {part!r}; rename one array.")
            columns[part] = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = shortened(f"{n}: {k}" for n, k in lengths.items())
        raise DataError(f"{str(file)!r}: all arrays need the same number of rows; found {shown}.")
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


def _from_arrays(label: str, columns: Mapping[str, NDArray[Any]], file: Path | None) -> Table:
    import pyarrow as pa

    def arrow(values: NDArray[Any]) -> Any:
        # NumPy's byte order of the file and float128 are not Arrow's
        if values.dtype.kind in "biuf":
            values = values.astype(values.dtype.newbyteorder("="), copy=False)
            if values.dtype.itemsize > 8:
                values = values.astype(np.float64)
        if values.dtype.kind == "U":
            return pa.array(values.tolist(), type=pa.string())
        return pa.array(np.ascontiguousarray(values))

    whole = pa.table({name: arrow(values) for name, values in columns.items()})

    def batches(wanted: Sequence[str]) -> Iterator[Any]:
        return iter(whole.select(list(wanted)).to_batches())

    target = _TARGET if file is None else None
    return Table(label, tuple(columns), batches, file, int(whole.nbytes), default_target=target)
