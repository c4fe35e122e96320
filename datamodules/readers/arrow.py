"""Parquet and Feather (Arrow IPC) files, read batch by batch."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.readers.table import CHUNK_ROWS, Table, explained


def columnar_table(file: Path, suffix: str) -> Table:
    """Open a Parquet or Feather file.

    Raises:
        DataError: It is not one.
    """
    return _parquet(file) if suffix == ".parquet" else _feather(file)


def _parquet(file: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            meta = opened.metadata
            names = tuple(opened.schema_arrow.names)
            size = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
    except (OSError, pa.ArrowException) as error:
        raise explained(file, error, "Parquet") from error

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        try:
            # `pre_buffer` would keep the bytes of the whole file until the last batch.
            with pq.ParquetFile(file, pre_buffer=False) as reader:
                # a Parquet column path is dotted, so ["a.b"] would also find b inside a: select by name afterwards
                for batch in reader.iter_batches(batch_size=CHUNK_ROWS, columns=_roots(reader, columns)):
                    yield batch.select(list(columns))
        except (OSError, pa.ArrowException) as error:
            raise explained(file, error, "Parquet") from error

    return Table(str(file), names, batches, file, bytes_estimate=3 * size, is_columnar=True)


def _roots(reader: Any, columns: Sequence[str]) -> list[str]:
    return [n for n in reader.schema_arrow.names if n in set(columns)]


def _feather(file: Path) -> Table:
    import pyarrow as pa

    try:
        with pa.memory_map(str(file)) as stream:
            names = tuple(pa.ipc.open_file(stream).schema.names)
    except (OSError, pa.ArrowException) as error:
        if _magic(file) == b"FEA1":
            raise DataError(f"{str(file)!r} is Feather version 1; write it anew as version 2 or Parquet.") from error
        raise explained(file, error, "Feather") from error

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        try:
            with pa.memory_map(str(file)) as stream:
                reader = pa.ipc.open_file(stream)
                for i in range(reader.num_record_batches):
                    yield reader.get_batch(i).select(list(columns))
        except (OSError, pa.ArrowException) as error:
            raise explained(file, error, "Feather") from error

    return Table(str(file), names, batches, file, bytes_estimate=4 * file.stat().st_size, is_columnar=True)


def _magic(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(4)
    except OSError:
        return b""
