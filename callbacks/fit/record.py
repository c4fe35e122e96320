"""The curves of a run by epoch, and a diagnosis of them as a line, a paragraph and a JSON document."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from callbacks.diagnosis.evidence import Evidence
from callbacks.diagnosis.report import FitPart, report
from callbacks.diagnosis.verdict import Diagnosis, Fit
from callbacks.host.files import replacing

Values = list[float | None]
CURVES = ("train_loss", "val_loss", "metric", "fair_loss")  # fair: of training rows, in eval mode


@dataclass
class FitRecord:
    """Values by curve and epoch. An epoch that is recorded again is written over, so nothing counts twice."""

    # One list per curve, epoch 0 first; None where nothing came, NaN where a NaN was logged.
    curves: dict[str, Values] = field(default_factory=lambda: {name: [] for name in CURVES})
    names: dict[str, str] = field(default_factory=dict)  # under which each of them is logged
    loss_at_start: float | None = None  # validation loss before training, from the sanity check; None without one

    def put(self, curve: str, epoch: int, value: float) -> None:
        """Record a value in its epoch."""
        values = self.curves[curve]
        values.extend([None] * (epoch + 1 - len(values)))
        values[epoch] = value

    def at(self, curve: str, epoch: int) -> float | None:
        """Return the value of an epoch, None if none came."""
        values = self.curves[curve]
        return values[epoch] if 0 <= epoch < len(values) else None

    def has(self, curve: str) -> bool:
        """Tell whether a curve holds any value."""
        return any(value is not None for value in self.curves[curve])

    def paired(self) -> tuple[Values, Values, Values | None]:
        """Return training loss, validation loss and metric, equally long.

        Training loss is the one evaluated on a fixed slice, where there is one; it is empty if none came. The metric
        is None if none came.
        """
        train = self.curves["fair_loss" if self.has("fair_loss") else "train_loss"]
        val, metric = self.curves["val_loss"], self.curves["metric"] if self.has("metric") else None
        epochs = max(len(train), len(val))
        filled = _filled(val, epochs), None if metric is None else _filled(metric, epochs)
        return _filled(train, epochs) if train else [], *filled

    def state(self) -> dict[str, Any]:
        """Return everything as plain lists and floats."""
        curves = {name: list(values) for name, values in self.curves.items()}
        return {"curves": curves, "names": dict(self.names), "loss_at_start": self.loss_at_start}

    @classmethod
    def of(cls, state: dict[str, Any]) -> FitRecord:
        """Make the record of a state; curves that the state lacks are empty."""
        curves = {name: [*map(_number, state["curves"].get(name, []))] for name in CURVES}
        return cls(curves, {str(a): str(b) for a, b in state["names"].items()}, _number(state["loss_at_start"]))


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _filled(values: Values, epochs: int) -> Values:
    return [*values, *[None] * (epochs - len(values))]


def headline(diagnosis: Diagnosis) -> str:
    """Return verdict, cause and probability: `overfit (memorising), 93 % sure`."""
    cause = diagnosis.cause.replace("_", " ")
    sure = "" if diagnosis.fit is Fit.UNKNOWN else f", {100 * diagnosis.probabilities[diagnosis.fit]:.0f} % sure"
    return f"{diagnosis.fit} ({cause}){sure}"


def paragraph(diagnosis: Diagnosis, keep: str | None = None) -> str:
    """Return the closing words of a run: verdict, reason, numbered advice and, if given, which checkpoint to keep."""
    return report([FitPart(diagnosis, headline(diagnosis), keep)])


def write_document(
    path: Path, diagnosis: Diagnosis, record: FitRecord, baseline: float | None, evidence: Evidence
) -> None:
    """Write the diagnosis, its curves and evidence as JSON, whole or not at all; what is no finite number is null."""
    known = asdict(evidence)
    said = asdict(diagnosis) | {
        "baseline_loss": _finite(baseline),
        "reference_loss": _finite(evidence.reference_loss),
        "loss_at_start": _finite(record.loss_at_start),
        "logged_as": record.names,
        "curves": {name: [_finite(value) for value in values] for name, values in record.curves.items()},
        "evidence": {name: _finite(value) if isinstance(value, float) else value for name, value in known.items()},
    }
    text = json.dumps(said, indent=1, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(f"{text}\n", encoding="utf-8")


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
