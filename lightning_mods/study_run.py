"""The TensorBoard run of a trial that was trained together with others: one event an epoch, at its end."""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from lightning_mods.study_watch import plain

_FILES = count()  # files of one second must not have one name


def write_run(
    folder: Path,
    params: Mapping[str, Any],
    curves: Mapping[str, Sequence[float]],
    *,
    lr: float,
    best: tuple[int | None, Mapping[str, float]],
    metrics: Sequence[str],
) -> None:
    """Write the run of a fit as its own loggers would: the curves, and its row for the HParams tab.

    Args:
        folder: The run.
        params: What the trial tried, by name.
        curves: Name to one number an epoch.
        lr: The learning rate.
        best: The best epoch and all metrics of it; None and nothing if no epoch had a finite value.
        metrics: Names of the objectives.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard.summary import hparams

    epoch_of_best, found = best
    results = dict.fromkeys([*metrics, *(name for name in sorted(found) if name.startswith("val_"))])
    row = {f"hp/{name}": found[name] for name in results if name in found}
    shown = {name: plain(value) for name, value in params.items()}
    summaries = [(each, 0) for each in hparams(shown, row)] if row else []  # type: ignore[no-untyped-call]
    for epoch, _ in enumerate(curves["train_loss"]):
        values = {"lr": lr, **{name: curve[epoch] for name, curve in curves.items()}, "epoch": float(epoch)}
        if epoch == epoch_of_best:
            values |= {**found, **row}
        tags = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        summaries.append((Summary(value=tags), epoch))
    _write(folder, summaries)


def _write(folder: Path, summaries: Sequence[tuple[Any, int]]) -> None:
    """Write an event file in one go: TensorBoard's writer starts a thread for it, which takes longer."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    now = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{int(now):010d}.{platform.node()}.{os.getpid()}.{next(_FILES)}"
    with (folder / name).open("wb") as file:
        records = RecordWriter(file)
        records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for summary, step in summaries:
            records.write(Event(wall_time=now, step=step, summary=summary).SerializeToString())
