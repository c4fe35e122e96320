"""Encoded sets as `.npy` files that are mapped into memory: for tables larger than memory, made once and reused."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DataError

_FORMAT = 1  # of the files; a change makes older ones unfindable


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/lightning_mods`, by default `~/.cache/lightning_mods`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "lightning_mods"


def folder_for(*parts: Any) -> Path:
    """The folder for what depends on `parts` (anything JSON takes) and on nothing else."""
    text = json.dumps([_FORMAT, _version(), *parts], sort_keys=True)
    return cache_root() / hashlib.sha256(text.encode()).hexdigest()[:32]


def _version() -> str:
    """Another release may encode otherwise: it shall not find what this one wrote."""
    try:
        return version("lightning-mods")
    except PackageNotFoundError:  # run from a checkout
        return "unknown"


def identity(label: str, file: Path | None) -> list[Any]:
    """What tells one state of a file from another: path, size, time of change."""
    if file is None:
        return [label]
    stat = file.stat()
    return [str(file.resolve()), stat.st_size, stat.st_mtime_ns]


def available_memory() -> int:
    """Bytes of memory that can be had now; all there is where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def all_or_nothing(folder: Path, n_bytes: int) -> Iterator[Path]:
    """Yield a new folder to write into; it becomes `folder` at the end, or vanishes on any error.

    Args:
        folder: Where it shall stand. If another process was faster, its folder stays.
        n_bytes: How much will be written, to say so if the disk is too small.

    Raises:
        DataError: The disk is full, or may not be written to.
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


def mapped(path: Path) -> NDArray[Any]:
    """Map an `.npy` file; copy-on-write, since torch wants arrays it may write to."""
    try:
        loaded: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except ValueError:  # a set without rows: nothing to map
        loaded = np.load(path, allow_pickle=False)
    return loaded
