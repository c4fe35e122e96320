"""CSV and TSV files, plain or gzipped, every column read as text: what it means is decided from all of its rows.

Arrow's own guess looks at the first block alone and fails when a later row disagrees.
"""

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from datamodules.errors import DataError
from datamodules.readers.table import Table, explained

DELIMITERS = ",;\t|"
# Cells that mean "missing". "None" is not among them: it is a common category ("no alley", "no pool").
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "null", "NULL", "<NA>", "NaT")
_BLOCK_BYTES = 1 << 22  # larger than any sane row, small beside memory
_GZIP_FACTOR = 8  # text usually shrinks to an eighth or more
_STRING_FACTOR = 3  # text, its Arrow offsets, and the float32 copy


def delimited_table(file: Path) -> Table:
    """Open a delimited text file; the delimiter of `.csv` is the most frequent of `, ; tab |` in its header.

    A DataError says that it is empty, not UTF-8, or ragged (which is noticed while it is read).
    """
    header, header_bytes = _header(file)
    delimiter = "\t" if file.name.lower().removesuffix(".gz").endswith(".tsv") else sniffed(header)
    try:
        raw = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error as error:
        raise explained(file, error, "delimited text") from error
    # a nameless first column is what pandas and R write for row names
    names = tuple(n if n.strip() else f"column_{i + 1}" for i, n in enumerate(raw))
    size = file.stat().st_size * (_GZIP_FACTOR if _is_gzip(file) else 1)

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        return _read(file, header_bytes, names, delimiter, columns)

    return Table(str(file), names, batches, file, bytes_estimate=_STRING_FACTOR * size)


def sniffed(header: str) -> str:
    """Return the delimiter of a header line: the most frequent candidate outside quotes, a comma if there is none."""
    bare = "".join(header.split('"')[::2])
    return max(DELIMITERS, key=lambda d: (bare.count(d), -DELIMITERS.index(d)))


def _is_gzip(file: Path) -> bool:
    return file.name.lower().endswith(".gz")


def _header(file: Path) -> tuple[str, int]:
    # The first record as text, with its quotes and any line breaks inside them, and the bytes up to its end.
    lines: list[bytes] = []
    passed = 0
    try:
        with cast(BinaryIO, gzip.open(file) if _is_gzip(file) else file.open("rb")) as stream:
            for line in stream:
                passed += len(line)
                if not lines and not line.strip():
                    continue
                lines.append(line)
                if b"".join(lines).count(b'"') % 2 == 0:
                    break
        header = b"".join(lines).decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise _not_utf8(file) from error
    except (OSError, EOFError, zlib.error) as error:
        raise explained(file, error, "text") from error
    if not header:
        raise DataError(f"{str(file)!r} is empty; a header line and rows are needed.")
    return header, passed


def _read(
    file: Path, header_bytes: int, names: tuple[str, ...], delimiter: str, columns: Sequence[str]
) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.csv as pc

    # positions as names: the file's own may repeat or be empty
    keys = [f"f{i}" for i in range(len(names))]
    key_of = dict(zip(names, keys, strict=True))
    convert = pc.ConvertOptions(
        column_types={k: pa.string() for k in keys},
        null_values=list(MISSING),
        strings_can_be_null=True,
        include_columns=[key_of[c] for c in columns],
    )
    parse = pc.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    try:
        with pa.input_stream(str(file), compression="gzip" if _is_gzip(file) else None) as stream:
            stream.read(header_bytes)
            read = pc.ReadOptions(column_names=keys, block_size=_BLOCK_BYTES)
            for batch in pc.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert):
                yield batch.rename_columns(list(columns))
    except (OSError, pa.ArrowException) as error:
        if str(error) == "Empty CSV file":  # nothing after the header
            return
        raise _why(file, names, delimiter, error) from error


def _why(file: Path, names: tuple[str, ...], delimiter: str, error: BaseException) -> DataError:
    # What is wrong with a file that Arrow refuses: it is read once more, slowly, up to the trouble.
    try:
        opener = gzip.open if _is_gzip(file) else open
        with cast(TextIO, opener(file, "rt", encoding="utf-8-sig", newline="")) as text:
            reader = csv.reader(text, delimiter=delimiter)
            before = 1
            for record in reader:
                if record and len(record) != len(names):
                    start = " ".join(record[:4])[:60]
                    return DataError(
                        f"{str(file)!r}, line {before}: {len(names)} fields are needed as in the header, "
                        f"{len(record)} came: {start!r}; mend that line or quote the field that holds {delimiter!r}."
                    )
                before = reader.line_num + 1
    except UnicodeDecodeError:
        return _not_utf8(file)
    except (csv.Error, OSError, EOFError, zlib.error) as other:
        return explained(file, other, "delimited text")
    return explained(file, error, "delimited text")


def _not_utf8(file: Path) -> DataError:
    return DataError(f"{str(file)!r} is not UTF-8 text; save it as UTF-8 (iconv -f latin1 -t utf-8).")
