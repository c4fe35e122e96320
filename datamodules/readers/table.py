"""A table that is read in chunks of rows, wherever it comes from, and the door for what its reader raises."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from datamodules.errors import DataError, printable
from datamodules.readers.limits import check_expansion, check_memory

CHUNK_ROWS = 65_536  # read at a time; fixed, as sums depend on how they are cut: from memory or disk, the same numbers
CHUNK_CELLS, FEWEST_ROWS = 2**22, 2**12  # of a wide table fewer rows, yet enough to be worth a call for each column
_ROW_BYTES = 16  # that each row takes whatever it holds: its target, and its number in a set
_PROGRESS = 10.0  # seconds from one line about a long reading to the next
Batches = Callable[[Sequence[str]], Iterator[Any]]  # named columns -> Arrow record batches of any length, from row 1 on


def chunk_rows(columns: int) -> int:
    """Return the rows that are read at a time of a table of so many columns."""
    return min(CHUNK_ROWS, max(FEWEST_ROWS, CHUNK_CELLS // max(columns, 1)))


@dataclass(frozen=True)
class Table:
    """A table that can be read again and again, some columns at a time."""

    label: str  # what to call it in messages: the path or the bundled name
    names: tuple[str, ...]  # of the columns, in file order
    batches: Batches
    file: Path | None = None  # None for a bundled table
    bytes_estimate: int = 0  # in memory
    default_target: str | None = None  # of a bundled table
    is_columnar: bool = False  # its columns stand in the file as numbers, so that to read them again costs little
    state: tuple[int, ...] = ()  # of the file when it was opened; see `file_state`
    part: str = ""  # what of the file it is: a sheet, a table; and the encoding that was asked for
    notes: tuple[str, ...] = ()  # what a user should know about how the file was read
    delimiter: str | None = None  # of a delimited text
    as_written: Batches | None = None  # of text: likewise, but only an empty cell is missing; None where it is no text

    def chunks(self, columns: Sequence[str], *, as_written: bool = False) -> Iterator[Any]:
        """Yield Arrow tables of exactly as many rows as `chunk_rows` says (the last has the rest), of named columns.

        What is text in the file comes `as_written` if that is asked for: "NA" is a word then, not a missing cell.
        """
        import pyarrow as pa

        waiting: list[Any] = []
        rows, size = 0, chunk_rows(len(self.names))
        batches = self.as_written if as_written and self.as_written is not None else self.batches
        with reading(self.label, "a table"):  # Arrow has its limits on what it joins
            for batch in batches(columns):
                waiting.append(batch)
                rows += batch.num_rows
                while rows >= size:
                    whole = pa.Table.from_batches(waiting)
                    yield whole.slice(0, size).combine_chunks()
                    waiting = whole.slice(size).to_batches()
                    rows -= size
            if rows:
                yield pa.Table.from_batches(waiting).combine_chunks()

    def in_memory(self) -> "Table":
        """Return the same table, kept in memory from its first reading on."""

        @cache
        def whole() -> Any:
            import pyarrow as pa

            read = list(self.batches(self.names))
            return pa.Table.from_batches(read) if read else None

        def batches(columns: Sequence[str]) -> Iterator[Any]:
            return iter(()) if whole() is None else iter(whole().select(list(columns)).to_batches())

        return replace(self, batches=batches)

    def guarded(self, file: Path, kind: str, max_expansion: float) -> "Table":
        """Return the same table, whose reading goes through the door `reading` and is told of when it takes long.

        Neither may it take more than `max_expansion` times the bytes of the file. A file that is not as it was when it
        was opened is a DataError: what was learned of it would be of another.
        """
        check_expansion(file, self.bytes_estimate, max_expansion)

        def guarding(batches: Batches, columns: Sequence[str]) -> Iterator[Any]:
            rows, told = 0, time.monotonic()
            self._check_state()
            with reading(self.label, kind):  # what is raised where the rows go does not pass here
                for batch in batches(columns):
                    rows += batch.num_rows
                    if batch.num_rows > CHUNK_ROWS:  # a column of nulls takes no byte of the file
                        needed = _ROW_BYTES * rows
                        check_expansion(file, needed, max_expansion)
                        check_memory(self.label, needed, f"it claims {rows:,} rows, and may be damaged")
                    if time.monotonic() - told > _PROGRESS and batches is self.batches:
                        told = time.monotonic()
                        tell(f"reading {self.label}: {rows:,} rows so far")
                    yield batch
            self._check_state()

        written = self.as_written and partial(guarding, self.as_written)
        return replace(self, batches=partial(guarding, self.batches), as_written=written)

    def _check_state(self) -> None:
        if self.file is not None and self.state and self.state != file_state(self.file):
            raise DataError(f"{self.label!r} has changed since it was opened; start again once nobody writes it.")


def file_state(file: Path) -> tuple[int, ...]:
    """Return what changes when a file does: its size and the time of the last change; nothing of one that is gone.

    Of a database in SQLite also of the journal beside it, where what is written waits.
    """
    state = list[int]()
    for each in (file, Path(f"{file}-wal")):
        with suppress(OSError):
            stat = each.stat()
            state += [stat.st_size, stat.st_mtime_ns] if each == file or stat.st_size else []
    return tuple(state)


@contextmanager
def reading(label: str, kind: str) -> Iterator[None]:
    """Turn what libraries and the system raise at a file into one line that names it: the one door of all readers.

    There is no list of what they raise at a damaged file: half of Python's own errors, and those of five libraries.
    So nothing stands behind this door but their calls and what puts their results together.
    """
    try:
        yield
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(f"{label!r} may not be read: permission denied; change its permissions.") from error
    except MemoryError as error:
        raise DataError(f"{label!r} asks for more memory than there is: it is too large, or damaged.") from error
    except Exception as error:
        if type(error).__name__ == "ArrowCancelled":  # Ctrl-C, in Arrow's words
            raise KeyboardInterrupt from None
        raise DataError(f"{label!r} cannot be read as {kind}: {error or type(error).__name__}") from error


def tell(text: str) -> None:
    """Write a line about a table to the user, on one process: Lightning and torchrun number those of a machine."""
    if not int(os.environ.get("LOCAL_RANK", 0)):
        sys.stderr.write(f"{printable(text)}\n")


def tell_notes(table: Table) -> None:
    """Tell the user what is to be known about how a table was read that no description speaks of."""
    for note in table.notes:
        tell(f"note: {table.label}: {note}")
