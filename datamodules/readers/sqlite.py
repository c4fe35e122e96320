"""Tables and views of a SQLite database, opened read-only and with what a stranger's schema may call kept off."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from datamodules.errors import DataError, shortened
from datamodules.readers.kinds import chosen
from datamodules.readers.table import CHUNK_ROWS, Table

_AT_ONCE = 200  # columns that one query counts: SQLite has 2000 in a result
_SAFELY = ("PRAGMA trusted_schema=OFF", "PRAGMA cell_size_check=ON", "PRAGMA mmap_size=0", "PRAGMA query_only=ON")
_KINDS = ("integer", "real", "text", "blob")


def sqlite_table(file: Path, name: str | None) -> Table:
    """Open a table or a view of a database; a DataError lists them where there are several and none is named.

    A column of whole numbers is such, one of numbers holds floats, one with any text is text, and one with any bytes is
    no cells at all, as SQLite has types cell by cell.
    """
    with closing(_connected(file)) as database:
        kinds = "type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        there = [row[0] for row in database.execute(f"SELECT name FROM sqlite_master WHERE {kinds} ORDER BY rowid")]
        if name is None and len(there) > 1:
            example = f"sqlite:///{file}?table={there[0]}"
            raise DataError(f"{str(file)!r} has {len(there)} tables: {shortened(there, 12)}; name one: {example}")
        name = chosen(str(file), name, there, "table")
        # An index that holds the columns asked for would give the rows in its own order, another one for other columns.
        is_view = ("view",) in database.execute("SELECT type FROM sqlite_master WHERE name = ?", (name,)).fetchall()
        source = f"FROM {_quoted(name)}" + ("" if is_view else " NOT INDEXED")
        names = tuple(column[0] for column in database.execute(f"SELECT * {source} LIMIT 0").description)
        rows, types, size = _counted(database, source, names)
    expressions = {column: _cast(column, types[column]) for column in names}

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        import pyarrow as pa

        read_too = names if is_view else columns  # one query, one order: a view goes by the indices behind it
        schema = pa.schema([(column, _arrow_type(types[column])) for column in read_too])
        with closing(_connected(file)) as database:
            cursor = database.execute(f"SELECT {', '.join(expressions[c] for c in read_too)} {source} LIMIT {rows}")
            while read := cursor.fetchmany(CHUNK_ROWS):
                arrays = [pa.array(cells, schema.field(i).type) for i, cells in enumerate(zip(*read, strict=True))]
                yield pa.record_batch(arrays, schema).select(list(columns))

    return Table(str(file), names, batches, file, bytes_estimate=size)


def _connected(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro", uri=True)
    for setting in _SAFELY:
        database.execute(setting)
    return database


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _counted(database: sqlite3.Connection, source: str, names: Sequence[str]) -> tuple[int, dict[str, str], int]:
    # Rows, the type of each column, and the bytes that all cells take in memory.
    rows = database.execute(f"SELECT count(*) {source}").fetchone()[0]
    types, size = dict[str, str](), 0
    for start in range(0, len(names), _AT_ONCE):
        part = names[start : start + _AT_ONCE]
        asked = [f"max(typeof({_quoted(name)}) = '{kind}')" for name in part for kind in _KINDS]
        asked += [f"sum(length({_quoted(name)}))" for name in part]
        found = database.execute(f"SELECT {', '.join(asked)} {source}").fetchone()
        for i, name in enumerate(part):
            has = dict(zip(_KINDS, found[len(_KINDS) * i :], strict=False))
            types[name] = next((kind for kind in reversed(_KINDS) if has[kind]), "text")
            size += 8 * rows + (3 * (found[len(_KINDS) * len(part) + i] or 0) if types[name] in ("text", "blob") else 0)
    return rows, types, size


def _cast(name: str, kind: str) -> str:
    return f"CAST({_quoted(name)} AS {kind.upper()})"


def _arrow_type(kind: str) -> Any:
    import pyarrow as pa

    return {"integer": pa.int64(), "real": pa.float64(), "text": pa.string(), "blob": pa.binary()}[kind]
