"""A table that is read in chunks of rows, wherever it comes from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from datamodules.errors import DataError

CHUNK_ROWS = 65_536  # read at a time; fixed, as sums depend on how they are cut: from memory or disk, the same numbers
Batches = Callable[[Sequence[str]], Iterator[Any]]  # named columns -> Arrow record batches of any length, from row 1 on


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

    def chunks(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield Arrow tables of exactly `CHUNK_ROWS` rows (the last has the rest) with the named columns."""
        import pyarrow as pa

        waiting: list[Any] = []
        rows = 0
        for batch in self.batches(columns):
            waiting.append(batch)
            rows += batch.num_rows
            while rows >= CHUNK_ROWS:
                whole = pa.Table.from_batches(waiting)
                yield whole.slice(0, CHUNK_ROWS).combine_chunks()
                waiting = whole.slice(CHUNK_ROWS).to_batches()
                rows -= CHUNK_ROWS
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


def explained(file: Path, error: BaseException, what: str) -> DataError:
    """Turn a reader's exception into one line for the user."""
    if isinstance(error, PermissionError):
        return DataError(f"{str(file)!r} may not be read: permission denied; change its permissions.")
    return DataError(f"{str(file)!r} cannot be read as {what}: {error}")
