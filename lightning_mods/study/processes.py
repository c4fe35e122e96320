"""Processes of a study: the ranks of one fit, and workers that share nothing but the storage."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from callbacks.host.packages import preferred
from callbacks.host.rendezvous import LocalRendezvous
from callbacks.search.results import Progress
from lightning_mods.cli.command_line import CommandLine
from lightning_mods.cli.siblings import can_preload
from lightning_mods.loggers.terminal import say


def context() -> Any:
    """Return how to start processes: forked from a fresh one that has imported torch, or anew where none can be."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    # Our own modules too, unless that process might take another package for ours than this one does.
    ours = ["lightning_mods.study.command"] if can_preload() else []
    found.set_forkserver_preload([*ours, "torch._dynamo", "optuna", f"{preferred()}.cli"])
    return found


@dataclass(frozen=True)
class ProcessEnd:
    """The end of a process."""

    code: int  # its exit code; below zero the signal that killed it

    def __str__(self) -> str:
        return f"was killed by signal {-self.code}" if self.code < 0 else f"ended with exit code {self.code}"


class ChildProcesses:
    """Processes with a pipe each to this one; one that is killed while it writes spoils no other's.

    Each calls the `target`, importable by name, with its number, its environment, its pipe and `args`, plain data.
    They are ended when the block ends, and killed if that takes one longer than `patience` seconds.
    """

    def __init__(
        self,
        count: int,
        target: Callable[..., None],
        *args: Any,
        environment: Mapping[str, str],
        patience: float = 0.0,
        server: LocalRendezvous | None = None,  # by which they meet; it is kept as long as they are
    ) -> None:
        self.count, self._server = count, server
        self._target, self._args, self._environment, self._patience = target, args, dict(environment), patience
        self._processes: dict[int, Any] = {}
        self._pipes: dict[int, Connection] = {}
        self._alive: set[int] = set()

    @property
    def is_alive(self) -> bool:
        """Whether a process can still send something."""
        return bool(self._alive)

    def __enter__(self) -> Self:
        try:
            for number in range(self.count):
                self._start(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, number: int) -> None:
        made = context()
        here, there = made.Pipe()
        try:
            process = made.Process(target=self._target, args=(number, self._environment, there, *self._args))
            process.start()
        finally:
            there.close()
        self._processes[number], self._pipes[number] = process, here
        self._alive.add(number)

    def receive(self, timeout: float | None = None) -> list[tuple[int, Any]]:
        """Wait for what the processes send, `timeout` seconds at most, and return each one's number and message.

        The last message of each process is a `ProcessEnd`.
        """
        pipes = [self._pipes[number] for number in self._alive]
        wait([*pipes, *(self._processes[number].sentinel for number in self._alive)], timeout)
        received: list[tuple[int, Any]] = []
        for number in sorted(self._alive):
            code = self._processes[number].exitcode  # asked first: what it sent before it ended is read below
            with suppress(EOFError, OSError):
                while self._pipes[number].poll():
                    received.append((number, self._pipes[number].recv()))
            if code is not None:
                received.append((number, ProcessEnd(code)))
                self._alive.discard(number)
        return received

    def send(self, number: int, message: Any) -> None:
        """Send something to a process; one that is gone needs it no more."""
        with suppress(OSError):
            self._pipes[number].send(message)

    def __exit__(self, *error: object) -> None:
        processes = self._processes.values()
        for process in processes if self._patience else ():
            process.terminate()
        for process in processes:
            if self._patience:
                process.join(self._patience)
            process.kill()
        for process in processes:
            process.join()
        for pipe in self._pipes.values():
            pipe.close()
        self._alive.clear()


RankWork = Callable[[int, Connection, Any], None]


def rank_processes(count: int, work: RankWork, request: Any, *, threads: int | None = None) -> ChildProcesses:
    """Make the ranks of one fit: Lightning finds them as it would find those of a launcher, and starts none itself.

    Each calls `work`, importable by name, with its rank, a pipe to this process, and the request, plain data.
    """
    server = LocalRendezvous()  # its own each: two trials may run at once
    environment = {**os.environ, **server.environment, "NODE_RANK": "0", "WORLD_SIZE": str(count)}
    # A rank that waits for another in a collective hears no milder signal than a kill.
    return ChildProcesses(count, _become_rank, threads, work, request, environment=environment, server=server)


def run_workers(count: int, work: Callable[..., None], line: CommandLine, report: Callable[[Progress], None]) -> str:
    """Run a study in processes of their own until all have ended.

    Each calls `work`, importable by name, with the command line and where to send the progress, with which `report` is
    called here. Returns what a worker found wrong with the command; empty if nothing.
    """
    error = ""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with ChildProcesses(count, _become_worker, work, line, environment=environment, patience=20.0) as workers:
        while workers.is_alive and not error:
            for number, message in workers.receive():
                if isinstance(message, str):
                    error = message
                elif not isinstance(message, ProcessEnd):
                    report(message)
                elif message.code and not error:
                    say(f"note: worker {number + 1} of {count} {message}; its trial goes to the others.")
    return error


# ------------------------------------------------------------------- in a process


def _become_rank(
    rank: int, environment: dict[str, str], pipe: Connection, threads: int | None, work: RankWork, request: Any
) -> None:
    _become_child({**environment, "LOCAL_RANK": str(rank)}, signal.SIGKILL)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    work(rank, pipe, request)


def _become_worker(
    number: int, environment: dict[str, str], pipe: Connection, work: Callable[..., None], line: CommandLine
) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _become_child(environment, signal.SIGTERM)
    import torch

    torch.set_num_threads(1)
    if (devices := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(number % devices)
    try:
        work(line, pipe.send)
    except KeyboardInterrupt:
        sys.exit(0)
    except BrokenPipeError:
        sys.exit(1)


def _become_child(environment: Mapping[str, str], end: signal.Signals) -> None:
    """Take an environment; get a signal as soon as the process that started this one is gone, however it ended."""
    os.environ.clear()
    os.environ.update(environment)
    # Ctrl-C in a terminal reaches all of its processes: it is the parent's to say who stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def leave() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), end)

    threading.Thread(target=leave, daemon=True).start()
