"""A log as columns of numbers, whatever file it came from."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Cell = float | None  # None is an empty cell; NaN is what the run wrote

_MISSING = {"", "-", "na", "n/a", "none", "null", "nil", "."}
_TENSOR = re.compile(r"tensor\(\s*([-+.\w]+).*\)", re.DOTALL)  # what str() makes of a torch scalar
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(e[-+]?\d+)?", re.IGNORECASE)


class LogError(ValueError):
    """Why a log cannot be read, in one line for the person who gave it."""


@dataclass(frozen=True)
class Table:
    """A log's columns, all of one length, in the order of the file.

    Attributes:
        kind: what wrote it, in words.
        columns: the numbers.
        words: of a column that holds words, the first of them.
        notes: what was left out while reading.
    """

    kind: str
    columns: dict[str, list[Cell]]
    words: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """The number of rows."""
        return max((len(values) for values in self.columns.values()), default=0)

    def count(self, name: str) -> int:
        """How many cells of a column hold a number, NaN among them."""
        return sum(value is not None for value in self.columns[name])


def number(value: object) -> Cell | str:
    """What a cell says: a number, None where it is empty, or else its words.

    `NaN`, `Infinity` and `inf` are numbers, whatever their case; a list of one number is that number.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if value is None or isinstance(value, bool):
        return None if value is None else str(value)
    if isinstance(value, str) and value.strip().lower() in _MISSING:
        return None
    if not isinstance(value, str | int | float):
        return type(value).__name__
    text = str(value).strip()
    tensor = _TENSOR.fullmatch(text)
    if tensor:
        text = tensor[1]
    elif _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:
        return text


def table_of(kind: str, rows: Iterable[Mapping[str, object]], notes: Sequence[str] = ()) -> Table:
    """A table out of rows, each with some of the columns."""
    columns: dict[str, list[Cell]] = {}
    words: dict[str, str] = {}
    length = 0
    for row in rows:
        for name, value in row.items():
            cell = number(value)
            if isinstance(cell, str):
                words.setdefault(name, cell)
                cell = None
            column = columns.setdefault(name, [])
            column.extend([None] * (length - len(column)))
            column.append(cell)
        length += 1
    for column in columns.values():
        column.extend([None] * (length - len(column)))
    return Table(kind, columns, words, tuple(notes))
