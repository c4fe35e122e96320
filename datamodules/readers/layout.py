"""Where the table begins in the first lines of a file: what stands above the header, and whether there is one."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from datamodules.errors import shortened

DELIMITERS = ",;\t|"
# Cells that mean "missing". "None" is not among them: it is a common category ("no alley", "no pool").
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "null", "NULL", "<NA>", "NaT")
MAX_RECORDS = 40  # that are looked at
_MAX_ABOVE = 15  # lines that may stand above a header
_COMMENTS = ("#", "%", "//")
_SEP = re.compile(r'"?sep=([^\w"\s]|\t)"?\s*', re.IGNORECASE)  # a first line by which Excel knows the delimiter
_NUMBER = re.compile(r"[+-]?[\d.,' ]*\d[\d.,' ]*([eE][+-]?\d+)?\s?%?")
_TOTALS = re.compile(
    r"(grand |sub)?total|sum|average|mean|(gesamt)?summe|gesamt|insgesamt|mittelwert|somme|moyenne|suma|totale|totaal",
    re.IGNORECASE,
)

Record = Sequence[str]


@dataclass(frozen=True)
class Layout:
    """How a delimited text is to be read."""

    delimiter: str
    is_spaced: bool  # runs of spaces are the delimiter
    names: tuple[str, ...]  # of the columns
    first_row: int  # record that the rows begin with
    notes: tuple[str, ...] = ()


def layout_of(records: Sequence[str], delimiter: str | None, may_be_spaced: bool) -> Layout:
    """Tell from the first records of a text, which are no empty lines, how it is to be read.

    `delimiter` is the one of a file whose suffix says so. Else it is the one of `DELIMITERS` that gives the header as
    many cells as the rows have, of these the one that is most frequent in it; where there is none, and it
    `may_be_spaced`, runs of spaces are.
    """
    start, notes = 0, list[str]()
    if (said := _SEP.fullmatch(records[0])) and len(records) > 1:
        delimiter, start = said[1], 1
    start, noted = _below_comments(records, start, delimiter)
    notes += noted
    found = _delimiter_at(records, start, delimiter)
    if found is None:
        for below in range(start + 1, min(start + _MAX_ABOVE, len(records) - 1)):
            by = _delimiter_at(records, below, delimiter)
            if by and _is_above(records, start, below, by):
                notes.append(_passed_over(records[start:below]))
                found, start = by, below
                break
    is_spaced = found is None and delimiter is None and may_be_spaced and _is_spaced(records[start:])
    chosen = "\t" if is_spaced else found or delimiter or sniffed(records[start])
    rows = [_spaced(r) if is_spaced else cells(r, chosen) for r in records[start:]]
    if is_spaced and len(rows[0]) > 1 and rows[0][0] in _COMMENTS:  # "# a b c"
        rows[0] = rows[0][1:]
    names, first, noted = named(rows)
    return Layout(chosen, is_spaced, names, start + first, (*notes, *noted))


def named(rows: Sequence[Record]) -> tuple[tuple[str, ...], int, list[str]]:
    """Return the names of the columns, the number of the record that the rows begin with, and what is to be said.

    Above the header may stand a title, in a record that is otherwise empty. The header may have one name less than the
    rows have cells, as R writes row names, or end in a delimiter where they do not. There is none where its cells
    are numbers, or words of the rows below, in each column: then the columns are numbered.
    """
    notes = []
    start = next((i for i in range(min(_MAX_ABOVE, len(rows))) if not _is_title(rows, i)), 0)
    if start:
        notes.append(_passed_over(["  ".join(filter(None, row)) for row in rows[:start]]))
    header, below = list(rows[start]), rows[start + 1 :]
    widths = {len(row) for row in below}
    if widths == {len(header) + 1}:
        if any(row[-1].strip() for row in below):
            header = ["", *header]
            notes.append("the header has one name less than the rows: the first column is taken for their names")
        else:
            header = [*header, ""]
    elif widths == {len(header) - 1} and not header[-1].strip():
        header = header[:-1]
    numbered = tuple(f"column_{i + 1}" for i in range(len(header)))
    if below and all(len(row) == len(header) for row in below) and not _are_names(header, below):
        steps = _steps(header)
        if not steps or min(steps) <= 0:
            shown = shortened(map(repr, header), 4)
            span = f"{numbered[0]} to {numbered[-1]}"
            notes.append(f"no header: the first line is a row ({shown}), so the columns are called {span}")
            return numbered, start, notes
        if {*steps} != {1}:
            notes.append(
                f"the names are numbers ({shortened(header, 4)}); if they are a row, add a line of names above"
            )
    # a nameless first column is what pandas and R write for row names
    names = tuple(name if name.strip() else number for name, number in zip(header, numbered, strict=True))
    return names, start + 1, notes


def sniffed(header: str) -> str:
    """Return the delimiter of a header line: the most frequent candidate outside quotes, a comma if there is none."""
    return _ranked(header)[0]


def _ranked(header: str) -> list[str]:
    bare = "".join(header.split('"')[::2])
    return sorted(DELIMITERS, key=lambda d: (-bare.count(d), DELIMITERS.index(d)))


def cells(record: str, delimiter: str) -> list[str]:
    """Return the cells of a record."""
    try:
        return next(csv.reader([record], delimiter=delimiter), [])
    except csv.Error:  # a cell that is larger than its limit
        return record.split(delimiter)


def total_noted(row: Record) -> list[str]:
    """Return what is to be said of the last row of a table: that it may be the sum of the others."""
    said = next((cell.strip() for cell in row[:2] if cell.strip()), "")
    if not _TOTALS.fullmatch(said.rstrip(":")):
        return []
    return [f"the last row begins with {said!r}, and is a row like any other; if it sums them up, delete it"]


def is_number(cell: str) -> bool:
    """Return whether a cell is written as some number."""
    return bool(_NUMBER.fullmatch(cell.strip()))


def _below_comments(records: Sequence[str], start: int, delimiter: str | None) -> tuple[int, list[str]]:
    # The record after the comments, or the last of them where that names the columns.
    body = next((i for i in range(start, len(records)) if not records[i].startswith(_COMMENTS)), start)
    if body == start:
        return start, []
    by = delimiter or _delimiter_at(records, body, None)
    split = (lambda r: cells(r, by)) if by else _spaced
    last, first = split(records[body - 1].lstrip("#%/ \t")), split(records[body])
    is_row = any(map(is_number, first))
    has_numbers = any(is_number(cell) for r in records[body + 1 :] for cell in split(r))
    if (
        len(last) == len(first)
        and (is_row or (not has_numbers and body - start == 1))
        and not any(map(is_number, last))
    ):
        body -= 1
    return body, [_passed_over(records[start:body])] if body > start else []


def _delimiter_at(records: Sequence[str], start: int, delimiter: str | None) -> str | None:
    # The delimiter that gives this record, as a header, as many cells as each record below has.
    for by in [delimiter] if delimiter else _ranked(records[start]):
        header, *below = ([*cells(r, by)] for r in records[start:])
        widths = {len(row) for row in below} or {len(header)}
        fits = (widths == {len(header)}) or (widths == {len(header) + 1}) or (widths == {len(header) - 1})
        if len(header) > 1 and len(widths) == 1 and fits and (len(header) - 1 not in widths or not header[-1].strip()):
            return by
    return None


def _is_above(records: Sequence[str], start: int, below: int, delimiter: str) -> bool:
    # Whether the records between are a title and the like: fewer cells than the header, which names numbers.
    header, *rows = (cells(r, delimiter) for r in records[below:])
    few = max(len([*filter(str.strip, cells(r, delimiter))]) for r in records[start:below])
    names_numbers = not any(map(is_number, header)) and any(is_number(cell) for row in rows for cell in row)
    return few < len(header) and (names_numbers or (few == 1 and len(rows) > 1 and not any(map(is_number, header))))


def _is_title(rows: Sequence[Record], i: int) -> bool:
    # Whether record i is a title above a header, though it has as many cells, or none that say anything.
    said = [bool(cell.strip()) for cell in rows[i]]
    below = next((j for j in range(i + 1, len(rows)) if any(map(str.strip, rows[j]))), None)
    if below is None or len(said) < 2 or 2 * sum(said) > len(said) or any(said[sum(said) :]):
        return False
    if i and not any(said):
        return True
    header = [cell for cell in rows[below] if cell.strip()]
    more = len(header) > sum(said) or _is_title(rows, below)
    numbers = any(is_number(cell) for row in rows[below + 1 :] for cell in row)
    return more and numbers and not any(map(is_number, header))


def _are_names(header: Record, below: Sequence[Record]) -> bool:
    # Whether a first line names columns: where it is a row, each cell is a number above numbers, or a word of them.
    def is_cell(i: int) -> bool:
        column = [row[i].strip() for row in below]
        said = [cell for cell in column if cell not in MISSING]
        if is_number(header[i]):
            return bool(said) and all(map(is_number, said))
        return not header[i].strip() or header[i].strip() in said

    return not any(map(is_number, header)) or not all(map(is_cell, range(len(header))))


def _steps(header: Record) -> list[float]:
    # From one number to the next: they rise where these are years, wavelengths or the places of an array.
    try:
        numbers = [float(cell) for cell in header if cell.strip()]
    except ValueError:
        return []
    return [b - a for a, b in pairwise(numbers)]


def _is_spaced(records: Sequence[str]) -> bool:
    header, *rows = (len(_spaced(r)) for r in records)
    if records[0].split()[:1] and records[0].split()[0] in _COMMENTS:
        header -= 1
    return header > 0 and bool(rows) and len({*rows}) == 1 and rows[0] > 1 and rows[0] in (header, header + 1)


def _spaced(record: str) -> list[str]:
    found: list[str] = re.findall(r'"(?:[^"]|"")*"|[^ \t]+', record)
    return [cell[1:-1].replace('""', '"') if cell.startswith('"') and len(cell) > 1 else cell for cell in found]


def _passed_over(records: Sequence[str]) -> str:
    lines = "line" if len(records) == 1 else "lines"
    return f"{len(records)} {lines} above the header passed over: {shortened([repr(r.strip()) for r in records], 2)}"
