"""Commands in processes that are forked from one that has imported torch already, so that a kill costs no start."""

import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["lightning_mods.cli.verbs", "torch._dynamo"])
LIMIT = 300  # seconds for a command


class CommandError(RuntimeError):
    """A command ended otherwise than it should."""


def start(verb: str, flags: tuple[str, ...], folder: Path) -> Any:
    """Start a command in a folder; what it says goes into `log`."""
    folder.mkdir(parents=True, exist_ok=True)
    process = _SERVER.Process(target=_become, args=(verb, flags, str(folder)))
    process.start()
    return process


def _become(verb: str, flags: tuple[str, ...], folder: str) -> None:
    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["XDG_CACHE_HOME"] = str(Path(folder, "cache"))
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["", *flags]
    runpy.run_module(f"lightning_mods.{verb}", run_name="__main__", alter_sys=True)


def finish(verb: str, flags: tuple[str, ...], folder: Path) -> None:
    """Run a command to its end; a CommandError says how it failed."""
    process = start(verb, flags, folder)
    wait([process.sentinel], LIMIT)
    code = process.exitcode
    if code is None:
        process.kill()
    if code != 0:
        end = (folder / "log").read_text(encoding="utf-8")[-2000:]
        raise CommandError(f"{verb} {' '.join(flags)} in {folder} ended with {code}:\n{end}")


def killed(verb: str, flags: tuple[str, ...], folder: Path, moment: Callable[[], bool], pause: float) -> bool:
    """Start a command and kill it so many seconds after a moment; tell whether the kill came before its end."""
    process = start(verb, flags, folder)
    end = time.monotonic() + LIMIT
    try:
        while process.exitcode is None and not moment():
            if time.monotonic() > end:
                raise CommandError(f"{verb} in {folder} never came to the moment at which it was to be killed")
            time.sleep(0.0005)
        wait([process.sentinel], pause)
    finally:
        process.kill()
        process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        end_of_log = (folder / "log").read_text(encoding="utf-8")[-2000:]
        raise CommandError(f"{verb} {' '.join(flags)} in {folder} failed before it was killed:\n{end_of_log}")
    return process.exitcode != 0


@contextmanager
def postgresql() -> Iterator[str | None]:
    """Run a PostgreSQL server of its own and give its URL; None where it is not installed."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    where = next((place for place in places if (place / "initdb").exists()), None)
    if where is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    root = os.getuid() == 0
    if root:
        shutil.chown(folder, "postgres")
    account = ["runuser", "-u", "postgres", "--"] if root else []

    def run(*command: str) -> None:
        subprocess.run([*account, *command], capture_output=True, check=True, cwd=folder)

    data = str(folder / "data")
    run(f"{where}/initdb", "-D", data, "-U", "tester", "--auth=trust", "--no-sync")
    options = f"-c listen_addresses='' -c fsync=off -k {folder}"
    run(f"{where}/pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        yield f"postgresql://tester@/postgres?host={folder}"
    finally:
        run(f"{where}/pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
