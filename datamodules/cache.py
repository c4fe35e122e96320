"""Encoded rows of a table, ready to be batched: in memory, or in a cache of files that are mapped."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.batching import Rows
from datamodules.encoding import Encoding, InfinityCount
from datamodules.errors import DataError
from datamodules.readers.limits import check_memory
from datamodules.readers.table import Table

_FORMAT = 1  # of the files; a change makes older ones unfindable

# For each set the row numbers it takes from a table, sorted, and their targets.
Sets = Mapping[str, tuple[NDArray[np.int64], NDArray[Any]]]


def cache_root() -> Path:
    """Return `$XDG_CACHE_HOME/lightning_mods`, by default `~/.cache/lightning_mods`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lightning_mods"


def folder_for(kind: str, table: Table, settings: Mapping[str, Any]) -> Path:
    """Return the folder for what depends on this state of a table and on `settings` (JSON) and on nothing else."""
    try:  # another release may encode otherwise: it shall not find what this one wrote
        release = version("lightning-mods")
    except PackageNotFoundError:  # run from a checkout
        release = "unknown"
    state: list[Any] = [table.label]
    if table.file is not None:
        stat = table.file.stat()
        state = [str(table.file.resolve()), stat.st_size, stat.st_mtime_ns]
    text = json.dumps([_FORMAT, release, kind, state, settings], sort_keys=True)
    return cache_root() / hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def all_or_nothing(folder: Path, n_bytes: int) -> Iterator[Path]:
    """Yield a new folder to write `n_bytes` into; it becomes `folder` at the end, or vanishes on any error.

    If another process was faster, its folder stays. A disk that is full, or may not be written to, is a DataError.
    """
    root = folder.parent
    draft: Path | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
        if n_bytes > free:
            raise OSError(f"{n_bytes / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=root))
        yield draft
        try:
            draft.replace(folder)
        except OSError:
            if not folder.is_dir():
                raise
    except OSError as error:
        raise DataError(
            f"The encoded table cannot be written to {str(root)!r}: {error}. Free some space, or set XDG_CACHE_HOME "
            "to a larger disk."
        ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


class ArrayFile:
    """An `.npy` file of known shape, written front to back.

    By ordinary writes: on a full disk these raise, while writing through a memory map kills the process.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any) -> None:
        self._stream = path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def append(self, values: NDArray[Any]) -> None:
        """Write more rows."""
        self._stream.write(np.ascontiguousarray(values).data)

    def close(self) -> None:
        """Flush to disk."""
        self._stream.close()


def encoded_sets(table: Table, encoding: Encoding, sets: Sets, folders: Mapping[str, Path] | None) -> dict[str, Rows]:
    """Encode some sets of rows of a table in one pass over it.

    Each set is kept as `x.npy` and `y.npy` in its one of the `folders`, those that exist are reused; None for memory.
    A cell in use that is infinite, or text where numbers are needed, is a DataError, as is a full disk.
    """
    if folders is not None:
        _write_missing(table, encoding, sets, folders)
        return {s: open_rows(f, encoding) for s, f in folders.items()}
    width = len(encoding.feature_names)
    needed = 4 * width * sum(len(rows) for rows, _ in sets.values())
    check_memory(table.label, needed, f"it has {width} features; --data.memory_map=true keeps them on disk")
    memory = {s: np.empty((len(rows), width), dtype=np.float32) for s, (rows, _) in sets.items()}
    for stage, place, values in encode_rows(table, encoding, {s: rows for s, (rows, _) in sets.items()}):
        encoding.features(values, out=memory[stage][place])
    return {s: _as_rows(memory[s], y) for s, (_, y) in sets.items()}


def _write_missing(table: Table, encoding: Encoding, sets: Sets, folders: Mapping[str, Path]) -> None:
    width = encoding.stored_width
    with ExitStack() as stack:
        files: dict[str, ArrayFile] = {}
        for stage, (rows, y) in ((s, sets[s]) for s in sets if not folders[s].is_dir()):
            draft = stack.enter_context(all_or_nothing(folders[stage], 4 * len(rows) * width + y.nbytes))
            np.save(draft / "y.npy", y)
            files[stage] = ArrayFile(draft / "x.npy", (len(rows), width), np.float32)
            stack.callback(files[stage].close)
        for stage, _, values in encode_rows(table, encoding, {s: sets[s][0] for s in files}):
            files[stage].append(values)


def encode_rows(
    table: Table, encoding: Encoding, rows: Mapping[str, NDArray[np.int64]]
) -> Iterator[tuple[str, slice, NDArray[np.float32]]]:
    """Encode a table chunk by chunk; yield the rows of each set as stored: which set, their place in it, the rows."""
    for start, x in _encoded_chunks(table, encoding) if rows else ():
        for stage, at in rows.items():
            low, high = np.searchsorted(at, [start, start + len(x)])
            if high > low:
                yield stage, slice(low, high), x[at[low:high] - start]


def _encoded_chunks(table: Table, encoding: Encoding) -> Iterator[tuple[int, NDArray[np.float32]]]:
    infinities, start = InfinityCount(), 0
    for chunk in table.chunks(encoding.inputs):
        yield start, encoding.encode_stored(chunk, start, infinities)
        start += chunk.num_rows
    infinities.check(table.label)


def encoded_table(table: Table, encoding: Encoding) -> Rows:
    """Encode all rows of a table that needs no target, in file order."""
    parts = [x for _, x in _encoded_chunks(table, encoding)]
    if not parts:
        raise DataError(f"{table.label!r} has a header but no rows.")
    return _as_rows(np.concatenate(parts), None, encoding)


def open_rows(folder: Path, encoding: Encoding) -> Rows:
    """Map a set that was written before; the bins of a column are one number there and become features by batch."""
    return _as_rows(_mapped(folder / "x.npy"), _mapped(folder / "y.npy"), encoding)


def _mapped(path: Path) -> NDArray[Any]:
    try:  # copy-on-write, since torch wants arrays it may write to
        loaded: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except ValueError:  # a set without rows: nothing to map
        loaded = np.load(path, allow_pickle=False)
    return loaded


def _as_rows(x: NDArray[Any], y: NDArray[Any] | None, stored: Encoding | None = None) -> Rows:
    expansion = stored.expansion.converted(torch.from_numpy) if stored and stored.expansion else None
    return Rows(torch.from_numpy(x), None if y is None else torch.from_numpy(np.ascontiguousarray(y)), expansion)
