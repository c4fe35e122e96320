"""Processes of a study: the ranks of one fit, and workers that share nothing but the storage."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from callbacks.search.results import Progress
from lightning_mods.console.terminal import say


def context() -> Any:
    """Return how to start processes: forked from a fresh one that has imported torch, or anew where none can be."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(
        ["lightning_mods.fused.imports", "lightning_mods.study.command", "torch._dynamo", "optuna"]
    )
    return found


def leave_with_parent(how: signal.Signals) -> None:
    """Send this process a signal as soon as the one that started it is gone, however that ended."""

    def leave() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), how)

    threading.Thread(target=leave, daemon=True).start()


@dataclass(frozen=True)
class ProcessEnd:
    """The end of a process.

    Args:
        code: Its exit code; below zero the signal that killed it.
    """

    code: int

    def __str__(self) -> str:
        return f"was killed by signal {-self.code}" if self.code < 0 else f"ended with exit code {self.code}"


class RankProcesses:
    """The ranks of one fit: Lightning finds them as it would find those of a launcher, and starts none itself.

    They are killed when the block ends, and kill themselves when this process is killed.

    Args:
        count: How many.
        work: Called in each with its rank, a pipe to this process, and `request`; importable by name.
        request: Plain data.
        threads: Of torch in each, before Lightning shares out the cores.
    """

    def __init__(
        self, count: int, work: Callable[[int, Connection, Any], None], request: Any, *, threads: int | None = None
    ) -> None:
        self.count = count
        self._work, self._request, self._threads = work, request, threads
        self._processes: dict[int, Any] = {}
        self._pipes: dict[int, Connection] = {}
        self._alive: set[int] = set()

    @property
    def is_alive(self) -> bool:
        """Whether a rank can still send something."""
        return bool(self._alive)

    def __enter__(self) -> Self:
        # Its own port each: two trials may run at once.
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
        try:
            for rank in range(self.count):
                own = {**shared, "WORLD_SIZE": str(self.count), "LOCAL_RANK": str(rank)}
                self._start(rank, {**os.environ, **own})
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, rank: int, environment: Mapping[str, str]) -> None:
        made = context()
        here, there = made.Pipe()
        try:
            process = made.Process(
                target=_become_rank, args=(rank, dict(environment), there, self._threads, self._work, self._request)
            )
            process.start()
        finally:
            there.close()
        self._processes[rank], self._pipes[rank] = process, here
        self._alive.add(rank)

    def receive(self, timeout: float | None = None) -> list[tuple[int, Any]]:
        """Wait for what the ranks send.

        Args:
            timeout: In seconds; None waits until there is something.

        Returns:
            Rank and message; the last one of each rank is a `ProcessEnd`.
        """
        wait(
            [self._pipes[rank] for rank in self._alive] + [self._processes[rank].sentinel for rank in self._alive],
            timeout,
        )
        received: list[tuple[int, Any]] = []
        for rank in sorted(self._alive):
            code = self._processes[rank].exitcode  # asked first: what it sent before it ended is read below
            with suppress(EOFError, OSError):
                while self._pipes[rank].poll():
                    received.append((rank, self._pipes[rank].recv()))
            if code is not None:
                received.append((rank, ProcessEnd(code)))
                self._alive.discard(rank)
        return received

    def send(self, rank: int, message: Any) -> None:
        """Send something to a rank; one that is gone needs it no more."""
        with suppress(OSError):
            self._pipes[rank].send(message)

    def __exit__(self, *error: object) -> None:
        # A rank that waits for another in a collective hears no milder signal.
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.join()
        for pipe in self._pipes.values():
            pipe.close()
        self._alive.clear()


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _become_rank(
    rank: int,
    environment: dict[str, str],
    pipe: Connection,
    threads: int | None,
    work: Callable[[int, Connection, Any], None],
    request: Any,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    # Ctrl-C in a terminal reaches all of its processes: it is the parent's to say who stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_with_parent(signal.SIGKILL)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    work(rank, pipe, request)


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
        say(f"note: worker {worker.number + 1} of {count} {ProcessEnd(code)}; its trial goes to the others.")
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
