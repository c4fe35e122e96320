"""Measures whether labels have to do with inputs: do near rows have the same label, more often than by chance?"""

from collections.abc import Callable

import torch
from torch import Tensor

from callbacks._data_facts import Dependence

NEIGHBOURS = 5
SHUFFLES = 30
MOST_ROWS = 512
MOST_COLUMNS = 4096  # of long rows, evenly spaced


def read_dependence(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor] | None) -> Dependence | None:
    """Compare rows (N, …) and labels (N) by a permutation test; its random numbers are its own.

    Args:
        train: Training rows and their classes (integers) or targets (floats).
        val: The same of validation, or None.
    """
    if len(train[0]) < 50:
        return None
    rows, labels = _prepared(*train)
    score, _, _, _ = _neighbours(rows, labels)
    columns = _best_column(rows, labels)
    if val is None or len(val[0]) < 50 or val[0].shape[1:] != train[0].shape[1:]:
        return Dependence(len(rows), score, 0.0, columns)
    size = min(len(val[0]), len(train[0]), MOST_ROWS)  # neighbours are nearer in a larger sample
    _, agreed, _, near = _neighbours(*_prepared(train[0][:size], train[1][:size]))
    val_score, val_agreed, val_chance, val_near = _neighbours(*_prepared(val[0][:size], val[1][:size]))
    density = near / val_near if val_near else 1.0
    return Dependence(len(rows), score, val_score, columns, (agreed, val_agreed, val_chance), density)


def _prepared(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    flat = rows[:MOST_ROWS].reshape(min(len(rows), MOST_ROWS), -1).float()
    flat = flat[:, :: -(-flat.shape[1] // MOST_COLUMNS)]
    scaled = (flat - flat.mean(0)) / flat.std(0).clamp_min(1e-8)
    return scaled, labels[: len(flat)]


def _neighbours(rows: Tensor, labels: Tensor) -> tuple[float, float, float, float]:
    """Standard deviations above chance, agreement, chance, and mean distance to the nearest row."""
    distance = torch.cdist(rows, rows)
    distance.fill_diagonal_(float("inf"))
    near = distance.topk(min(NEIGHBOURS, len(rows) - 1), largest=False)
    values = labels if not labels.is_floating_point() else labels.argsort().argsort().float() / len(labels)

    def agreement(of: Tensor) -> float:
        found = of[near.indices]
        same = (found == of[:, None]).float() if not of.is_floating_point() else 1 - (found - of[:, None]).abs()
        return float(same.mean())

    mean, deviation = _by_chance(agreement, values)
    seen = agreement(values)
    return (seen - mean) / deviation, seen, mean, float(near.values[:, 0].mean())


def _best_column(rows: Tensor, labels: Tensor) -> float:
    """Standard deviations above chance of the column that tells most of the label (correlation ratio)."""
    if labels.is_floating_point():
        ranks = labels.argsort().argsort().float()
        values = torch.stack([ranks - ranks.mean()], 1)
    else:
        values = torch.nn.functional.one_hot(torch.unique(labels, return_inverse=True)[1]).float()
        values = values - values.mean(0)
    values = values / values.norm(dim=0).clamp_min(1e-8)

    def best(of: Tensor) -> float:
        return float((rows.T @ of).square().sum(1).max())

    mean, deviation = _by_chance(best, values)
    return (best(values) - mean) / deviation


def _by_chance(measure: Callable[[Tensor], float], values: Tensor) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    seen = torch.tensor([measure(values[torch.randperm(len(values), generator=generator)]) for _ in range(SHUFFLES)])
    return float(seen.mean()), max(float(seen.std()), 1e-6)
