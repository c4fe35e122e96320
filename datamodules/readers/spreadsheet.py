"""Sheets of Excel and OpenDocument, read whole through python-calamine: one column, one type."""

import re
import zipfile
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from datamodules.errors import DataError, shortened
from datamodules.readers.kinds import chosen
from datamodules.readers.layout import MAX_RECORDS, MISSING, named, total_noted
from datamodules.readers.limits import check_expansion, check_memory
from datamodules.readers.table import Table

_CELL_BYTES = 120  # that a cell takes while a sheet is read: in calamine, in Python, in Arrow
_PLACE = re.compile(rb"""\sr=["']([A-Z]{1,3})(\d{1,7})["']""")
_BLOCK_BYTES = 1 << 20
_LONGEST_PLACE = 20  # bytes of the above
_GONE = ["#DIV/0!", "#N/A", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!"]  # what a formula gives that cannot


def sheet_table(file: Path, sheet: str | None, max_expansion: float) -> Table:
    """Open a sheet, the first one where none is named; numbers, dates, booleans and text stay what they are.

    Empty rows are no rows. A merged cell holds its value at its first place and is missing at the others, and so is
    what a formula could not compute. A column of more than one type is text, as the cells would be written in a CSV.
    """
    try:
        from python_calamine import CalamineError, CalamineWorkbook, PasswordError
    except ImportError as error:
        raise DataError(f"{str(file)!r} needs python-calamine: pip install 'lightning-mods[excel]'") from error
    if zipfile.is_zipfile(file):
        _check_archive(file, max_expansion)
    try:
        with CalamineWorkbook.from_path(file) as book:
            name = chosen(str(file), sheet, book.sheet_names, "sheet")
            others = [other for other in book.sheet_names if other != name]
            rows = [row for row in book.get_sheet_by_name(name).iter_rows() if any(cell != "" for cell in row)]
    except PasswordError as error:
        raise DataError(f"{str(file)!r} has a password; save it without one.") from error
    except CalamineError:
        raise
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of Rust, at a damaged file; no Exception
            raise DataError(f"{str(file)!r} cannot be read as a spreadsheet: it is damaged.") from error
        raise
    if not rows:
        raise DataError(f"{str(file)!r} is empty in sheet {name!r}; a header line and rows are needed.")
    names, first, notes = named([[_written(cell) or "" for cell in row] for row in rows[:MAX_RECORDS]])
    if others and sheet is None:
        shown = shortened(map(repr, others))
        notes.insert(
            0, f"sheet {name!r} is read, the first of {len(others) + 1}; ?sheet=… after the path reads {shown}"
        )
    notes += total_noted([_written(cell) or "" for cell in rows[-1]])
    return _table(file, names, rows[first:], notes)


def _table(file: Path, names: tuple[str, ...], rows: list[list[Any]], notes: list[str]) -> Table:
    import pyarrow as pa

    columns = [_column([row[i] for row in rows]) for i in range(len(names))]
    twice = len({*names}) < len(names)  # said by whoever opens it
    whole = None if twice else pa.table(dict(zip(names, columns, strict=True)))

    def batches(wanted: Sequence[str]) -> Iterator[Any]:
        assert whole is not None
        return iter(whole.select(list(wanted)).to_batches())

    size = sum(column.nbytes for column in columns)
    return Table(str(file), names, batches, file, bytes_estimate=size, notes=tuple(notes))


def _column(cells: list[Any]) -> Any:
    # The cells of a column as an Arrow array of the one type that all of them have, else as text.
    import pyarrow as pa

    said = [None if cell in MISSING or cell in _GONE else cell for cell in cells]
    kinds = {type(cell) for cell in said if cell is not None}
    if kinds <= {int, float} and kinds:
        return pa.array([None if cell is None else float(cell) for cell in said], pa.float64())
    if kinds == {bool}:
        return pa.array(said, pa.bool_())
    if kinds <= {date, datetime} and kinds:
        days = [cell if cell is None or isinstance(cell, datetime) else datetime.combine(cell, time()) for cell in said]
        return pa.array(days, pa.timestamp("us"))
    if kinds in ({time}, {timedelta}):
        return pa.array(said)
    return pa.array([_written(cell) for cell in said], pa.string())


def _written(cell: Any) -> str | None:
    # A cell as a CSV would have it; None for an empty one.
    if cell is None or cell == "":
        return None
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return cell.isoformat() if isinstance(cell, (date, time)) else str(cell)


def _check_archive(file: Path, max_expansion: float) -> None:
    # calamine takes memory for each place up to the last cell of a sheet, however few cells there are.
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        check_expansion(file, unpacked, max_expansion)
        if damaged := archive.testzip():  # unpacks all: what is larger than it says is damaged too
            raise DataError(f"{str(file)!r} is damaged: {damaged!r} in it.")
        for member in archive.infolist():
            if not member.filename.startswith("xl/worksheets/") or not member.filename.endswith(".xml"):
                continue
            rows, width = 1, 1
            with archive.open(member) as stream:
                rest = b""
                while block := stream.read(_BLOCK_BYTES):
                    places = {*_PLACE.findall(rest + block)}
                    rows = max([rows, *(int(row) for _, row in places)])
                    width = max([width, *(_number(letters) for letters in {letters for letters, _ in places})])
                    rest = block[-_LONGEST_PLACE:]
            size = _CELL_BYTES * rows * width
            what = f"a sheet of it has cells up to row {rows:,} and column {width:,}; clear those that are far out"
            check_memory(str(file), size, what)


def _number(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + letter - 64
    return number
