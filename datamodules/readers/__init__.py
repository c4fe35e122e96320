"""A path or a bundled name, opened as a table by the reader for its kind."""

from pathlib import Path

from datamodules.errors import DataError, nearest, shortened
from datamodules.readers.arrow import columnar_table
from datamodules.readers.bundled import bundled_table, npz_table
from datamodules.readers.delimited import delimited_table
from datamodules.readers.table import Table

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".feather", ".npz")


def open_table(path: str) -> Table:
    """Open a bundled name or a file; reads no more than the header.

    Raises:
        DataError: There is no such file, or it cannot be read as the table its suffix says.
    """
    if path in BUNDLED:
        return bundled_table(path)
    file = Path(path).expanduser()
    suffix = suffix_of(file)
    _check_file(path, file)
    if suffix not in SUFFIXES:
        raise DataError(f"{path!r} has none of the known suffixes {', '.join(SUFFIXES)}; convert or rename it.")
    if suffix == ".npz":
        table = npz_table(file)
    elif suffix in (".parquet", ".feather"):
        table = columnar_table(file, suffix)
    else:
        table = delimited_table(file, suffix)
    return _checked(table)


def suffix_of(file: Path) -> str:
    """The suffix in lower case, with `.gz` counted as part of it: `.csv.gz`."""
    name = file.name.lower()
    inner = name.removesuffix(".gz")
    return Path(inner).suffix + name[len(inner) :]


def _check_file(path: str, file: Path) -> None:
    if not path:
        raise DataError(f"A path or one of the bundled names {', '.join(BUNDLED)} is needed; the path is empty.")
    if file.is_dir():
        raise DataError(f"{path!r} is a directory; give one file ({', '.join(SUFFIXES)}).")
    if not file.exists():
        if file.suffix or file.parent != Path():
            here = [p.name for p in file.parent.iterdir() if p.is_file()] if file.parent.is_dir() else []
            near = f" Files there: {nearest(file.name, here, 6)}." if here else ""
            raise DataError(f"There is no file {path!r}.{near}")
        raise DataError(f"{path!r} is no file and none of the bundled tables {nearest(path, BUNDLED)}.")


def _checked(table: Table) -> Table:
    twice = sorted({n for n in table.names if table.names.count(n) > 1})
    if twice:
        raise DataError(f"{table.label!r} has columns of the same name: {shortened(map(repr, twice))}; rename them.")
    if not table.names:
        raise DataError(f"{table.label!r} has no columns.")
    return table
