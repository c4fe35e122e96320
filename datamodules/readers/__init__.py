"""Readers of tables: a path or a bundled name, opened by the reader for its kind."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from datamodules.errors import DataError, shortened
from datamodules.readers.columnar import arrow_table, bundled_table, npz_table, parquet_table
from datamodules.readers.delimited import delimited_table
from datamodules.readers.json_records import json_table
from datamodules.readers.kinds import ARROW, BUNDLED, LINES, RECORDS, SHEETS, TEXT, place_of
from datamodules.readers.limits import MAX_EXPANSION
from datamodules.readers.spreadsheet import sheet_table
from datamodules.readers.sqlite import sqlite_table
from datamodules.readers.table import Table, file_state, reading

_RUNS = 10  # a Parquet file may hold a page of equal cells in a byte: so much more than a packed file may it unpack to


def open_table(path: str, max_expansion: float = MAX_EXPANSION, encoding: str = "auto") -> Table:
    """Open a bundled name or a file; a DataError says why it is no table.

    So it does when the table is read later on. A packed file may unpack to `max_expansion` times its size, 0 for any.
    `encoding` is that of a text file, "auto" for the one that all of it can be read in.
    """
    if path in BUNDLED:
        return bundled_table(path)
    with reading(path, "a table"):
        place = place_of(path)
    text = partial(delimited_table, max_expansion=max_expansion, encoding=encoding)
    openers: dict[str, Callable[[Path], Table]] = {
        TEXT: text,
        LINES: partial(json_table, max_expansion=max_expansion, is_lines=True),
        RECORDS: partial(json_table, max_expansion=max_expansion, is_lines=False),
        SHEETS: partial(sheet_table, sheet=place.part, max_expansion=max_expansion),
        "SQLite": partial(sqlite_table, name=place.part),
        "NPZ": partial(npz_table, max_expansion=max_expansion),
        "Parquet": parquet_table,
        "Feather": arrow_table,
        ARROW: arrow_table,
    }
    with reading(path, place.kind):
        state = file_state(place.file)  # before its header is read
        opened = openers[place.kind](place.file)
        part = " ".join(filter(None, [place.part, encoding if encoding != "auto" else None]))
        opened = replace(opened, label=path, state=state, part=part, notes=(*place.notes, *opened.notes))
        table = opened.guarded(place.file, place.kind, _RUNS * max_expansion)
    twice = sorted(name for name, count in Counter(table.names).items() if count > 1)
    if twice:
        raise DataError(f"{table.label!r} has columns of the same name: {shortened(map(repr, twice))}; rename them.")
    if not table.names:
        raise DataError(f"{table.label!r} has no columns.")
    return table
