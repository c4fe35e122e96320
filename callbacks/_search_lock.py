"""Lets one process at a time start a trial, where there is something to lock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


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
