"""Readers of tables: a path or a bundled name, opened by the reader for its kind."""

from collections import Counter
from pathlib import Path

from datamodules.errors import DataError, nearest, shortened
from datamodules.readers.columnar import bundled_table, feather_table, npz_table, parquet_table
from datamodules.readers.delimited import delimited_table
from datamodules.readers.table import Table

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
_OPENERS = {
    **dict.fromkeys((".csv", ".tsv", ".csv.gz", ".tsv.gz"), delimited_table),
    **{".parquet": parquet_table, ".feather": feather_table, ".npz": npz_table},
}


def open_table(path: str) -> Table:
    """Open a bundled name or a file, and read no more than its header; a DataError says why it is no table."""
    if path in BUNDLED:
        return bundled_table(path)
    file = Path(path).expanduser()
    _check_file(path, file)
    inner = file.name.lower().removesuffix(".gz")
    suffix = Path(inner).suffix + file.name.lower()[len(inner) :]
    if suffix not in _OPENERS:
        raise DataError(f"{path!r} has none of the known suffixes {', '.join(_OPENERS)}; convert or rename it.")
    table = _OPENERS[suffix](file)
    twice = sorted(n for n, count in Counter(table.names).items() if count > 1)
    if twice:
        raise DataError(f"{table.label!r} has columns of the same name: {shortened(map(repr, twice))}; rename them.")
    if not table.names:
        raise DataError(f"{table.label!r} has no columns.")
    return table


def _check_file(path: str, file: Path) -> None:
    if not path:
        raise DataError(f"A path or one of the bundled names {', '.join(BUNDLED)} is needed; the path is empty.")
    if file.is_dir():
        raise DataError(f"{path!r} is a directory; give one file ({', '.join(_OPENERS)}).")
    if not file.exists():
        if file.suffix or file.parent != Path():
            here = [p.name for p in file.parent.iterdir() if p.is_file()] if file.parent.is_dir() else []
            near = f" Files there: {nearest(file.name, here, 6)}." if here else ""
            raise DataError(f"There is no file {path!r}.{near}")
        raise DataError(f"{path!r} is no file and none of the bundled tables {nearest(path, BUNDLED)}.")
