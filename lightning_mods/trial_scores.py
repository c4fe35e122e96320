"""The metrics of many trials by torchmetrics, which know one at a time."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


def scores_one_by_one(
    metrics: Mapping[str, Metric], predictions: Sequence[Tensor], targets: Sequence[Tensor], names: Sequence[str]
) -> dict[str, Tensor]:
    """Some of the metrics for many trials.

    Args:
        metrics: A set of their own by name; one that computes a dict gives several, by the names in it.
        predictions: Of each batch, `[T, B, ...]`.
        targets: Of each batch, `[B]`.
        names: Which ones.

    Returns:
        Name to `[T]`.
    """
    rows = []
    for trial in range(len(predictions[0])):
        row: dict[str, Tensor] = {}
        for name, metric in metrics.items():
            metric.reset()
            for prediction, y in zip(predictions, targets, strict=True):
                metric.update(prediction[trial], y)
            found = metric.compute()
            row |= found if isinstance(found, dict) else {name: found}
        rows.append(row)
    return {name: torch.stack([row[name] for row in rows]) for name in names}
