"""Records of JSON: a line each, or an array of them. Arrow tells the types of the columns from all of them."""

import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.readers.limits import check_expansion, check_memory
from datamodules.readers.table import Table
from datamodules.readers.text import BLOCK_BYTES, Source, TextFile

_KEY = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:')
_CELL_BYTES = 8  # that a record takes for each key of any


def json_table(file: Path, max_expansion: float, is_lines: bool) -> Table:
    """Open a file of JSON, a record a line or, if not `is_lines`, one array of records; it is read whole.

    Records are objects; one that lacks a key has a missing cell there. Lists and objects as cells are no numbers and
    no text. A column of numbers and words is a DataError.
    """
    import pyarrow.json as pj

    with Source(TextFile(file, "utf-8", max_expansion)) as stream:
        blocks = list(_blocks(file, stream))
    data = b"".join(blocks)
    if not is_lines or data.lstrip()[:1] == b"[":
        data = _as_lines(file, data)
    # a record takes a cell of each key, whoever else has it
    size = _CELL_BYTES * len({*_KEY.findall(data)}) * (data.count(b"\n") + 1) + 2 * len(data)
    check_expansion(file, size, 10 * max_expansion)
    check_memory(str(file), size, "write it as Parquet, which is read in parts")
    whole = pj.read_json(io.BytesIO(data), pj.ReadOptions(block_size=_block_size(data)))

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        return iter(whole.select(list(columns)).to_batches())

    return Table(str(file), tuple(whole.column_names), batches, file, bytes_estimate=int(whole.nbytes))


def _blocks(file: Path, stream: Source) -> Iterator[bytes]:
    size = 0
    while block := stream.read(BLOCK_BYTES):
        size += len(block)
        check_memory(str(file), 4 * size, "write it as Parquet, which is read in parts")
        yield block


def _block_size(data: bytes) -> int:
    # Arrow needs each record whole in a block.
    longest = max(map(len, data.split(b"\n")), default=0)
    return max(BLOCK_BYTES, 2 * longest)


def _as_lines(file: Path, data: bytes) -> bytes:
    # An array of records, or one under a key of its own, as JSON lines.
    read = json.loads(data)  # in UTF-16 and 32 too
    if isinstance(read, dict):  # {"data": [{…}, …]}, and whatever else is said beside it
        read = next((value for value in read.values() if _are_records(value)), read)
    if not _are_records(read):
        needed = f'{str(file)!r} is JSON but no array of records, such as [{{"size": 1.5}}, …]'
        raise DataError(f"{needed}; write JSON lines (in pandas: to_json(path, orient='records', lines=True)).")
    return "\n".join(json.dumps(record) for record in read).encode()


def _are_records(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(record, dict) for record in value)
