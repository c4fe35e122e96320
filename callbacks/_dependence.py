"""Measures whether labels have to do with inputs: do near rows have the same label, more often than by chance?"""

from collections.abc import Callable

import torch
from torch import Tensor

from callbacks._data_facts import Dependence, Neighbours

NEIGHBOURS = 5
SHUFFLES = 30
FEW, ENOUGH = 50, 256  # rows of a quick look
MOST_ROWS = 512
MOST_COLUMNS = 4096  # of long rows, evenly spaced


def read_neighbours(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]) -> Neighbours | None:
    """Compare the labels of near rows in equally many training and validation rows, in about a millisecond.

    Args:
        train: Rows (N, …) and their classes (integers) or targets (floats).
        val: The same of validation.
    """
    size = min(len(val[0]), len(train[0]), ENOUGH)  # neighbours are nearer in a larger sample
    if size < FEW or val[0].shape[1:] != train[0].shape[1:]:
        return None
    found = []
    for rows, labels in (train, val):
        near, distance = _nearest(_prepared(rows, size))
        found.append((_agreement(_values(labels[:size]), near), distance))
    (agreed, near_train), (agreed_val, near_val) = found
    density = near_train / near_val if near_val else 1.0
    return Neighbours(size, agreed, agreed_val, _chance(val[1][:size]), density)


def read_dependence(rows: Tensor, labels: Tensor, *, best_val_loss: float, epochs: int) -> Dependence:
    """Compare rows (N, …) and labels (N) by permutation tests; their random numbers are their own."""
    flat = _prepared(rows, MOST_ROWS)
    labels = labels[: len(flat)]
    near, _ = _nearest(flat)
    score = _beyond_chance(lambda of: _agreement(of, near), _values(labels))
    return Dependence(len(flat), score, _best_column(flat, labels), best_val_loss, epochs)


def _prepared(rows: Tensor, most: int) -> Tensor:
    flat = rows[:most].reshape(min(len(rows), most), -1).float()
    flat = flat[:, :: -(-flat.shape[1] // MOST_COLUMNS)]
    return (flat - flat.mean(0)) / flat.std(0).clamp_min(1e-8)


def _nearest(rows: Tensor) -> tuple[Tensor, float]:
    """Positions of the nearest rows, and the mean distance to the very nearest."""
    distance = torch.cdist(rows, rows)
    distance.fill_diagonal_(float("inf"))
    near = distance.topk(min(NEIGHBOURS, len(rows) - 1), largest=False)
    return near.indices, float(near.values[:, 0].mean())


def _values(labels: Tensor) -> Tensor:
    return labels if not labels.is_floating_point() else labels.argsort().argsort().float() / len(labels)


def _agreement(values: Tensor, near: Tensor) -> float:
    found = values[near]
    same = found == values[:, None] if not values.is_floating_point() else 1 - (found - values[:, None]).abs()
    return float(same.float().mean())


def _chance(labels: Tensor) -> float:
    if labels.is_floating_point():
        return 2 / 3  # two ranks lie a third apart on average
    shares = torch.unique(labels, return_counts=True)[1] / len(labels)
    return float(shares.square().sum())


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

    return _beyond_chance(best, values)


def _beyond_chance(measure: Callable[[Tensor], float], values: Tensor) -> float:
    """Standard deviations by which a measure exceeds its mean over shuffled values."""
    generator = torch.Generator().manual_seed(0)
    seen = torch.tensor([measure(values[torch.randperm(len(values), generator=generator)]) for _ in range(SHUFFLES)])
    return (measure(values) - float(seen.mean())) / max(float(seen.std()), 1e-6)
