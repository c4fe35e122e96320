"""Lets rank zero work alone while the other processes of a fit wait, for hours if need be."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.seed import isolate_rng

from callbacks.search.plan import SearchError, one_line


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Put Python's, NumPy's and torch's generators back at the end, also when it ends in an exception."""
    kept = isolate_rng()
    kept.__enter__()
    try:
        yield
    finally:
        kept.__exit__(None, None, None)  # given the exception, it would put nothing back


PULSE = 60.0  # seconds between two signs of life; a wait on one collective ends the run after 30 minutes (10 on NCCL)


class RankZeroRunner:
    """Runs something on rank zero and hands its result to all.

    While it runs, rank zero is to `torch.distributed` a process of its own: what trains there (torchmetrics, samplers)
    asks for its peers, and they do not train. They wait in a broadcast that is answered by a sign of life now and then,
    so none of them ever waits longer than between two calls of `pulse`.

    Args:
        trainer: The trainer of the fit.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._group: Any = None
        self._last = time.monotonic()

    def run(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run `work` on rank zero; every rank must call this and gets the result.

        Raises:
            SearchError: It failed on rank zero, which raises what it was.
        """
        if self._trainer.world_size == 1:
            return work()
        if not self._trainer.is_global_zero:
            return self._wait()
        try:
            with self._hidden():
                result = work()
        except BaseException as error:
            with suppress(Exception):  # they may be gone already
                self._send({"failed": one_line(error)})
            raise
        self._send({"result": result})
        return result

    def pulse(self) -> None:
        """Give the others a sign of life if it is time; called now and then on rank zero."""
        if self._group is None or time.monotonic() - self._last < PULSE:
            return
        self._last = time.monotonic()
        torch.distributed.group.WORLD = self._group
        try:
            self._send({})
        finally:
            torch.distributed.group.WORLD = None

    @contextmanager
    def _hidden(self) -> Iterator[None]:
        self._group = torch.distributed.group.WORLD
        torch.distributed.group.WORLD = None
        try:
            yield
        finally:
            torch.distributed.group.WORLD = self._group
            self._group = None

    def _send(self, message: dict[str, Any]) -> None:
        self._trainer.strategy.broadcast(message, src=0)

    def _wait(self) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = self._trainer.strategy.broadcast({}, src=0)
            if "failed" in message:
                raise SearchError(f"The search on rank zero ended: {message['failed']}")
            if "result" in message:
                result: dict[str, Any] = message["result"]
                return result
