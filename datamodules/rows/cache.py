"""Encoded rows of a table, ready to be batched: in memory, or in a cache of files that are mapped."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.columns.encoding import Encoding, InfinityCount
from datamodules.errors import DataError
from datamodules.readers.limits import check_memory
from datamodules.readers.table import Table
from datamodules.rows.batching import Rows

if sys.platform != "win32":
    import fcntl

_FORMAT = 1  # of the files; a change makes older ones unfindable
_SUMS = "sums.json"  # checksums of the other files of a folder
_BLOCK_BYTES = 1 << 24
_DRAFT = ".draft-"
EXPANDED = 2**26  # bytes of features with bins, from which on the bins of a column are kept as one number
_NEW = 60.0  # seconds: a draft may not be locked yet

# For each set the row numbers it takes from a table, sorted, their targets, and their weights, if they have such.
Sets = Mapping[str, tuple[NDArray[np.int64], NDArray[Any], NDArray[np.float32] | None]]


def cache_root() -> Path:
    """Return `$XDG_CACHE_HOME/lightning_mods`, by default `~/.cache/lightning_mods`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lightning_mods"


def folder_for(kind: str, table: Table, settings: Mapping[str, Any]) -> Path:
    """Return the folder for what depends on this state of a table and on `settings` (JSON) and on nothing else."""
    try:  # another release may encode otherwise: it shall not find what this one wrote
        release = version("lightning-mods")
    except PackageNotFoundError:  # run from a checkout
        release = "unknown"
    # its state when it was opened: by now the file may be another
    state = [table.label if table.file is None else str(table.file.resolve()), *table.state]
    state += [table.part] if table.part else []
    text = json.dumps([_FORMAT, release, kind, state, settings], sort_keys=True)
    return cache_root() / hashlib.sha256(text.encode()).hexdigest()[:32]


def is_whole(folder: Path) -> bool:
    """Return whether a folder is there and each file in it as it was written: neither cut short nor zeroed."""
    try:
        return bool(json.loads((folder / _SUMS).read_text()) == _sums(folder))
    except (OSError, ValueError):
        return False


def _sums(folder: Path) -> dict[str, int]:
    sums = {}
    for file in folder.iterdir():
        if file.name != _SUMS:
            with file.open("rb") as stream:
                sums[file.name] = 0
                while block := stream.read(_BLOCK_BYTES):
                    sums[file.name] = zlib.crc32(block, sums[file.name])
    return sums


@contextmanager
def all_or_nothing(folder: Path, n_bytes: int) -> Iterator[Path]:
    """Yield a new folder to write `n_bytes` into; it becomes `folder` at the end, or vanishes on any error.

    If another process was faster, its folder stays, unless that is damaged. What killed processes left is removed. A
    disk that is full, or may not be written to, is a DataError.
    """
    root = folder.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        free = shutil.disk_usage(root).free
        if n_bytes > free:
            raise OSError(f"{n_bytes / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
        with _draft(root) as draft:
            yield draft
            (draft / _SUMS).write_text(json.dumps(_sums(draft)))
            if folder.is_dir() and not is_whole(folder):
                folder.rename(draft.with_suffix(".damaged"))
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


@contextmanager
def _draft(root: Path) -> Iterator[Path]:
    # A new folder, locked for as long as this process works on it; the kernel lets go when it is killed.
    draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=root))
    with ExitStack() as stack:
        for left in (draft, draft.with_suffix(".damaged")):
            stack.callback(shutil.rmtree, left, ignore_errors=True)
        with suppress(OSError):  # a file system without locks: what a kill leaves stays there
            stack.enter_context(_locked(draft))
        yield draft


def _remove_abandoned(root: Path) -> None:
    # drafts that nobody has locked
    for draft in root.glob(f"{_DRAFT}*") if sys.platform != "win32" else ():
        with suppress(OSError):  # another process was faster, or works on it
            if time.time() - draft.stat().st_mtime > _NEW:
                with _locked(draft):
                    shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # An OSError if another process has it locked.
    if sys.platform == "win32":  # where a folder that is open cannot be moved
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


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

    Each set is kept as `x.npy`, `y.npy` and, with weights, `weight.npy` in its one of the `folders`, those that exist
    are reused; None for memory.
    A cell in use that is infinite, or text where numbers are needed, is a DataError, as is a full disk.
    """
    if folders is not None:
        _write_missing(table, encoding, sets, folders)
        return {s: open_rows(f, encoding) for s, f in folders.items()}
    width, n_rows = len(encoding.feature_names), sum(len(rows) for rows, *_ in sets.values())
    stored = encoding if 4 * width * n_rows > EXPANDED else None  # then bins are made of their positions by batch
    width = encoding.stored_width if stored else width
    check_memory(table.label, 4 * width * n_rows, f"{width} numbers a row; --data.memory_map=true keeps them on disk")
    memory = {s: np.empty((len(rows), width), dtype=np.float32) for s, (rows, *_) in sets.items()}
    for stage, place, values in encode_rows(table, encoding, {s: rows for s, (rows, *_) in sets.items()}):
        if stored:
            memory[stage][place] = values
        else:
            encoding.features(values, out=memory[stage][place])
    return {s: _as_rows(memory[s], y, stored, weight) for s, (_, y, weight) in sets.items()}


def _write_missing(table: Table, encoding: Encoding, sets: Sets, folders: Mapping[str, Path]) -> None:
    width = encoding.stored_width
    with ExitStack() as stack:
        files: dict[str, ArrayFile] = {}
        for stage, (rows, y, weight) in ((s, sets[s]) for s in sets if not is_whole(folders[s])):
            columns = {"y": y} if weight is None else {"y": y, "weight": weight}
            n_bytes = 4 * len(rows) * width + sum(each.nbytes for each in columns.values())
            draft = stack.enter_context(all_or_nothing(folders[stage], n_bytes))
            for name, each in columns.items():
                np.save(draft / f"{name}.npy", each)
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
    infinities, start = InfinityCount(table.label), 0
    for chunk in table.chunks(encoding.inputs):
        yield start, encoding.encode_stored(chunk, start, infinities)
        start += chunk.num_rows
    infinities.check()


def encoded_table(table: Table, encoding: Encoding) -> Rows:
    """Encode all rows of a table that needs no target, in file order."""
    parts = [x for _, x in _encoded_chunks(table, encoding)]
    if not parts:
        raise DataError(f"{table.label!r} has a header but no rows.")
    return _as_rows(np.concatenate(parts), None, encoding)


def open_rows(folder: Path, encoding: Encoding) -> Rows:
    """Map a set that was written before; the bins of a column are one number there and become features by batch."""
    weight = folder / "weight.npy"
    weights = _mapped(weight) if weight.exists() else None
    return _as_rows(_mapped(folder / "x.npy"), _mapped(folder / "y.npy"), encoding, weights)


def _mapped(path: Path) -> NDArray[Any]:
    try:  # copy-on-write, since torch wants arrays it may write to
        loaded: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except ValueError:  # a set without rows: nothing to map
        loaded = np.load(path, allow_pickle=False)
    return loaded


def _as_rows(
    x: NDArray[Any], y: NDArray[Any] | None, stored: Encoding | None = None, weight: NDArray[np.float32] | None = None
) -> Rows:
    expansion = stored.expansion.converted(torch.from_numpy) if stored and stored.expansion else None
    columns = (None if each is None else torch.from_numpy(np.ascontiguousarray(each)) for each in (y, weight))
    targets, weights = columns
    return Rows(torch.from_numpy(x), targets, expansion, weights)
