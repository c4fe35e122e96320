"""Whole files: written beside their place and moved there, so that a kill or a full disk spoils none."""

import glob
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextmanager
def replacing(target: Path, suffix: str = ".partial") -> Iterator[Path]:
    """Give a path beside `target` to write to, and move it there when the block ends well.

    A kill, an error or a full disk in between leaves the file that was there. Every attempt has a path of its own, so
    that two processes that write one target leave the whole file of the later; what a killed one left is removed. The
    path ends in `suffix`, for a writer that looks at that. A symbolic link keeps its place: the file behind it is
    replaced. A device or a pipe, such as `/dev/stdout`, is written into.
    """
    if _is_stream(target):
        with _for_stream(target, suffix) as partial:
            yield partial
        return
    target = target.resolve() if target.is_symlink() else target
    _remove_abandoned(target, suffix)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{suffix}")
    with _in_use(partial):
        try:
            yield partial
            if target.exists():  # whoever may read it now may read it afterwards
                partial.chmod(stat.S_IMODE(target.stat().st_mode))
            partial.replace(target)
        except BaseException:
            with suppress(OSError):  # the first error is the one to report
                partial.unlink()
            raise


def _is_stream(target: Path) -> bool:
    """Whether bytes put there go elsewhere: a pipe, a device, a socket, or what a process has open."""
    path = Path(os.path.abspath(target))  # noqa: PTH100  # with its links
    if path.is_relative_to("/dev") or path.is_relative_to("/proc"):
        return not path.is_relative_to("/dev/shm")  # a folder of files
    return target.exists() and not target.is_file() and not target.is_dir()


@contextmanager
def _for_stream(target: Path, suffix: str) -> Iterator[Path]:
    """Write a file of the system's temporary folder, whose bytes are then put into `target`."""
    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder) / f"{target.name}{suffix}"
        yield partial
        with partial.open("rb") as source, target.open("ab") as sink:  # after what a file behind it holds already
            shutil.copyfileobj(source, sink)


@contextmanager
def _in_use(partial: Path) -> Iterator[None]:
    """Make a file, locked for as long as this process works on it; the kernel lets go when it is killed."""
    if sys.platform == "win32":  # where a file that is open cannot be moved
        yield
        return
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
    with locked(partial):
        yield


def _remove_abandoned(target: Path, suffix: str) -> None:
    """Remove what killed processes left of this target: files that nobody has locked."""
    if sys.platform == "win32":
        return
    for path in target.parent.glob(f".{glob.escape(target.name)}.????????{suffix}"):
        with suppress(OSError), locked(path) as mine:  # another process was faster
            if mine and not path.is_symlink():
                path.unlink()


@contextmanager
def locked(path: Path, patience: float = 0.0) -> Iterator[bool]:
    """Lock a file or a folder for the processes of this machine; tell whether that came about in so many seconds.

    The kernel lets go when the process ends, however it does. Where there are no such locks (another system, a file
    system without) nobody else has one either.
    """
    if sys.platform == "win32":
        yield True
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        yield _is_locked(handle, time.monotonic() + patience)
    finally:
        os.close(handle)


def _is_locked(handle: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.01)
        except OSError:
            return True
