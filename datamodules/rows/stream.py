"""The rows of a table to predict, read and encoded while they are handed out: memory holds some chunks at a time."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.columns.encoding import Encoding
from datamodules.columns.unusual import UnusualCells
from datamodules.errors import DataError, nearest
from datamodules.readers.table import Table
from datamodules.rows.batching import Rows


class RowStream:
    """Hands out all rows of a table in file order, as batches of features, float32 of shape (rows, features).

    It has no length, as a text file does not say how many rows it has. Each pass reads the table anew.

    Attributes:
        kept: The cells to keep of each batch that was handed out and not yet taken from here, oldest first: an Arrow
            table each, of as many rows. The text of a text file is as written.
        unusual: What the rows so far hold that those of training did not.
    """

    def __init__(
        self, table: Table, encoding: Encoding, *, batch_size: int, n_train: int, keep: Sequence[str] = ()
    ) -> None:
        self.batch_size = batch_size
        self.keep = tuple(keep)
        self.kept = deque[Any]()
        self._table, self._encoding, self._n_train = table, encoding, n_train
        self.unusual = self._nothing_yet()

    def _nothing_yet(self) -> UnusualCells:
        lacking = tuple(self._encoding.lacking(self._table.names))
        return UnusualCells(self._table.label, n_train=self._n_train, lacking=lacking)

    def __iter__(self) -> Iterator[Tensor]:
        self.kept.clear()
        self.unusual = self._nothing_yet()
        waiting: list[tuple[Tensor, Any]] = []  # parts of the next batch: features, and cells to keep
        rows = 0
        for x, cells in self._encoded():
            start = 0
            while start < len(x):
                stop = min(len(x), start + self.batch_size - rows)
                waiting.append((x.features(x.x[start:stop]), cells.slice(start, stop - start)))
                rows, start = rows + stop - start, stop
                if rows == self.batch_size:
                    yield self._batch(waiting)
                    waiting, rows = [], 0
        if rows:
            yield self._batch(waiting)
        self.unusual.check()
        if not self.unusual.rows:
            raise DataError(f"{self._table.label!r} has a header but no rows.")

    def _encoded(self) -> Iterator[tuple[Rows, Any]]:
        # Chunks of the table, each with its cells to keep.
        lacking = self.unusual.lacking
        inputs = [name for name in self._encoding.inputs if name not in lacking]
        is_text = self._table.as_written is not None
        together = [*inputs, *(name for name in self.keep if name not in inputs)]
        expansion = self._encoding.expansion and self._encoding.expansion.converted(torch.from_numpy)
        written = self._table.chunks(self.keep, as_written=True) if is_text and self.keep else None
        # A file of which no column is needed has rows nevertheless.
        for chunk in self._table.chunks((inputs if is_text else together) or self._table.names[:1]):
            cells = chunk.select(list(self.keep)) if written is None and self.keep else chunk.select([])
            cells = next(written) if written is not None else cells
            full = with_missing(chunk, lacking)
            x = self._encoding.encode_stored(full, self.unusual.rows, self.unusual)
            self.unusual.rows += len(x)
            yield Rows(torch.from_numpy(x), None, expansion), cells

    def _batch(self, parts: Sequence[tuple[Tensor, Any]]) -> Tensor:
        import pyarrow as pa

        if self.keep:
            self.kept.append(pa.concat_tables([cells for _, cells in parts]))
        # Joined even where it is one: a tensor of its own begins where torch's do, on which sums may depend.
        return torch.cat([x for x, _ in parts])


def with_missing(chunk: Any, names: Sequence[str]) -> Any:
    """Return an Arrow table with columns of missing cells added."""
    import pyarrow as pa

    for name in names:
        chunk = chunk.append_column(name, pa.nulls(chunk.num_rows, pa.string()))
    return chunk


def columns_to_keep(asked: str | Sequence[str], table: Table) -> list[str]:
    """Return the names of the columns that `asked` means: names, or "all"; a DataError if the table has one not."""
    if isinstance(asked, str):
        whole = [asked] if asked in table.names else [part.strip() for part in asked.split(",")]
        asked = table.names if whole == ["all"] and "all" not in table.names else whole
    for name in asked:
        if name not in table.names:
            raise DataError(f"--keep names {name!r}; {table.label!r} has {nearest(name, table.names)}.")
    return list(dict.fromkeys(asked))
