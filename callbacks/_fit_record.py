"""The curves of a run, by epoch: what came late, twice or not at all still stands in its own epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Values = list[float | None]
CURVES = ("train_loss", "val_loss", "metric", "fair_loss")


@dataclass
class FitRecord:
    """Values by curve and epoch. An epoch that is recorded again is written over, so nothing counts twice.

    Attributes:
        curves: One list per curve, epoch 0 first; None where nothing came, NaN where a NaN was logged.
        names: Under which name each of them is logged.
        loss_at_start: Validation loss before training, from the sanity check; None without one.
    """

    curves: dict[str, Values] = field(default_factory=lambda: {name: [] for name in CURVES})
    names: dict[str, str] = field(default_factory=dict)
    loss_at_start: float | None = None

    def put(self, curve: str, epoch: int, value: float) -> None:
        """Record a value in its epoch."""
        values = self.curves[curve]
        values.extend([None] * (epoch + 1 - len(values)))
        values[epoch] = value

    def at(self, curve: str, epoch: int) -> float | None:
        """The value of an epoch, None if none came."""
        values = self.curves[curve]
        return values[epoch] if 0 <= epoch < len(values) else None

    def has(self, curve: str) -> bool:
        """Whether a curve holds any value."""
        return any(value is not None for value in self.curves[curve])

    def paired(self) -> tuple[Values, Values, Values | None]:
        """Training loss, validation loss and metric, equally long.

        Training loss is the one evaluated on a fixed slice, where there is one; it is empty if none came. The metric
        is None if none came.
        """
        train = self.curves["fair_loss" if self.has("fair_loss") else "train_loss"]
        val, metric = self.curves["val_loss"], self.curves["metric"]
        epochs = max(len(train), len(val))
        return (
            _filled(train, epochs) if train else [],
            _filled(val, epochs),
            _filled(metric, epochs) if self.has("metric") else None,
        )

    def state(self) -> dict[str, Any]:
        """Everything, as plain lists and floats."""
        curves = {name: list(values) for name, values in self.curves.items()}
        return {"curves": curves, "names": dict(self.names), "loss_at_start": self.loss_at_start}

    @classmethod
    def of(cls, state: dict[str, Any]) -> FitRecord:
        """The record of a state; curves it does not know are empty."""
        curves = {name: list(state["curves"].get(name, [])) for name in CURVES}
        return cls(curves, dict(state["names"]), state["loss_at_start"])


def _filled(values: Values, epochs: int) -> Values:
    return [*values, *[None] * (epochs - len(values))]
