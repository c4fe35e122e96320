"""`EventLogger`: Lightning's TensorBoard logger, for epochs that are shorter than the writing of their metrics."""

import time
from collections.abc import Mapping
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from callbacks.host.lightning import TensorBoardLogger

SECONDS = 1.0  # that metrics may wait


class EventLogger(TensorBoardLogger):
    """Writes all scalars of a call as one event, and the events of a second together.

    TensorBoard's own writer makes an event of each scalar and wakes a thread for it, which took longer than ten
    training steps of a small network for what is logged in an epoch. The times on the events are those of the calls.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: list[Event] = []
        self._since = 0.0

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take in scalars by name; dicts go to Lightning's logger at once."""
        if any(isinstance(value, dict) for value in metrics.values()):
            super().log_metrics(metrics, step)
            return
        summary = Summary()
        for name, value in metrics.items():
            tag = f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" if self._prefix else name
            summary.value.add(tag=tag, simple_value=float(value))
        now = time.monotonic()
        self._since = self._since if self._waiting else now
        self._waiting.append(Event(summary=summary, wall_time=time.time(), step=step or 0))
        if now - self._since > SECONDS:
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            writer = self.experiment.file_writer
            if writer is not None:
                writer.add_event(event, event.step, event.wall_time)
                continue
            for value in event.summary.value:  # an earlier fit closed the file: this opens the next
                self.experiment.add_scalar(value.tag, value.simple_value, event.step, event.wall_time)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what waits, and close the file."""
        self.flush()
        super().finalize(status)
