"""Processes of this machine that a study starts: where they come from, and a team of them that trains one fit."""

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from lightning_mods.siblings import can_preload


def context() -> Any:
    """Forked from one fresh process that has imported torch once; where there is no such thing, started anew.

    Our own modules are imported there too, unless it might take another package for ours than this process does.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    ours = ["lightning_mods.lean_torchmetrics", "lightning_mods.study_plan"] if can_preload() else []
    found.set_forkserver_preload([*ours, "torch._dynamo", "optuna", "pytorch_lightning.cli"])
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
class Ended:
    """A process of a team is over.

    Args:
        code: Its exit code; below zero the signal that killed it.
    """

    code: int

    def __str__(self) -> str:
        return f"was killed by signal {-self.code}" if self.code < 0 else f"ended with exit code {self.code}"


class Team:
    """The ranks of one fit: Lightning finds them as it would find those of a launcher, and starts none itself.

    They are killed when the block ends, and kill themselves when this process is killed.

    Args:
        count: How many.
        work: Called in each with its rank, a pipe to this process, and `task`; importable by name.
        task: Plain data.
        threads: Of torch in each, before Lightning shares out the cores.
    """

    def __init__(
        self, count: int, work: Callable[[int, Connection, Any], None], task: Any, *, threads: int | None = None
    ) -> None:
        self.count = count
        self._work, self._task, self._threads = work, task, threads
        self._processes: dict[int, Any] = {}
        self._pipes: dict[int, Connection] = {}
        self._alive: set[int] = set()

    @property
    def is_alive(self) -> bool:
        """Whether there is still somebody to listen to."""
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
                target=_become_rank, args=(rank, dict(environment), there, self._threads, self._work, self._task)
            )
            process.start()
        finally:
            there.close()
        self._processes[rank], self._pipes[rank] = process, here
        self._alive.add(rank)

    def hear(self, timeout: float | None = None) -> list[tuple[int, Any]]:
        """Wait for what the ranks send.

        Args:
            timeout: In seconds; None waits until there is something.

        Returns:
            Rank and message; the last one of each rank is an `Ended`.
        """
        wait(
            [self._pipes[rank] for rank in self._alive] + [self._processes[rank].sentinel for rank in self._alive],
            timeout,
        )
        heard: list[tuple[int, Any]] = []
        for rank in sorted(self._alive):
            code = self._processes[rank].exitcode  # asked first: what it sent before it ended is read below
            with suppress(EOFError, OSError):
                while self._pipes[rank].poll():
                    heard.append((rank, self._pipes[rank].recv()))
            if code is not None:
                heard.append((rank, Ended(code)))
                self._alive.discard(rank)
        return heard

    def answer(self, rank: int, message: Any) -> None:
        """Send something to a rank; one that is gone needs no answer."""
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
    """A port of this machine that nobody listens on."""
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
    task: Any,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    # Ctrl-C in a terminal reaches all of its processes: it is the parent's to say who stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_with_parent(signal.SIGKILL)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    work(rank, pipe, task)
