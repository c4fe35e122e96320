"""How far a regression's predictions are from the true numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mods.runs.predictions import write_csv

_QUANTILES = {"min": 0, "p05": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95, "max": 100}  # in percent


@dataclass(frozen=True)
class Residuals:
    """Predictions and true numbers, shape (rows,), in the target's units; a residual is prediction minus truth."""

    predicted: NDArray[np.float64]
    true: NDArray[np.float64]

    @classmethod
    def of(cls, predicted: NDArray[Any], true: NDArray[Any]) -> "Residuals":
        """Take at least one row."""
        return cls(predicted.astype(np.float64), true.astype(np.float64))

    @property
    def values(self) -> NDArray[np.float64]:
        """Return the residuals, shape (rows,)."""
        return self.predicted - self.true

    @property
    def summary(self) -> dict[str, float]:
        """Return the number of rows, mean and standard deviation of the residuals, and some of their quantiles."""
        values = self.values
        cuts = np.percentile(values, [*_QUANTILES.values()]).tolist()
        return {
            "rows": len(values),
            "mean": float(values.mean()),
            "std": float(values.std()),
            **dict(zip(_QUANTILES, cuts, strict=True)),
        }

    def write(self, folder: Path, stage: str) -> None:
        """Write `residuals_STAGE.csv`: one row, a column for each number of the summary."""
        found = self.summary
        write_csv(folder / f"residuals_{stage}.csv", [*found], [[f"{value:.9g}" for value in found.values()]])

    def lines(self) -> list[str]:
        """Return what a terminal shows."""
        s = {name: f"{value:.4g}" for name, value in self.summary.items()}
        middle = f"half of them from {s['p25']} to {s['p75']}, 90 % from {s['p05']} to {s['p95']}"
        return [f"prediction minus truth: mean {s['mean']}, standard deviation {s['std']}; {middle}"]
