"""Opens what a study is kept in: memory, a journal file, a database. Every failure is one line."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from callbacks._search_database import open_database, why
from callbacks._search_error import SearchError
from callbacks._search_journal import open_journal

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


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
