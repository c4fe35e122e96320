"""Turns samples of rows and labels into plain numbers: balance, order, contrast of training and validation."""

from collections import Counter
from itertools import pairwise

import torch
from torch import Tensor

from callbacks._data_facts import Contrast, Labels, Numbers


def read_labels(batches: list[Tensor], *, weighted: bool, ignored: int = -100) -> Labels:
    """Balance and order of the classes of an epoch, from its batches' labels."""
    split = [batch.cpu().long() for batch in batches]
    if set(torch.unique(torch.cat(split)).tolist()) != {-1, 1}:  # else below 0 is torch's and scikit-learn's "no label"
        split = [batch[(batch >= 0) & (batch != ignored)] for batch in split]
    split = [batch for batch in split if len(batch) > 1]
    if not split:
        return Labels({})
    counts = Counter(torch.cat(split).tolist())
    impure = [(_impurity(torch.bincount(batch - batch.min())), len(batch)) for batch in split]
    whole = _impurity(torch.tensor(list(counts.values())))
    rows = sum(size for _, size in impure)
    within = sum(value * size for value, size in impure) / rows / whole if whole else 1.0
    commonest = [int(batch.mode().values) for batch in split]
    runs = 1 + sum(one != other for one, other in pairwise(commonest))
    return Labels(dict(sorted(counts.items())), within, runs, len(split), weighted)


def _impurity(counts: Tensor) -> float:
    """Chance that two different rows differ in class."""
    rows = int(counts.sum())
    return 1 - float((counts * (counts - 1)).sum()) / (rows * (rows - 1)) if rows > 1 else 0.0


def read_numbers(batches: list[Tensor], validation: list[Tensor]) -> Numbers | None:
    """Spread and order of a regression's targets in an epoch; None if a target is not finite."""
    split = [batch.cpu().double() for batch in batches if len(batch) > 1]
    every = torch.cat(split)
    if not bool(every.isfinite().all()):
        return None
    whole = float(every.var())
    within = sum(float(batch.var()) * len(batch) for batch in split) / len(every) / whole if whole else 1.0
    means = torch.stack([batch.mean() for batch in split])
    apart, narrower = 0.0, 1.0
    if sum(len(batch) for batch in validation) >= 50:
        other = torch.cat(validation).cpu().double()
        apart, narrower = _apart(every, other), _quartiles(every) / max(_quartiles(other), 1e-12)
    return Numbers(len(every), within, _trend(means), len(split), apart, narrower)


def _trend(values: Tensor) -> float:
    if len(values) < 3:
        return 0.0
    ranks = values.argsort().argsort().double()
    return float(torch.corrcoef(torch.stack([ranks, torch.arange(len(values), dtype=torch.double)]))[0, 1])


def _quartiles(values: Tensor) -> float:
    low, high = torch.quantile(values[:100_000], torch.tensor([0.25, 0.75], dtype=values.dtype)).tolist()
    return float(high - low)


def _apart(one: Tensor, other: Tensor) -> float:
    """Kolmogorov's and Smirnov's distance of two samples."""
    both = torch.cat([one, other])
    below = [torch.searchsorted(part.sort().values, both, right=True) / len(part) for part in (one, other)]
    return float((below[0] - below[1]).abs().max())


def read_contrast(train: Tensor, val: Tensor, labels: tuple[Tensor, Tensor] | None) -> Contrast | None:
    """How training rows (N, …) differ from validation rows (M, …); None if a number is not finite."""
    if train.shape[1:] != val.shape[1:] or min(len(train), len(val)) < 8:
        return None
    if not bool(train.isfinite().all() and val.isfinite().all()):
        return None
    effects = {}
    for name, of_train, of_val in zip(STATISTICS, _statistics(train), _statistics(val), strict=False):
        pooled = float(((of_train.var() + of_val.var()) / 2).sqrt())
        difference = float(of_train.mean() - of_val.mean())
        effects[name] = difference / pooled if pooled > 1e-6 * abs(float(of_val.mean())) + 1e-12 else 0.0
    likeness, reliable = _pictures(train, val) if train.ndim > 3 else (None, 0.0)
    shift = _label_shift(*labels) if labels else 0.0
    return Contrast(min(len(train), len(val)), effects, likeness, reliable, shift)


STATISTICS = ("mean", "deviation", "skewness", "roughness")


def _statistics(rows: Tensor) -> list[Tensor]:
    """One number a row: mean, deviation, skewness, and of rows with an order the change from place to place."""
    flat = rows.reshape(len(rows), -1)
    if flat.shape[1] < 4:
        return [flat.mean(1)]
    mean, deviation = flat.mean(1), flat.std(1)
    safe = deviation.clamp_min(1e-12)
    skewness = (((flat - mean[:, None]) / safe[:, None]) ** 3).mean(1)
    rough = rows.diff(dim=-1).abs().reshape(len(rows), -1).mean(1) / safe
    return [mean, deviation, skewness, *([rough] if rows.ndim > 2 else [])]


def _pictures(train: Tensor, val: Tensor) -> tuple[float, float]:
    means = [part.mean(0).reshape(-1) for part in (train, val, train[::2], train[1::2], val[::2], val[1::2])]
    like, of_train, of_val = (
        float(torch.corrcoef(torch.stack(means[i : i + 2])).nan_to_num()[0, 1]) for i in (0, 2, 4)
    )
    return like, min(of_train, of_val)


def _label_shift(train: Tensor, val: Tensor) -> float:
    if train.is_floating_point() or val.is_floating_point():
        return 0.0
    most = int(max(train.max(), val.max())) + 1
    shares = [torch.bincount(part.long().clamp_min(0), minlength=most) / len(part) for part in (train, val)]
    return float((shares[0] - shares[1]).abs().sum() / 2)
