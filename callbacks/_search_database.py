"""Opens a database that a study is kept in, by Optuna; every failure is one line, without a password."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks._search_error import SearchError, one_line
from callbacks._search_lock import folder_lock

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

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
