"""Readers of tables: a path or a bundled name, opened by the reader for its kind."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from datamodules.errors import DataError, nearest, shortened
from datamodules.readers.columnar import bundled_table, feather_table, npz_table, parquet_table
from datamodules.readers.delimited import delimited_table
from datamodules.readers.limits import MAX_EXPANSION
from datamodules.readers.table import Table, file_state, reading

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
_RUNS = 10  # a Parquet file may hold a page of equal cells in a byte: so much more than a packed file may it unpack to
_KINDS = {
    **dict.fromkeys((".csv", ".tsv", ".csv.gz", ".tsv.gz"), "delimited text"),
    **{".parquet": "Parquet", ".feather": "Feather", ".npz": "NPZ"},
}


def open_table(path: str, max_expansion: float = MAX_EXPANSION) -> Table:
    """Open a bundled name or a file, and read no more than its header; a DataError says why it is no table.

    So it does when the table is read later on. A packed file may unpack to `max_expansion` times its size, 0 for any.
    """
    if path in BUNDLED:
        return bundled_table(path)
    with reading(path, "a table"):
        file = Path(path).expanduser()
        kind = _checked_kind(path, file)
    openers: dict[str, Callable[[Path], Table]] = {
        "delimited text": partial(delimited_table, max_expansion=max_expansion),
        "NPZ": partial(npz_table, max_expansion=max_expansion),
        "Parquet": parquet_table,
        "Feather": feather_table,
    }
    with reading(path, kind):
        state = file_state(file)  # before its header is read
        table = replace(openers[kind](file), state=state).guarded(file, kind, _RUNS * max_expansion)
    twice = sorted(name for name, count in Counter(table.names).items() if count > 1)
    if twice:
        raise DataError(f"{table.label!r} has columns of the same name: {shortened(map(repr, twice))}; rename them.")
    if not table.names:
        raise DataError(f"{table.label!r} has no columns.")
    return table


def _checked_kind(path: str, file: Path) -> str:
    # What kind of file it is by its suffix; a DataError if it is none.
    if not path:
        raise DataError(f"A path or one of the bundled names {', '.join(BUNDLED)} is needed; the path is empty.")
    if file.is_dir():
        raise DataError(f"{path!r} is a directory; give one file ({', '.join(_KINDS)}).")
    if not file.exists():
        if re.fullmatch(r"<\w+>", path):  # see `frames.in_memory`
            raise DataError(f"The table was one in memory, {path}; give a file of its rows, as Parquet for example.")
        if file.suffix or file.parent != Path():
            here = [p.name for p in islice(file.parent.iterdir(), 1000) if p.is_file()] if file.parent.is_dir() else []
            near = f" Files there: {nearest(file.name, here, 6)}." if here else ""
            raise DataError(f"There is no file {path!r}.{near}")
        raise DataError(f"{path!r} is no file and none of the bundled tables {nearest(path, BUNDLED)}.")
    if not file.is_file():  # it can be read once, may never end, or never begin
        raise DataError(f"{path!r} is a pipe, a device or a socket; save what it gives to a file.")
    inner = file.name.lower().removesuffix(".gz")
    suffix = Path(inner).suffix + file.name.lower()[len(inner) :]
    if suffix not in _KINDS:
        raise DataError(f"{path!r} has none of the known suffixes {', '.join(_KINDS)}; convert or rename it.")
    return _KINDS[suffix]
