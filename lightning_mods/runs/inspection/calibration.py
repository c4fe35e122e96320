"""The temperature by which a classifier's outputs are divided, so that it is as sure as it is often right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_mods.runs.inspection.classes import ClassTable, Counts

_LARGEST = 20.0  # temperature, and one over the smallest: beyond, a model knows nothing or is never wrong
_EXACT = 1e-4  # of its logarithm
_SPREAD = 0.5  # standard deviation of the prior of the logarithm, around 0: most temperatures are from 0.4 to 2.7


@dataclass(frozen=True)
class Calibration:
    """The temperature for some rows, and what it does there: log loss in nats, and expected calibration error.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599.
    """

    temperature: float  # 1 where none lowers the loss
    losses: tuple[float, float]  # before and after
    errors: tuple[float, float]  # likewise
    rows: int

    @classmethod
    def of(
        cls,
        logits: Sequence[NDArray[np.float64]],
        y: Counts,
        *,
        shares: Sequence[float],
        weights: NDArray[np.float64],
        names: Sequence[str],
    ) -> "Calibration":
        """Find the temperature by the log loss, with a prior: few rows, or such as are all right, say little of it.

        `logits` are those of each member of an ensemble, shape (rows, classes), and `shares` their parts in the mean
        of the probabilities; one temperature is for all. A row counts by its `weights`, shape (rows,).
        """
        from scipy.optimize import minimize_scalar

        def probabilities(temperature: float) -> NDArray[np.float64]:
            parts = (s * _softmax(each / temperature) for s, each in zip(shares, logits, strict=True))
            total = np.zeros_like(logits[0])
            for part in parts:
                total += part
            return total

        def loss(temperature: float) -> float:
            own = probabilities(temperature)[np.arange(len(y)), y]
            return float(np.average(-np.log(np.maximum(own, np.finfo(float).tiny)), weights=weights))

        most = float(np.log(_LARGEST))
        found = minimize_scalar(
            lambda log: loss(float(np.exp(log))) + log**2 / (2 * _SPREAD**2 * len(y)),
            bounds=(-most, most),
            method="bounded",
            options={"xatol": _EXACT},
        )
        best = float(np.exp(found.x))
        temperature = best if loss(best) < loss(1.0) else 1.0
        both = (1.0, temperature)
        errors = [ClassTable.of(probabilities(t), y, names).reliability.error for t in both]
        return cls(temperature, (loss(1.0), loss(temperature)), (errors[0], errors[1]), len(y))

    def __str__(self) -> str:
        """Return a line for the user."""
        rows = f"{self.rows:,} validation rows"
        if self.temperature == 1.0:
            return f"calibrate: no temperature lowers the log loss of the {rows} ({self.losses[0]:.4g}); it stays 1."
        before, after = self.losses
        loss, error = f"log loss {before:.4g} to {after:.4g}", f"{self.errors[0]:.3f} to {self.errors[1]:.3f}"
        return f"calibrate: temperature {self.temperature:.3g} takes {loss}, calibration error {error} on {rows}."


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares
