"""What the trivial prediction scores: the most frequent class, or the mean. A model has to beat it."""

import numpy as np
from numpy.typing import NDArray


def majority_metrics(codes: NDArray[np.int64], majority: int) -> dict[str, float]:
    """Score "always the class `majority`".

    Args:
        codes: Class numbers, shape (rows,); no missing ones.
        majority: The class most training rows have.

    Returns:
        `accuracy`; `f1`, macro over the classes that occur in `codes` or are predicted; `auroc`, 0.5 by definition.
        All NaN without rows (AUROC also with one class only).
    """
    if len(codes) == 0:
        return {"accuracy": float("nan"), "f1": float("nan"), "auroc": float("nan")}
    share = float(np.mean(codes == majority))
    present = set(np.unique(codes).tolist())
    f1 = 2 * share / (1 + share) / len(present | {majority})
    return {"accuracy": share, "f1": f1, "auroc": 0.5 if len(present) > 1 else float("nan")}


def mean_metrics(values: NDArray[np.float64], mean: float) -> dict[str, float]:
    """Score "always `mean`".

    Args:
        values: Targets in their own units, shape (rows,); no NaN.
        mean: Of the training rows.

    Returns:
        `rmse` and `mae` in the target's units and `r2` (at most 0). NaN without rows; `r2` is NaN too where all
        targets are one.
    """
    if len(values) == 0:
        return {"rmse": float("nan"), "mae": float("nan"), "r2": float("nan")}
    error = values - mean
    spread = float(np.square(values - values.mean()).sum())
    r2 = 1 - float(np.square(error).sum()) / spread if spread > 0 else float("nan")
    return {"rmse": float(np.sqrt(np.mean(np.square(error)))), "mae": float(np.mean(np.abs(error))), "r2": r2}
