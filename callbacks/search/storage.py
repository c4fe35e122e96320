"""Open what a study is kept in, memory, a journal file or a database, and lock it. Every failure is one line."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from callbacks.host.files import locked
from callbacks.search.optuna_internals import engine_of
from callbacks.search.plan import SearchError, one_line

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage

LOCK_SECONDS = 5  # after which the journal lock of a killed writer is broken; Optuna warns below 3
BUSY_SECONDS = 30  # to wait for a database that another process has locked
LOCK_PATIENCE = 10.0  # seconds to wait for another process that starts a trial; then we go on without
HEARTBEAT_SECONDS = 15  # between two heartbeats of a running trial
LOST_SECONDS = 60  # without a heartbeat after which a trial of another machine is lost


def open_storage(where: str | None, *, keep: bool = False) -> BaseStorage:
    """Open a storage, and make it if it is not there.

    It is a path ending in `.journal`, any URL that SQLAlchemy knows, or None for memory. With `keep` the connections to
    a server stay open between uses, for the caller to dispose of. A `SearchError` says that it cannot be written, is no
    journal, cannot be reached, is locked, or lacks a driver.
    """
    from optuna.storages import InMemoryStorage

    if where is None:
        return InMemoryStorage()
    if "://" in where:
        return _open_database(where, keep=keep)
    if not where.endswith(".journal"):
        raise SearchError(
            f"A storage is a path ending in `.journal`, or a URL such as sqlite:///study.db or "
            f"postgresql://user@host/name; {where!r} is neither."
        )
    return _open_journal(Path(where))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's log but for errors; the search reports in its own words."""
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(max(before, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _open_journal(path: Path) -> BaseStorage:
    path = path.absolute()  # a trial may change the working folder
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would wait for a reader
            raise SearchError(f"{path} is no file; name a journal of Optuna's, or a new one.")
        with path.open("ab"):
            pass
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(13, "the folder cannot be written, and the journal's lock stands there")
        start = b'{"op_code":'
        with path.open("rb") as file:
            if not start.startswith(file.read(len(start))):
                raise SearchError(f"{path} is no journal of Optuna's; name a file that is one, or a new one.")
        return _journal(path)
    except OSError as error:
        raise SearchError(f"The journal {path} cannot be written: {error.strerror or error}.") from error
    except SearchError:
        raise
    except Exception as error:  # whatever lines that Optuna did not write make it raise
        raise SearchError(f"The journal {path} cannot be read ({one_line(error)}); name another file.") from error


def _journal(path: Path) -> BaseStorage:
    """Open a journal whose writes can be held back, and which a writer that was killed doesn't harm."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    # Not Optuna's default, a link to the journal as its path was given: where that leads nowhere (a relative path, a
    # folder that was moved or that another machine knows by another name) the link of a killed writer is never broken.
    class Lock(JournalFileOpenLock):
        """Clears away the half line of a writer that was killed: the next would be glued to it."""

        def acquire(self) -> bool:
            acquired = super().acquire()
            _drop_half_line(path)
            return acquired

        def release(self) -> None:
            # Broken by another process since a slow disk took longer: what was to be written is written.
            with suppress(RuntimeError):
                super().release()

    class Backend(JournalFileBackend):
        held_back: list[dict[str, Any]] | None = None

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            held_back = self.held_back  # read once: heartbeats come from a thread of their own
            if held_back is None:
                super().append_logs(logs)
            else:
                held_back.extend(logs)

    class Journal(JournalStorage):
        backend = Backend(str(path), lock_obj=Lock(str(path), grace_period=LOCK_SECONDS))

    return Journal(Journal.backend)


def _drop_half_line(path: Path) -> None:
    """Cut what stands behind the last line end. Only who holds the journal's lock may call this."""
    with suppress(FileNotFoundError), path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if file.read() not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _open_database(url: str, *, keep: bool) -> RDBStorage:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        parsed = make_url(url)
        shown = parsed.render_as_string(hide_password=True)
        # psycopg 3 is what our extra installs; SQLAlchemy alone would ask for psycopg2.
        if parsed.drivername in ("postgresql", "postgres"):
            driver = "psycopg2" if find_spec("psycopg") is None and find_spec("psycopg2") else "psycopg"
            parsed = parsed.set(drivername=f"postgresql+{driver}")
        parsed.get_dialect()
    except ImportError as error:
        raise SearchError(f"The storage {url.partition('://')[0]} needs a driver: {_driver_hint(url)}") from error
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise SearchError(f"{url!r} is no URL of a database ({one_line(error)}).") from error
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:")
    if is_file:
        try:
            Path(str(parsed.database)).absolute().parent.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            why_not = getattr(error, "strerror", None) or error
            raise SearchError(f"The storage {shown} cannot be written: {why_not}.") from error
    try:
        with folder_lock(url):
            return _rdb_storage(parsed, is_file=is_file, keep=keep)
    except ImportError as error:
        raise SearchError(f"The storage {shown} needs a driver: {_driver_hint(url)}") from error
    except Exception as error:  # whatever a driver raises on an address
        raise SearchError(f"The storage {shown} cannot be opened: {why(error)}.") from error


def _rdb_storage(url: Any, *, is_file: bool, keep: bool) -> RDBStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
    from sqlalchemy.pool import NullPool

    waits: dict[str, Any] = {"sqlite": {"timeout": BUSY_SECONDS}, "postgresql": {"connect_timeout": 10}}
    backend = url.get_backend_name()
    options: dict[str, Any] = {"connect_args": waits.get(backend, {})}
    if keep and backend != "sqlite":
        options["pool_pre_ping"] = True  # between two trials lie minutes, or a restart of the server
    elif is_file or backend != "sqlite":
        options["poolclass"] = NullPool  # nobody closes a storage
    address = url.render_as_string(hide_password=False)
    beats: dict[str, Any] = {"heartbeat_interval": HEARTBEAT_SECONDS, "grace_period": LOST_SECONDS}
    for pause in (1, 2, 3, 4, None):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # heartbeats are experimental; their part here is small
                return RDBStorage(address, engine_kwargs=options, **beats)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            # Workers that make the tables at the same moment get in each other's way once.
            if pause is None or not any(sign in str(error).lower() for sign in ("unique", "duplicate", "exists")):
                raise
            time.sleep(0.2 * pause)
    raise AssertionError("the last attempt returns or raises")


def _driver_hint(url: str) -> str:
    known = {"postgres": "pip install 'psycopg[binary]'", "mysql": "pip install pymysql, and mysql+pymysql://…"}
    usual = "install the one that SQLAlchemy's documentation names for it"
    return next((hint for kind, hint in known.items() if url.startswith(kind)), usual)


def why(error: BaseException) -> str:
    """Return what a database says is wrong, in one line."""
    cause = getattr(error, "orig", None) or error
    text = " ".join(str(cause).split())
    return text[:200].rstrip(".") or type(cause).__name__


def is_storage_error(error: BaseException) -> bool:
    """Return whether an error was raised in a storage: a database that is gone, a journal with lines of others."""
    from optuna.exceptions import OptunaError, StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, StorageInternalError | SQLAlchemyError):
        return True
    places = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    is_told = isinstance(error, OptunaError | OSError)  # what a caller of Optuna's is to hear, and has its own line
    return not is_told and any(place.startswith("optuna.storages") for place in places)


@contextmanager
def study_lock(where: str | None, storage: BaseStorage | None = None) -> Iterator[None]:
    """Keep other processes from starting a trial at the same moment in what `open_storage` opened.

    For tidiness, not for truth: `TrialHistory` finds out who came first without it, but then a surplus trial is left
    behind. Where there is no such lock (another system, a file system without) or it is held for 10 s, go on. A
    PostgreSQL server keeps the lock itself, for processes of all machines.
    """
    engine = engine_of(storage)
    if engine is not None and engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT set_config('lock_timeout', '10s', true)")
            with suppress(Exception):
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7305804402434600051)")  # "lightmods" by chance
            yield
    else:
        with folder_lock(where):
            yield


@contextmanager
def folder_lock(where: str | None) -> Iterator[None]:
    """Lock the folder of a file for the processes of this machine; the kernel lets go when one is killed."""
    folder = None
    if where is not None and ("://" not in where or where.startswith("sqlite")):
        folder = Path(where.partition(":///")[2] if "://" in where else where).absolute().parent
    if folder is None or not folder.is_dir():
        yield
        return
    # The folder, so that no file is left; not the database itself, whose own locks go when any handle on it is closed.
    with locked(folder, LOCK_PATIENCE):
        yield
