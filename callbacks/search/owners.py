"""Who runs a trial, and whether that process still lives: what a killed worker leaves behind is told from this."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any
from uuid import uuid4

from callbacks.search.storage import BEAT


class HeartbeatThread:
    """Beats in a thread of its own while a trial runs.

    Args:
        beat: Called with 1, 2, 3, …; what it raises is the storage's trouble, and the trial will find out itself.
    """

    def __init__(self, beat: Callable[[int], object]) -> None:
        self._beat = beat
        self._end = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> HeartbeatThread:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        count = 0
        while not self._end.wait(BEAT):
            count += 1
            with suppress(Exception):
                self._beat(count)


_MINE: dict[int, dict[str, Any]] = {}
_RUNS: set[str] = set()  # searches that go on in this process


@contextmanager
def run() -> Iterator[str]:
    """A name for a search while it goes on: a process outlives an interrupted one, in a notebook for days."""
    name = uuid4().hex[:12]
    _RUNS.add(name)
    try:
        yield name
    finally:
        _RUNS.discard(name)


def me() -> dict[str, Any]:
    """This process, as plain data: host, life of its machine, process id and when it began.

    Process ids are used again, so the start stands beside it; it counts from when the machine was started (and a
    container has ids of its own), so these stand there too.
    """
    pid = os.getpid()
    if pid not in _MINE:  # asked by the id, since a fork takes the cache along
        _MINE.clear()
        _MINE[pid] = {"host": platform.node(), "life": _life(), "pid": pid, "began": _began(pid)}
    return dict(_MINE[pid])


def is_elsewhere(owner: dict[str, Any]) -> bool:
    """Whether it runs on another machine, of which nothing can be said from here."""
    return bool(owner.get("host") != me()["host"])


def is_gone(owner: dict[str, Any]) -> bool:
    """Whether a search on this machine has ended. Machines that share a storage need different host names."""
    if is_elsewhere(owner):
        return False
    if owner.get("life") != me()["life"]:
        return True
    pid = int(owner["pid"])
    if pid == os.getpid() and owner.get("run") not in _RUNS:
        return True
    return not _lives(pid) or _began(pid) != owner.get("began")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _state(pid) not in ("Z", "X")  # killed, and its parent has not asked yet


def _stat(pid: int) -> list[str]:
    try:  # proc(5): the name may hold anything but stands in brackets
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _state(pid: int) -> str | None:
    fields = _stat(pid)
    return fields[0] if fields else None


def _began(pid: int) -> str | None:
    """Clock ticks since the machine's start, where the system tells."""
    fields = _stat(pid)
    return fields[19] if fields else None


def _life() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None
