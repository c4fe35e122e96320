"""`EventLogger`: Lightning's TensorBoard logger, for epochs that are shorter than the writing of their metrics."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no hints
from lightning_utilities.core.rank_zero import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from callbacks.diagnosis.names import TEST, plain
from callbacks.host.files import replacing
from callbacks.host.lightning import TensorBoardLogger
from lightning_mods.loggers.event_records import event_records

SECONDS = 1.0  # that metrics may wait
_EPOCH = "epoch"  # as Lightning calls what it adds to metrics
_MARK = "tfevents"  # in the name of every event file


def _events(path: Path) -> Iterator[tuple[bytes, Event]]:
    """Yield the records of an event file as they stand there, each with its event; a torn one ends it."""
    with suppress(DecodeError):
        for record, event in event_records(path.read_bytes()):
            yield record, Event.FromString(event)


class EventLogger(TensorBoardLogger):
    """Writes all scalars of a call as one event, and the events of a second together.

    TensorBoard's own writer makes an event of each scalar and wakes a thread for it, which took longer than ten
    training steps of a small network for what is logged in an epoch. The times on the events are those of the calls.

    So that the curve of `epoch` is a line, it has one point a step, and none for the results of a test: Lightning
    would put the number of epochs done at the number of steps done, far off for a module that logs over its epochs.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: list[Event] = []
        self._since = 0.0
        self._epoch: tuple[int | None, float] | None = None  # the latest, with its step
        # Of the run that goes on, if it does: this process is about to write another one.
        there = () if self._version is None else Path(self.log_dir).glob(f"*{_MARK}*")
        self._earlier = tuple(sorted(there))

    @rank_zero_only
    def forget_after(self, moment: float, epochs: int) -> None:
        """Remove from the earlier event files what was written after a time, in seconds since the epoch.

        That is what an interrupted run had written after its last checkpoint, and is written again. It goes by the time
        since a run has several axes: what TensorBoard has for this, `purge_step`, hides whatever stands beyond one
        number, the steps of gradients beyond the number of an epoch. What belongs to the `epochs` that are done stays.
        """
        for path in self._earlier:
            if path.stat().st_mtime > moment:
                with replacing(path) as partial, partial.open("wb") as file:
                    file.writelines(
                        record for record, event in _events(path) if event.wall_time <= moment or event.step < epochs
                    )
        self._earlier = ()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take in scalars by name; dicts go to Lightning's logger at once."""
        if any(isinstance(value, dict) for value in metrics.values()):
            super().log_metrics(metrics, step)
            return
        summary = Summary()
        for name, value in metrics.items():
            if name == _EPOCH and self._adds_nothing(value, step, metrics.keys() - {_EPOCH}):
                continue
            tag = f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" if self._prefix else name
            summary.value.add(tag=tag, simple_value=float(value))
        now = time.monotonic()
        self._since = self._since if self._waiting else now
        self._waiting.append(Event(summary=summary, wall_time=time.time(), step=step or 0))
        if now - self._since > SECONDS:
            self.flush()

    def _adds_nothing(self, epoch: float, step: int | None, others: Collection[str]) -> bool:
        before, self._epoch = self._epoch, (step, float(epoch))
        of_test = bool(others) and all(TEST & {*plain(name).split("_")} for name in others)
        return of_test or before == self._epoch

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
