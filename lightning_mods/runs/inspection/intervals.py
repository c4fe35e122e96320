"""Intervals around a regression's predictions that hold the truth as often as is asked for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mods.runs import RunError

_KEPT = 2000  # residuals in a checkpoint; of more rows those at even ranks


@dataclass(frozen=True)
class Intervals:
    """Split conformal intervals: a prediction, less and more a quantile of the absolute errors on rows held out.

    Of n such rows, the ⌈(n + 1) · level⌉-th smallest error makes an interval that holds at least the share `level` of
    rows like them. Source: Lei et al. 2018, Distribution-Free Predictive Inference for Regression, arXiv:1604.04173.
    """

    errors: Sequence[float]  # absolute, sorted, in the target's units
    rows: int  # that they are of; more than there are errors where only some are kept

    @classmethod
    def of(cls, residuals: NDArray[np.float64]) -> "Intervals":
        """Keep the absolute errors of at least one row."""
        errors = np.sort(np.abs(residuals))
        places = np.unique(np.round(np.linspace(0, len(errors) - 1, min(_KEPT, len(errors)))).astype(int))
        return cls(errors[places].tolist(), len(errors))

    @classmethod
    def in_plain(cls, plain: Mapping[str, Any] | None) -> "Intervals | None":
        """Return what `plain` wrote; None for nothing."""
        return cls(tuple(plain["errors"]), int(plain["rows"])) if plain else None

    @property
    def plain(self) -> dict[str, Any]:
        """Return the state as numbers and lists."""
        return {"errors": list(self.errors), "rows": self.rows}

    @property
    def most(self) -> float:
        """Return the largest level that so few rows can have."""
        return self.rows / (self.rows + 1)

    def margin(self, level: float) -> float:
        """Return how far from a prediction the interval's ends are; a RunError says that the rows are too few."""
        rank = math.ceil((self.rows + 1) * level - 1e-9)
        if rank > self.rows:
            needed = math.ceil(level / (1 - level))
            raise RunError(
                f"--interval={level:g} needs {needed} validation rows, the checkpoint's fit had {self.rows}; "
                f"--interval={math.floor(self.most * 100) / 100:g} can be had."
            )
        # the first kept one of that rank or above
        place = math.ceil((rank - 1) / max(self.rows - 1, 1) * (len(self.errors) - 1) - 1e-9)
        return float(self.errors[place])

    def coverage(self, residuals: NDArray[np.float64], level: float) -> float:
        """Return the share of other rows whose truth is in the interval."""
        return float((np.abs(residuals) <= self.margin(level)).mean())


def checked_level(asked: object) -> float:
    """Return the share that was asked for as a number; a RunError says that it is none between 0 and 1."""
    try:
        level = float(str(asked))
    except ValueError:
        level = math.nan
    if not 0 < level < 1:
        raise RunError(f"--interval needs a share of the rows above 0 and below 1, such as 0.9, not {asked}.")
    return level


def margin_of(model: object, level: float) -> float:
    """Return the margin of the model of a checkpoint; a RunError says why there is none."""
    uncertainty = getattr(model, "uncertainty", {})
    if getattr(model, "num_classes", None) or hasattr(model, "class_counts"):
        raise RunError("--interval is for a regression; a classifier's predictions come with their probabilities.")
    found = Intervals.in_plain(uncertainty.get("intervals"))
    if found is None:
        raise RunError("--interval needs a checkpoint of `fit` with validation rows, best.ckpt; this one has none.")
    return found.margin(level)
