"""What the test set says of a run and of each change to it: the gains, and the label made of them.

A gain is the test loss before less that after a change, over the *room*: from the trivial loss down to the best that
any variant or the reference reached, at least a tenth of the trivial loss.

* underfit: the best strengthening change gains more than 10 %, and more than any restraining one.
* overfit: the other way round. To go back to the best epoch is a restraining change.
* good: no change gains more than 5 %.
* diverged: a loss of the run is no number, or it ends above 1.5 times the trivial loss in training and test.
* unclear, left out: whatever lies between.

`end` counts the weights at the end of a run, as somebody has them who keeps none; `best` those of the epoch with the
lowest validation loss, on both sides.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, Literal

from callbacks.diagnosis.evidence import Evidence, Settings

STRENGTHENING = ("longer", "lr_up", "wider", "deeper", "decay_off", "dropout_off", "batch_down")
RESTRAINING = ("shorter", "lr_down", "narrower", "decay_up", "dropout_up", "batch_up")  # and the best epoch
CLEAR, NOTHING = 0.10, 0.05
LEAST = 0.10  # of the trivial loss: a room smaller than that is no measure
Weights = Literal["end", "best"]


@dataclass(frozen=True)
class Run:
    """One run with what became of its changes."""

    record: dict[str, Any]

    @property
    def table(self) -> str:
        return str(self.record["table"])

    @property
    def train_loss(self) -> list[float]:
        return [nan if v is None else v for v in self.record["train_loss"]]

    @property
    def val_loss(self) -> list[float]:
        return [nan if v is None else v for v in self.record["val_loss"]]

    @property
    def baseline_loss(self) -> float:
        return float(self.record["baseline_val"])

    def evidence(self) -> Evidence:
        """Return what a fit would know."""
        r = self.record
        schedules = {"constant": "constant", "cosine": "cosine", "step": "other"}
        alike = ("optimizer", "lr", "momentum", "weight_decay", "dropout", "batch_size", "ema_epochs", "clip")
        settings = Settings(
            **{name: r[name] for name in (*alike, "train_rows", "in_features", "classes")},
            hidden_sizes=tuple(r["hidden_sizes"]),
            max_epochs=r["epochs"],
            lr_schedule=schedules[r["schedule"]],
            members=1,
        )
        alike = ("fair_train_loss", "val_rows", "val_error", "rise_error")
        known = {name: r[name] for name in alike}
        return Evidence(reference_loss=r["reference_val"], keeps_best=True, settings=settings, **known)

    @property
    def room(self) -> float:
        r = self.record
        reached = [r["test_end"], r["test_best"], r["reference_test"]]
        reached += [v for each in r["changes"].values() for k, v in each.items() if k.startswith("test")]
        trivial = float(r["baseline_test"])
        return max(trivial - min(v for v in reached if v is not None), LEAST * trivial)

    def loss(self, weights: Weights) -> float | None:
        """Return the test loss of the run itself."""
        found: float | None = self.record[f"test_{weights}"]
        return found

    def gains(self, weights: Weights) -> dict[str, float]:
        """Return what each change gains, as a share of the room; a change that diverged loses all of it and more."""
        before = self.loss(weights)
        if before is None:
            return {}
        gains = {}
        for name, change in self.record["changes"].items():
            after = change.get(f"test_{weights}", change.get("test_best"))
            if f"test_{weights}" in change or name == "ensemble":
                gains[name] = -2.0 if after is None else max(-2.0, (before - after) / self.room)
        if weights == "end" and self.record["test_best"] is not None:
            gains["best_epoch"] = (before - self.record["test_best"]) / self.room
        return gains

    def label(self, weights: Weights) -> str:
        """Return what the run is, by the gains."""
        r = self.record
        lost = None in r["train_loss"] or None in r["val_loss"] or r["test_end"] is None
        trivial = r["baseline_test"]
        if lost or (r["test_end"] > 1.5 * trivial and r["train_loss"][-1] > max(1.5 * trivial, r["train_loss"][0])):
            return "diverged"
        gains = self.gains(weights)
        up = max(gains.get(name, -9.0) for name in STRENGTHENING)
        down = max(gains.get(name, -9.0) for name in (*RESTRAINING, "best_epoch"))
        if max(up, down) > CLEAR:
            return "underfit" if up > down else "overfit"
        return "good" if max(up, down) <= NOTHING else "unclear"


def read(path: Path) -> Iterator[Run]:
    """Read the runs of a file."""
    with gzip.open(path, "rt") as lines:
        for line in lines:
            yield Run(json.loads(line))
