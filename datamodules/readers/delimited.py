"""Text files of rows, plain or gzipped, every column read as text: what it means is decided from all of its rows.

Arrow's own guess looks at the first block alone and fails when a later row disagrees.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.readers.layout import MAX_RECORDS, MISSING, Layout, cells, layout_of, total_noted
from datamodules.readers.table import Table
from datamodules.readers.text import BLOCK_BYTES, Source, TextFile, found_encoding

_BLOCK_COLUMNS = 1 << 10  # bytes for each column: some rows of a wide table, as a block costs each of its columns
# Empty lines, then a record up to a line end of any kind; a quote opens where a field begins, if it is ever closed.
_RECORD = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:[ \t]*(?:\r\n|\r|\n))*+"
    rb"""((?:[^"\r\n]++|(?<![^,;\t|\r\n\xbf])"(?:[^"]++|"")*+"|")*+)(?:\r\n|\r|\n|\Z)"""
)
_TAIL_BYTES = 4096
_LOOKED_AT = 1 << 18  # bytes of a start, where two records are not longer
_GZIP_FACTOR = 8  # text usually shrinks to an eighth or more
_STRING_FACTOR = 3  # text, its Arrow offsets, and the float32 copy


def delimited_table(file: Path, max_expansion: float, encoding: str) -> Table:
    """Open a delimited text file; see `layout_of` for what is told from its first lines, `found_encoding` likewise.

    A DataError says that it is empty, no text, or ragged (which is noticed while it is read).
    """
    name = file.name.lower().removesuffix(".gz")
    found, notes = found_encoding(file, encoding, max_expansion)
    text = TextFile(file, found, max_expansion)
    records, starts = _first_records(text)
    by = "\t" if name.endswith((".tsv", ".tab")) else None
    layout = layout_of(records, by, may_be_spaced=name.endswith((".txt", ".dat", ".data")))
    if layout.is_spaced:  # the same lines, which are shorter then
        text = replace(text, is_spaced=True)
        starts = _first_records(text)[1]
    skipped = starts[layout.first_row]
    size = file.stat().st_size * (_GZIP_FACTOR if text.is_packed else 1)

    read, as_written = (partial(_read, text, layout, skipped, missing) for missing in (MISSING, ("",)))
    notes = (*notes, *layout.notes, *total_noted(_last_row(text, layout)))
    return Table(
        *(str(file), layout.names, read, file),
        bytes_estimate=_STRING_FACTOR * size,
        notes=notes,
        delimiter=layout.delimiter,
        as_written=as_written,
    )


def _first_records(text: TextFile) -> tuple[list[str], list[int]]:
    # The first records with their quotes and any line ends inside them, and where each begins; last, where that ends.
    with Source(text) as stream:
        start = stream.read(BLOCK_BYTES)
    records, starts = list[str](), [0]
    while len(records) < (MAX_RECORDS if starts[-1] < _LOOKED_AT else 2):
        found = _RECORD.match(start, starts[-1])
        if found is None or (found.end() == len(start) == BLOCK_BYTES):
            break
        if not found[1]:
            break
        records.append(found[1].decode("utf-8"))
        starts.append(found.end())
    file = str(text.file)
    if not records and len(start) == BLOCK_BYTES:
        raise DataError(f"{file!r} has no header line within its first {BLOCK_BYTES >> 20} MB: it is no table.")
    if not records:
        raise DataError(f"{file!r} is empty; a header line and rows are needed.")
    if "\0" in records[0]:
        raise DataError(f"{file!r} has NUL bytes in its header: it is no text, or --data.encoding is another.")
    return records, starts


def _last_row(text: TextFile, layout: Layout) -> list[str]:
    # The last line with something in it; none of a packed file, which would have to be unpacked.
    if text.is_packed:
        return []
    with text.file.open("rb") as stream:
        stream.seek(-min(_TAIL_BYTES, text.file.stat().st_size), io.SEEK_END)
        lines = stream.read().decode(text.encoding, "ignore").splitlines()
    bare = f"{layout.delimiter} \t\r\n"
    return cells(next((line for line in reversed(lines) if line.strip(bare)), ""), layout.delimiter)


def _read(
    text: TextFile, layout: Layout, skipped: int, missing: Sequence[str], columns: Sequence[str]
) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.csv as pc

    # positions as names: the file's own may repeat or be empty
    keys = [f"f{i}" for i in range(len(layout.names))]
    key_of = dict(zip(layout.names, keys, strict=True))
    convert = pc.ConvertOptions(
        column_types={k: pa.string() for k in keys},
        null_values=list(missing),
        strings_can_be_null=True,
        include_columns=[*(key_of[c] for c in columns), keys[-1]],  # the last one for `_check_closed`
    )
    # In a file of one column an empty line is an empty cell.
    parse = pc.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True, ignore_empty_lines=len(keys) > 1)
    block = max(BLOCK_BYTES, _BLOCK_COLUMNS * len(keys))
    read = pc.ReadOptions(column_names=keys, block_size=block)
    last: Sequence[Any] = ()
    with Source(text) as stream:
        stream.read(skipped)
        try:
            for batch in pc.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert):
                last = batch.column(len(columns))
                yield batch.select(range(len(columns))).rename_columns(list(columns))
            _check_closed(text.file, last, stream.end)
        except pa.ArrowInvalid as error:
            if str(error) == "Empty CSV file":  # nothing after the header
                return
            _raise_cause(text, layout, skipped, block)
            raise


def _check_closed(file: Path, last: Any, end: bytes) -> None:
    # A quote that is opened and never closed makes one cell of all that follows.
    cell = last[-1].as_py() if len(last) else None
    if cell and "\n" in cell and not end.rstrip().endswith(b'"'):
        start = cell[:40].split("\n")[0]
        raise DataError(f"{str(file)!r}: the quote before {start!r} is never closed, which takes in all that follows.")


def _raise_cause(text: TextFile, layout: Layout, skipped: int, longest: int) -> None:
    # What is wrong with a file that Arrow refuses: it is read once more, slowly, up to the trouble.
    needed, by = len(layout.names), "white space" if layout.is_spaced else repr(layout.delimiter)
    with Source(text) as stream:
        before = 1 + len(re.findall(rb"\r\n|\r|\n", stream.read(skipped)))
        passed = before - 1
        lines = io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig", newline="")
        reader = csv.reader(iter(lambda: lines.readline(longest), ""), delimiter=layout.delimiter)
        try:
            for record in reader:
                if record and len(record) != needed:
                    start = " ".join(record[:4])[:60]
                    raise DataError(
                        f"{str(text.file)!r}, line {before}: {needed} fields are needed as in the header, "
                        f"{len(record)} came: {start!r}; mend that line or quote the field that holds {by}."
                    )
                before = passed + reader.line_num + 1
        except csv.Error as error:  # a field that is larger than its limit, in nearly all cases
            why = f"line {before}: {error}; is there a quote that is not closed?"
            raise DataError(f"{str(text.file)!r}, {why}") from error
