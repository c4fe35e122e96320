"""Opens a journal file of Optuna's, and keeps it readable whatever was killed while it wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks._search_error import SearchError, one_line

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

LOCK = 5  # seconds after which the lock of a killed writer is broken; Optuna warns below 3


def open_journal(path: Path) -> BaseStorage:
    """Open a journal, and make it if it is not there.

    Args:
        path: The file.

    Raises:
        SearchError: It cannot be written or read, or is no journal.
    """
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    # Not Optuna's default, a link to the journal as its path was given: where that leads nowhere (a relative path, a
    # folder that was moved or that another machine knows by another name) the link of a killed writer is never broken.
    class Lock(JournalFileOpenLock):
        """Optuna's, which also clears away the half line of a writer that was killed: the next would be glued to it."""

        def acquire(self) -> bool:
            held = super().acquire()
            _drop_half_line(path)
            return held

        def release(self) -> None:
            # Broken by another process since a slow disk took longer: what was to be written is written.
            with suppress(RuntimeError):
                super().release()

    path = path.absolute()  # a trial may change the working folder
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(13, "the folder cannot be written, and the journal's lock stands there")
        _check_is_journal(path)
        return _journal(JournalFileBackend(str(path), lock_obj=Lock(str(path), grace_period=LOCK)))
    except OSError as error:
        raise SearchError(f"The journal {path} cannot be written: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, SearchError):
            raise
        raise SearchError(f"The journal {path} cannot be read ({one_line(error)}); name another file.") from error


@contextmanager
def at_once(storage: BaseStorage) -> Iterator[None]:
    """Write to a journal what comes in one go at the end: a write waits for the disk. No other storage is changed.

    For reports, attributes and the ends of trials, not for new trials. What is refused by then, since another process
    has taken a trial for lost and ended it, is left out.
    """
    backend = getattr(storage, "holding", None)
    if backend is None:
        yield
        return
    from optuna.exceptions import UpdateFinishedTrialError

    backend.hold()
    try:
        yield
    finally:
        backend.let_go()
        refused = True
        while refused:  # each reading stops behind one line that is refused
            try:
                storage.get_all_studies()
                refused = False
            except UpdateFinishedTrialError:
                pass


def _journal(file: Any) -> BaseStorage:
    """A journal storage over a file that can hold back what is written to it."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend

    class Holding(BaseJournalBackend):
        held: list[dict[str, Any]] | None = None

        def read_logs(self, log_number_from: int) -> Any:
            return file.read_logs(log_number_from)

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            held = self.held  # once: signs of life come from a thread of their own
            if held is None:
                file.append_logs(logs)
            else:
                held.extend(logs)

        def hold(self) -> None:
            self.held = []

        def let_go(self) -> None:
            held, self.held = self.held, None
            if held:
                file.append_logs(held)

    class Journal(JournalStorage):
        holding = Holding()

    return Journal(Journal.holding)


def _check_is_journal(path: Path) -> None:
    start = b'{"op_code":'
    with path.open("rb") as file:
        head = file.read(len(start))
    if not start.startswith(head):
        raise SearchError(f"{path} is no journal of Optuna's; name a file that is one, or a new one.")


def _drop_half_line(path: Path) -> None:
    """Cut what stands behind the last line end. Only who holds the journal's lock may call this."""
    with suppress(FileNotFoundError), path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        keep = end
        while keep:
            start = max(0, keep - 4096)
            file.seek(start)
            found = file.read(keep - start).rfind(b"\n")
            keep = start + found + 1 if found >= 0 else start
            if found >= 0:
                break
        if keep < end:
            file.truncate(keep)
