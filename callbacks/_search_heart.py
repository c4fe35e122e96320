"""Signs of life for the trials that a process runs, while it runs them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from types import TracebackType

from callbacks._search_database import BEAT


class Heart:
    """Beats in a thread of its own while a trial runs.

    Args:
        beat: Called with 1, 2, 3, …; what it raises is the storage's trouble, and the trial will find out itself.
    """

    def __init__(self, beat: Callable[[int], object]) -> None:
        self._beat = beat
        self._end = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Heart:
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
