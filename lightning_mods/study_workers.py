"""Processes that train the trials of one study together; the storage is all they share."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from callbacks.search import Progress
from lightning_mods.study_team import Ended, context, leave_with_parent
from lightning_mods.terminal import say

_PATIENCE = 20.0  # seconds for a worker to leave its trial when it is asked to


@dataclass
class _Worker:
    number: int
    process: Any
    pipe: Connection  # one each: a worker that is killed while it writes spoils no other's


def run_workers(count: int, work: Callable[..., None], args: Sequence[str], report: Callable[[Progress], None]) -> str:
    """Run a study in processes of their own until all have ended.

    Args:
        count: How many.
        work: Called in each with the command line and where to send the progress; importable by name.
        args: The command line.
        report: Called here with what they send.

    Returns:
        What a worker found wrong with the command; empty if nothing.
    """
    made = context()
    workers = [_start(made, number, work, list(args)) for number in range(count)]
    error = ""
    try:
        alive = workers
        while alive:
            wait([each.pipe for each in alive] + [each.process.sentinel for each in alive])
            for each in alive:
                error = _listen(each, report) or error
            if error:
                break
            alive = [each for each in alive if not _has_ended(each, count)]
    finally:
        _stop(workers)
    return error


def _start(context: Any, number: int, work: Callable[..., None], args: list[str]) -> _Worker:
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_become_worker, args=(number, dict(os.environ), there, work, args))
    process.start()
    there.close()
    return _Worker(number, process, here)


def _listen(worker: _Worker, report: Callable[[Progress], None]) -> str:
    """Take what a worker sent."""
    error = ""
    with suppress(EOFError, OSError):
        while worker.pipe.poll():
            message = worker.pipe.recv()
            if isinstance(message, str):
                error = message
            else:
                report(message)
    return error


def _has_ended(worker: _Worker, count: int) -> bool:
    code = worker.process.exitcode
    if code is None:
        return False
    if code:
        say(f"note: worker {worker.number + 1} of {count} {Ended(code)}; its trial goes to the others.")
    return True


def _stop(workers: Sequence[_Worker]) -> None:
    """Ask those that run to leave their trials, and end those that do not."""
    for each in workers:
        if each.process.is_alive():
            each.process.terminate()
    for each in workers:
        each.process.join(_PATIENCE)
        if each.process.is_alive():
            each.process.kill()
            each.process.join()
        each.pipe.close()


# ------------------------------------------------------------------- in a worker


def _become_worker(
    number: int, environment: dict[str, str], pipe: Connection, work: Callable[..., None], args: list[str]
) -> None:
    os.environ.clear()
    os.environ.update({**environment, "OMP_NUM_THREADS": "1"})
    # Ctrl-C in a terminal reaches all of its processes: it is the parent's to say who stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    leave_with_parent(signal.SIGTERM)
    import torch

    torch.set_num_threads(1)
    if (devices := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(number % devices)
    try:
        work(args, pipe.send)
    except KeyboardInterrupt:
        sys.exit(0)
    except BrokenPipeError:
        sys.exit(1)
