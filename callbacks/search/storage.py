"""Opens what a study is kept in: memory, a journal file, a database. Every failure is one line."""

from __future__ import annotations

import errno
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.search.plan import SearchError, one_line

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage


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


@contextmanager
def alone(place: str | None, storage: BaseStorage | None = None) -> Iterator[None]:
    """Keep other processes from starting a trial at the same moment.

    For tidiness, not for truth: the ledger finds out who came first without it, but then a surplus trial is left
    behind. Where there is no such lock (another system, a file system without) or it is held for 10 s, go on.

    Args:
        place: As given to `open_storage`.
        storage: What it opened; a PostgreSQL server keeps the lock itself, for processes of all machines.
    """
    engine = getattr(storage, "engine", None)
    if engine is not None and engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT set_config('lock_timeout', '10s', true)")
            with suppress(Exception):
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7305804402434600051)")  # "lightmods" by chance
            yield
    else:
        with folder_lock(place):
            yield


@contextmanager
def folder_lock(place: str | None) -> Iterator[None]:
    """Lock the folder of a file for the processes of this machine; the kernel lets go when one is killed."""
    folder = _folder(place)
    if folder is None or os.name != "posix":
        yield
        return
    import fcntl

    # The folder, so that no file is left; not the database itself, whose own locks go when any handle on it is closed.
    handle = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(1000):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break
        yield
    finally:
        os.close(handle)


def _folder(place: str | None) -> Path | None:
    if place is None or ("://" in place and not place.startswith("sqlite")):
        return None
    folder = Path(place.partition(":///")[2] if "://" in place else place).absolute().parent
    return folder if folder.is_dir() else None


BEAT = 15  # seconds between two signs of life of a running trial
SILENCE = 60  # seconds without one after which a trial of another machine is lost
BUSY = 30  # seconds to wait for a database that another process has locked


def open_database(url: str, *, keep: bool) -> RDBStorage:
    """Connect to a database, and make its tables if they are not there.

    Args:
        url: As SQLAlchemy reads it.
        keep: Keep connections to a server open between uses.

    Raises:
        SearchError: It is no URL, cannot be reached, is locked, or its driver is missing.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    try:
        parsed = make_url(url)
        shown = parsed.render_as_string(hide_password=True)
        # psycopg 3 is what our extra installs; SQLAlchemy alone would ask for psycopg2.
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername=_postgresql_driver())
        parsed.get_dialect()
    except ImportError as error:
        raise SearchError(f"The storage {url.partition('://')[0]} needs a driver: {_driver_hint(url)}") from error
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise SearchError(f"{url!r} is no URL of a database ({one_line(error)}).") from error
    backend = parsed.get_backend_name()
    is_memory = backend == "sqlite" and parsed.database in (None, "", ":memory:")
    if backend == "sqlite" and not is_memory:
        folder = Path(str(parsed.database)).absolute().parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SearchError(f"The storage {shown} cannot be written: {error.strerror}.") from error
    try:
        with folder_lock(url):
            return _again(
                lambda: _rdb(
                    parsed.render_as_string(hide_password=False),
                    backend,
                    is_memory=is_memory,
                    keep=keep and backend != "sqlite",
                )
            )
    except ImportError as error:
        raise SearchError(f"The storage {shown} needs a driver: {_driver_hint(url)}") from error
    except (SQLAlchemyError, RuntimeError, OSError) as error:
        raise SearchError(f"The storage {shown} cannot be opened: {why(error)}.") from error


def _rdb(url: str, backend: str, *, is_memory: bool, keep: bool) -> RDBStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.pool import NullPool

    waits: dict[str, Any] = {"sqlite": {"timeout": BUSY}, "postgresql": {"connect_timeout": 10}}
    engine: dict[str, Any] = {"connect_args": waits.get(backend, {})}
    if keep:
        engine["pool_pre_ping"] = True  # between two trials lie minutes, or a restart of the server
    elif not is_memory:
        engine["poolclass"] = NullPool  # nobody closes a storage
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # heartbeats are experimental; their part here is small
        return RDBStorage(url, engine_kwargs=engine, heartbeat_interval=BEAT, grace_period=SILENCE)


def _again(make: Callable[[], RDBStorage], tries: int = 5) -> RDBStorage:
    """Workers that make the tables at the same moment get in each other's way once."""
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    for pause in range(1, tries):
        try:
            return make()
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if not any(sign in str(error).lower() for sign in ("unique", "duplicate", "already exists")):
                raise
            time.sleep(0.2 * pause)
    return make()


def _postgresql_driver() -> str:
    from importlib.util import find_spec

    return "postgresql+psycopg2" if find_spec("psycopg") is None and find_spec("psycopg2") else "postgresql+psycopg"


def _driver_hint(url: str) -> str:
    if url.startswith("postgres"):
        return "pip install 'psycopg[binary]'"
    if url.startswith("mysql"):
        return "pip install pymysql, and mysql+pymysql://…"
    return "install the one that SQLAlchemy's documentation names for it"


def why(error: BaseException) -> str:
    """What a database says is wrong, in one line."""
    cause = getattr(error, "orig", None) or error
    text = " ".join(str(cause).split())
    return text[:200].rstrip(".") or type(cause).__name__


_FULL_OR_GONE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)


def open_storage(place: str | None, *, keep: bool = False) -> BaseStorage:
    """Open a storage, and make it if it is not there.

    Args:
        place: A path ending in `.journal`; `sqlite:///…`, `postgresql://…` or any URL SQLAlchemy knows; None for
            memory.
        keep: Keep connections to a server open between uses; give it to `close_storage` then.

    Raises:
        SearchError: It cannot be written, is no journal, cannot be reached, is locked, or lacks a driver.
    """
    from optuna.storages import InMemoryStorage

    if place is None:
        return InMemoryStorage()
    if "://" in place:
        return open_database(place, keep=keep)
    if not place.endswith(".journal"):
        raise SearchError(
            f"A storage is a path ending in `.journal`, or a URL such as sqlite:///study.db or "
            f"postgresql://user@host/name; {place!r} is neither."
        )
    return open_journal(Path(place))


def close_storage(storage: BaseStorage) -> None:
    """End the connections that are kept. The storage can still be used; it opens new ones."""
    engine = getattr(storage, "engine", None)
    if engine is not None:
        engine.dispose()


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna's log without its news; the search reports in its own words."""
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(max(before, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def lost_storage_in_one_line() -> Iterator[None]:
    """What a storage raises when it goes away or is full while a search runs.

    Raises:
        SearchError: It did.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        inner = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        raise SearchError(f"The storage was lost ({why(inner)}); start again to go on.") from error
    except OSError as error:
        if error.errno not in _FULL_OR_GONE:
            raise
        raise SearchError(f"The storage cannot be written ({error.strerror}); start again to go on.") from error
