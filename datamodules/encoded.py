"""A table's rows, encoded and ready to be batched: in memory, or in files that are mapped."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.batching import Rows
from datamodules.encoding import Encoding, Tally
from datamodules.errors import DataError
from datamodules.memory_map import ArrayFile, all_or_nothing, mapped
from datamodules.table import Table

Sets = Mapping[str, tuple[NDArray[np.int64], NDArray[Any]]]
"""For each set the row numbers it takes from a table, sorted, and their targets."""


class Sink(Protocol):
    """Where encoded rows go: memory, or a file."""

    def append(self, values: NDArray[Any]) -> None:
        """Take more rows."""


class ArrayMemory:
    """Rows gathered in memory allocated once."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.array = np.empty(shape, dtype=np.float32)
        self._filled = 0

    def append(self, values: NDArray[Any]) -> None:
        """Take more rows."""
        self.array[self._filled : self._filled + len(values)] = values
        self._filled += len(values)


def encoded_sets(table: Table, encoding: Encoding, sets: Sets, folders: Mapping[str, Path] | None) -> dict[str, Rows]:
    """Encode some sets of rows of a table in one pass over it.

    Args:
        table: Where the rows are.
        encoding: Learned on training rows.
        sets: Which rows, and their targets.
        folders: Where to keep each set's `x.npy` and `y.npy`; those that exist are reused. None for memory.

    Raises:
        DataError: A cell in use is infinite, or text where numbers are needed; or the disk is full.
    """
    if folders is not None:
        _write_missing(table, encoding, sets, folders)
        return {s: open_rows(f) for s, f in folders.items()}
    width = len(encoding.feature_names)
    memory = {s: ArrayMemory((len(rows), width)) for s, (rows, _) in sets.items()}
    encode_rows(table, encoding, {s: rows for s, (rows, _) in sets.items()}, memory)
    return {s: _as_rows(memory[s].array, y) for s, (_, y) in sets.items()}


def _write_missing(table: Table, encoding: Encoding, sets: Sets, folders: Mapping[str, Path]) -> None:
    width = len(encoding.feature_names)
    with ExitStack() as stack:
        files: dict[str, ArrayFile] = {}
        for stage, (rows, y) in sets.items():
            if folders[stage].is_dir():
                continue
            draft = stack.enter_context(all_or_nothing(folders[stage], 4 * len(rows) * width + y.nbytes))
            np.save(draft / "y.npy", y)
            files[stage] = ArrayFile(draft / "x.npy", (len(rows), width), np.float32)
            stack.callback(files[stage].close)
        encode_rows(table, encoding, {s: sets[s][0] for s in files}, files)


def encoded_table(table: Table, encoding: Encoding) -> Rows:
    """Encode all rows of a table that needs no target, in file order."""
    parts: list[NDArray[np.float32]] = []
    tally, start = Tally(), 0
    for chunk in table.chunks(encoding.inputs):
        parts.append(encoding.encode(chunk, start, tally))
        start += chunk.num_rows
    tally.check(table.label)
    if not parts:
        raise DataError(f"{table.label!r} has a header but no rows.")
    return _as_rows(np.concatenate(parts), None)


def encode_rows(
    table: Table, encoding: Encoding, rows: Mapping[str, NDArray[np.int64]], sinks: Mapping[str, Sink]
) -> None:
    """Encode a table chunk by chunk and hand each set its rows.

    Raises:
        DataError: A cell in use is infinite, or text where numbers are needed.
    """
    tally, start = Tally(), 0
    for chunk in table.chunks(encoding.inputs) if rows else ():
        stop = start + chunk.num_rows
        x = encoding.encode(chunk, start, tally)
        for stage, at in rows.items():
            low, high = np.searchsorted(at, [start, stop])
            if high > low:
                sinks[stage].append(x[at[low:high] - start])
        start = stop
    tally.check(table.label)


def _as_rows(x: NDArray[Any], y: NDArray[Any] | None) -> Rows:
    return Rows(torch.from_numpy(x), None if y is None else torch.from_numpy(np.ascontiguousarray(y)))


def open_rows(folder: Path) -> Rows:
    """Map a set that was written before."""
    return _as_rows(mapped(folder / "x.npy"), mapped(folder / "y.npy"))
