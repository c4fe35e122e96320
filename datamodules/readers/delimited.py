"""CSV and TSV files, plain or gzipped, every column read as text: what it means is decided from all of its rows.

Arrow's own guess looks at the first block alone and fails when a later row disagrees.
"""

import csv
import gzip
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from datamodules.errors import DataError
from datamodules.readers.limits import check_expansion
from datamodules.readers.table import Table

DELIMITERS = ",;\t|"
# Cells that mean "missing". "None" is not among them: it is a common category ("no alley", "no pool").
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "null", "NULL", "<NA>", "NaT")
_BLOCK_BYTES = 1 << 22  # larger than any sane row, small beside memory
_END_BYTES = 64
_BLOCK_COLUMNS = 1 << 10  # bytes for each column: some rows of a wide table, as a block costs each of its columns
# Empty lines, then a record up to a line end of any kind; a quote opens where a field begins, if it is ever closed.
_HEADER = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:[ \t]*(?:\r\n|\r|\n))*+"
    rb"""((?:[^"\r\n]++|(?<![^,;\t|\r\n\xbf])"(?:[^"]++|"")*+"|")*+)(?:\r\n|\r|\n|\Z)"""
)
_GZIP_FACTOR = 8  # text usually shrinks to an eighth or more
_STRING_FACTOR = 3  # text, its Arrow offsets, and the float32 copy


def delimited_table(file: Path, max_expansion: float) -> Table:
    """Open a delimited text file; the delimiter of `.csv` is the most frequent of `, ; tab |` in its header.

    A DataError says that it is empty, not UTF-8, or ragged (which is noticed while it is read).
    """
    header, header_bytes = _header(file, max_expansion)
    delimiter = "\t" if file.name.lower().removesuffix(".gz").endswith(".tsv") else sniffed(header)
    raw = next(csv.reader([header], delimiter=delimiter), [])
    # a nameless first column is what pandas and R write for row names
    names = tuple(n if n.strip() else f"column_{i + 1}" for i, n in enumerate(raw))
    size = file.stat().st_size * (_GZIP_FACTOR if _is_gzip(file) else 1)

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        with _Source(file, max_expansion) as stream:
            stream.read(header_bytes)
            yield from _read(file, stream, names, delimiter, columns)

    return Table(str(file), names, batches, file, bytes_estimate=_STRING_FACTOR * size)


def sniffed(header: str) -> str:
    """Return the delimiter of a header line: the most frequent candidate outside quotes, a comma if there is none."""
    bare = "".join(header.split('"')[::2])
    return max(DELIMITERS, key=lambda d: (bare.count(d), -DELIMITERS.index(d)))


def _is_gzip(file: Path) -> bool:
    return file.name.lower().endswith(".gz")


class _Source(io.RawIOBase):
    """The bytes of a text file, unpacked, as Arrow reads them.

    What came out is held against the size of the file as it comes: a bomb need not have rows to show.
    """

    def __init__(self, file: Path, max_expansion: float) -> None:
        import pyarrow as pa

        self._plain = pa.OSFile(str(file))
        self._inner = pa.CompressedInputStream(self._plain, "gzip") if _is_gzip(file) else self._plain
        self._file, self._max_expansion = file, max_expansion
        self._passed = 0
        self.end = b""  # the last bytes that were read

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._inner.read(size)
        self._passed += len(data)
        if self._inner is not self._plain:
            check_expansion(self._file, self._passed, self._max_expansion)
        self.end = (self.end + data[-_END_BYTES:])[-_END_BYTES:]
        return data

    def close(self) -> None:
        self._inner.close()
        self._plain.close()
        super().close()


def _header(file: Path, max_expansion: float) -> tuple[str, int]:
    # The first record as text, with its quotes and any line breaks inside them, and the bytes up to its end.
    with _Source(file, max_expansion) as stream:
        start = stream.read(_BLOCK_BYTES)
    found = _HEADER.match(start)
    if found is None or (found.end() == len(start) == _BLOCK_BYTES):
        raise DataError(f"{str(file)!r} has no header line within its first {_BLOCK_BYTES >> 20} MB: it is no table.")
    try:
        header = found[1].decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(file) from error
    if "\0" in header:
        raise DataError(f"{str(file)!r} has NUL bytes in its header: UTF-16 (iconv -f utf-16 -t utf-8), or no text.")
    if not header:
        raise DataError(f"{str(file)!r} is empty; a header line and rows are needed.")
    return header, found.end()


def _read(file: Path, stream: _Source, names: tuple[str, ...], delimiter: str, columns: Sequence[str]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.csv as pc

    # positions as names: the file's own may repeat or be empty
    keys = [f"f{i}" for i in range(len(names))]
    key_of = dict(zip(names, keys, strict=True))
    convert = pc.ConvertOptions(
        column_types={k: pa.string() for k in keys},
        null_values=list(MISSING),
        strings_can_be_null=True,
        include_columns=[*(key_of[c] for c in columns), keys[-1]],  # the last one for `_check_closed`
    )
    # In a file of one column an empty line is an empty cell.
    parse = pc.ParseOptions(delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=len(names) > 1)
    block = max(_BLOCK_BYTES, _BLOCK_COLUMNS * len(names))
    read = pc.ReadOptions(column_names=keys, block_size=block)
    last: Sequence[Any] = ()
    try:
        for batch in pc.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert):
            last = batch.column(len(columns))
            yield batch.select(range(len(columns))).rename_columns(list(columns))
        _check_closed(file, last, stream.end)
    except pa.ArrowInvalid as error:
        if str(error) == "Empty CSV file":  # nothing after the header
            return
        _raise_cause(file, names, delimiter, block)
        raise


def _check_closed(file: Path, last: Any, end: bytes) -> None:
    # A quote that is opened and never closed makes one cell of all that follows.
    cell = last[-1].as_py() if len(last) else None
    if cell and "\n" in cell and not end.rstrip().endswith(b'"'):
        start = cell[:40].split("\n")[0]
        raise DataError(f"{str(file)!r}: the quote before {start!r} is never closed, which takes in all that follows.")


def _raise_cause(file: Path, names: tuple[str, ...], delimiter: str, longest: int) -> None:
    # What is wrong with a file that Arrow refuses: it is read once more, slowly, up to the trouble.
    opener = gzip.open if _is_gzip(file) else open
    before = 1
    try:
        with cast(TextIO, opener(file, "rt", encoding="utf-8-sig", newline="")) as text:
            reader = csv.reader(iter(lambda: text.readline(longest), ""), delimiter=delimiter)
            for record in reader:
                if record and len(record) != len(names):
                    start = " ".join(record[:4])[:60]
                    raise DataError(
                        f"{str(file)!r}, line {before}: {len(names)} fields are needed as in the header, "
                        f"{len(record)} came: {start!r}; mend that line or quote the field that holds {delimiter!r}."
                    )
                before = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise _not_utf8(file) from error
    except csv.Error as error:  # a field that is larger than its limit, in nearly all cases
        raise DataError(f"{str(file)!r}, line {before}: {error}; is there a quote that is not closed?") from error


def _not_utf8(file: Path) -> DataError:
    return DataError(f"{str(file)!r} is not UTF-8 text; save it as UTF-8 (iconv -f latin1 -t utf-8).")
