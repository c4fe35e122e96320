"""What the large test set says of a run: the label, which nothing that reads `val_loss` may see.

Take the test loss smoothed over a tenth of the epochs, its trivial level (the baseline), its lowest level
up to the stop and its lowest level up to four times the stop. The room is the trivial level minus the
lowest, at least a tenth of the trivial level.

* diverged: a loss is not finite, or test and training losses both end above 1.5 times the trivial loss and
  the latter no lower than it began.
* overfit: at the stop the test loss stands more than 10 % of the room above its lowest before, so it does in
  the mean of the next quarter; going on brings it no lower than that lowest; and the training loss is lower
  than it was there.
* underfit: it stands less than 3 % above its lowest before, and going on brings it more than 10 % of the room
  below that, or it never came 2 % of the trivial level below the trivial level.
* good: it stands less than 3 % of the room above its lowest before, and going on gains less than 3 %.
* unclear, left out: whatever lies between, and what is less than twice the test loss's own jitter.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log, nan
from pathlib import Path

import numpy as np

CLEAR, NOTHING = 0.10, 0.03
LEAST = 0.10  # of the trivial loss: a room smaller than that is no measure
FLAT = 0.02  # of the trivial loss: what is gained by less has not left it
STOPS = (1, 2, 4)  # a run is also read as if it had been stopped at half and at a quarter
SHORTEST = 8


@dataclass(frozen=True)
class Run:
    """One history up to its stop, with its label."""

    id: str
    table: str
    label: str
    train_loss: list[float | None]
    val_loss: list[float | None]
    val_accuracy: list[float | None] | None
    baseline_loss: float | None
    accuracy_held: bool | None = None  # test accuracy at the stop within 1 % of the best smoothed one
    config: str = ""


def read(path: Path) -> Iterator[Run]:
    """Read the runs of a file, each at three stops, the unclear left out."""
    with gzip.open(path, "rt") as lines:
        for line in lines:
            record = json.loads(line)
            for part in STOPS:
                stop = record["epochs"] // part
                if stop >= SHORTEST and (run := _at_stop(record, stop)).label != "unclear":
                    yield run


def _at_stop(record: dict, stop: int) -> Run:
    label = _label(record, stop)
    names = ("table", "epochs", "train_rows", "val_rows", "batch_size", "hidden_sizes", "optimizer", "lr", "schedule")
    classes = record["classes"] > 0
    return Run(
        f"{record['id']}@{stop}",
        record["table"],
        label,
        _as_logged(record["train_loss"][:stop]),
        _as_logged(record["val_loss"][:stop]),
        record["val_accuracy"][:stop] if classes else None,
        record["baseline_loss"],
        _held(record, stop) if classes else None,
        " ".join(f"{n}={record[n]:.3g}" if n == "lr" else f"{n}={record[n]}" for n in names[2:]),
    )


def _as_logged(values: list[float | None]) -> list[float | None]:
    """A null in the file is a loss that was no number, and a trainer logs that as NaN."""
    return [nan if v is None else v for v in values]


def _smooth(values: np.ndarray, epochs: np.ndarray, width: float) -> np.ndarray:
    return np.array([values[np.abs(epochs - e) <= width].mean() for e in epochs])


def _label(record: dict, stop: int) -> str:
    test, train = record["test_loss"], record["train_loss"]
    if None in test or None in train[:stop] or None in record["val_loss"][:stop]:
        until = next((e for e, v in zip(record["test_epochs"], test, strict=True) if v is None), 10**9)
        lost = None in train[:stop] or None in record["val_loss"][:stop] or until < stop
        return "diverged" if lost else "unclear"
    values, epochs = np.array(test), np.array(record["test_epochs"])
    trivial = record["test_baseline"]
    if values[epochs < stop][-1] > 1.5 * trivial and train[stop - 1] > max(1.5 * trivial, train[0]):
        return "diverged"
    ahead = epochs < 4 * stop
    # Smoothed on either side of the stop apart: what comes later must not soften what stands there.
    past = _smooth(values[epochs < stop], epochs[epochs < stop], stop / 20)
    future = _smooth(values[ahead & (epochs >= stop)], epochs[ahead & (epochs >= stop)], stop / 10)
    best, last, soon = past.min(), past[-1], future[epochs[ahead & (epochs >= stop)] < 1.25 * stop].mean()
    room = max(trivial - min(best, future.min()), LEAST * trivial)
    worse, stays, gain = ((v - best) / room for v in (last, soon, 2 * best - future.min()))
    # What the curve does from one epoch to the next anyway is not clear.
    bends = np.abs(np.diff(values[epochs < stop], 2))
    jitter = np.median(bends) / room if len(bends) else 0.0
    if NOTHING < max(worse, gain) < 2 * jitter:
        return "unclear"
    # Not a jump of the last epoch, nor a double descent on its way down again, nor training itself coming
    # apart.
    if worse > CLEAR:
        at_best = train[epochs[past.argmin()]]
        return (
            "overfit" if stays > CLEAR and gain < NOTHING and np.median(train[stop - 3 : stop]) < at_best else "unclear"
        )
    if worse > NOTHING:
        return "unclear"
    if gain > CLEAR or best > (1 - FLAT) * trivial:
        return "underfit"
    return "good" if gain < NOTHING else "unclear"


def _held(record: dict, stop: int) -> bool:
    epochs = np.array(record["test_epochs"])
    values = np.array(record["test_accuracy"])[epochs < stop]
    smooth = _smooth(values, epochs[epochs < stop], stop / 20)
    return bool(smooth.max() - smooth[-1] < 0.01)


def read_taskset(path: Path) -> Iterator[Run]:
    """TaskSet, told apart by the hyper-parameters (the number after `#`), which recur from task to task."""
    with gzip.open(path / "taskset.jsonl.gz", "rt") as lines:
        for record in map(json.loads, lines):
            yield Run(
                record["id"], "#" + record["id"].split("#")[1], record["label"],
                record["train_loss"], record["val_loss"], None, log(2), config="taskset",
            )  # fmt: skip


def read_simulated(path: Path) -> Iterator[Run]:
    """OverfitGuard's simulated set, told apart by the table in the name."""
    with gzip.open(path / "overfitguard_simulated.jsonl.gz", "rt") as lines:
        for record in map(json.loads, lines):
            table = record["id"].removeprefix("training_log_").split("_model")[0]
            yield Run(
                record["id"], table, record["label"], record["train_loss"], record["val_loss"], None, None,
                config="simulated",
            )  # fmt: skip


def noisy(run: Run, share: float, seed: int) -> Run:
    """Multiply every validation loss by 1 + a normal number times `share`."""
    r = np.random.default_rng([seed, *map(ord, run.id)])
    factors = 1 + share * r.standard_normal(len(run.val_loss))
    loss = [None if v is None else v * f for v, f in zip(run.val_loss, factors, strict=True)]
    return replace(run, val_loss=loss)


def evaluated(run: Run, times: int) -> Run:
    """Keep that many epochs, evenly spread, the last among them."""
    n = len(run.val_loss)
    keep = sorted({round(i) for i in np.linspace(0, n - 1, min(times, n))})
    pick = lambda v: [v[i] for i in keep] if v else v  # noqa: E731
    return replace(
        run, train_loss=pick(run.train_loss), val_loss=pick(run.val_loss), val_accuracy=pick(run.val_accuracy)
    )
