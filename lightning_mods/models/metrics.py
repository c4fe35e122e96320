"""The metrics of many trials by torchmetrics, which know one at a time; and how far the rows let them be trusted."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class ClassScores(Metric):
    """`accuracy`, `f1` (mean over classes) and `auroc` (one against the rest, mean over the classes that occur).

    One metric for three: each of torchmetrics' costs as much as a training step of a small network to update, to
    compute and to reset. Its AUROC also counts a class without rows as 0, and a small validation set often lacks one.
    Updated with probabilities `[B, C]` and class numbers `[B]`.
    """

    full_state_update = False
    predictions: list[Tensor]
    classes: list[Tensor]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("predictions", default=[], dist_reduce_fx="cat")
        self.add_state("classes", default=[], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, classes: Tensor) -> None:
        """Keep the rows of a batch."""
        self.predictions.append(predictions)
        self.classes.append(classes)

    def compute(self) -> dict[str, Tensor]:
        """The three, each a scalar."""
        probabilities, classes = dim_zero_cat(self.predictions), dim_zero_cat(self.classes)
        found = probabilities.argmax(dim=1)
        return {
            "accuracy": (found == classes).float().mean(),
            "f1": class_mean_f1(found, classes, self.num_classes),
            "auroc": class_mean_auroc(probabilities, classes),
        }


class R2(Metric):
    """Share of the target's variance that is explained, `1 - residual / total`; NaN for fewer than two different ones.

    Taken in float64 around the mean. torchmetrics' score sums squares in float32, which leaves nothing of a spread of 1
    around a million, calls targets within a thousandth of each other constant, and raises an error for a single row.
    Updated with predictions and targets `[B]`.
    """

    full_state_update = False
    predictions: list[Tensor]
    targets: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("predictions", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Keep the rows of a batch."""
        self.predictions.append(predictions)
        self.targets.append(targets)

    def compute(self) -> Tensor:
        """Return the share, a scalar of at most 1."""
        found = dim_zero_cat(self.predictions)
        y = dim_zero_cat(self.targets).cpu().double().numpy()
        if len(y) == 0 or y.min() == y.max():
            return torch.tensor(math.nan, device=found.device)
        residual = np.square(found.cpu().double().numpy() - y).sum() / np.square(y - y.mean()).sum()
        return torch.tensor(1 - float(residual), device=found.device)


class ProbabilityLoss(Metric):
    """Mean cross-entropy in nats, updated with probabilities `[B, C]` and class numbers `[B]`.

    `weights` are those of the classes, shape (C,); None for all alike. A probability of 0 counts as the smallest
    number of its type; NaN stays NaN.
    """

    full_state_update = False
    total: Tensor
    mass: Tensor

    def __init__(self, weights: Tensor | None = None) -> None:
        super().__init__()
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)
        self.add_state("total", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("mass", default=torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, classes: Tensor) -> None:
        """Add the rows of a batch."""
        found = predictions.gather(1, classes[:, None]).squeeze(1)
        logs = found.clamp(min=torch.finfo(found.dtype).tiny).log()
        weights = torch.ones_like(logs) if self.weights is None else self.weights[classes]
        self.total -= (logs * weights).sum()
        self.mass += weights.sum()

    def compute(self) -> Tensor:
        """Return the mean, a scalar."""
        return self.total / self.mass


def class_mean_f1(found: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Return F1 of each class, averaged over the classes that occur or were found, to the bit as torchmetrics has it.

    Its `multiclass_f1_score` takes three times as long, a small network's training step. The predicted classes `found`
    and the true ones are numbers `[N]`.
    """
    pairs = (classes * num_classes + found).cpu().numpy()
    table = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    mass = (table.sum(0) + table.sum(1)).astype(np.float32)
    twice = 2 * table.diagonal().astype(np.float32)
    shares = np.divide(twice, mass, out=np.zeros_like(twice), where=mass > 0) / np.float32(np.count_nonzero(mass))
    return torch.from_numpy(shares).sum().to(found.device)  # another sum would round differently


def class_mean_auroc(probabilities: Tensor, classes: Tensor) -> Tensor:
    """Return the area under the ROC curve of each class against the rest, averaged over the classes that occur.

    Exact, not binned. The area is the share of pairs of a row of the class and another row that are in the right
    order, ties counting half (Mann and Whitney 1947, https://doi.org/10.1214/aoms/1177730491), from ranks. NaN where
    all rows `[N]` are of one class, as there is nothing to rank, or where one of the probabilities `[N, C]` is NaN.
    """
    if probabilities.isnan().any():
        return probabilities.new_tensor(float("nan"))
    rows = len(classes)
    counts = torch.bincount(classes, minlength=probabilities.shape[1]).tolist()
    rank_sums = _rank_sums(probabilities, classes, counts)
    areas = [
        (ranks / 2 - n * (n + 1) / 2) / (n * (rows - n))
        for ranks, n in zip(rank_sums, counts, strict=True)
        if 0 < n < rows
    ]
    return torch.tensor(sum(areas) / len(areas) if areas else float("nan"), device=probabilities.device)


def _rank_sums(probabilities: Tensor, classes: Tensor, counts: list[int]) -> list[int]:
    """For each class, twice the sum of its rows' ranks among all by its probability, from 1.

    Rows that are equal share the mean of their ranks. One class at a time: all at once take its memory tenfold.
    """
    if probabilities.device.type != "cpu" or probabilities.dtype not in (torch.float32, torch.float64):
        return _rank_sums_on_device(probabilities, classes, counts)
    # NumPy's calls cost a fraction of torch's, and some hundred rows no more than the calls.
    columns, order = probabilities.numpy().T, np.argsort(classes.numpy(), kind="stable")
    sums = []
    for own, column in zip(np.split(order, np.cumsum(counts[:-1])), columns, strict=True):
        ordered, mine = np.sort(column), column[own]
        sums.append(int((ordered.searchsorted(mine) + ordered.searchsorted(mine, "right") + 1).sum()))
    return sums


def _rank_sums_on_device(probabilities: Tensor, classes: Tensor, counts: list[int]) -> list[int]:
    sums = []
    for own, values in zip(torch.split(classes.argsort(), counts), probabilities.t(), strict=True):
        column, mine = values.sort().values, values[own]
        ranks = torch.searchsorted(column, mine) + torch.searchsorted(column, mine, right=True) + 1
        sums.append(int(ranks.sum()))
    return sums


# ------------------------------------------------------------------ standard errors

Numbers = np.ndarray[Any, np.dtype[np.float64]]


def class_errors(probabilities: Tensor, classes: Tensor, num_classes: int) -> dict[str, float]:
    """Return the standard errors of `accuracy`, `f1` and `auroc`, as `ClassScores` has them, over the rows.

    Of f1 and auroc by what each row changes (Efron and Tibshirani 1993, An Introduction to the Bootstrap, 21), which
    for the auroc of two classes is what DeLong et al. 1988 have, https://doi.org/10.2307/2531595. NaN where there is
    no score.
    """
    p, y = probabilities.cpu().double().numpy(), classes.cpu().numpy()
    found, rows = p.argmax(axis=1), len(y)
    right = found == y
    # Where all are right, or none, two more of each say how sure that is (Agresti and Coull 1998).
    share, of = (right.mean(), rows) if 0 < right.sum() < rows else ((right.sum() + 2) / (rows + 4), rows + 4)
    scores = {"f1": _f1_influence(found, y, num_classes), "auroc": _auroc_influence(p, y)}
    return {
        "accuracy": math.sqrt(share * (1 - share) / of),
        **{name: standard_error(influence) for name, influence in scores.items()},
    }


def regression_errors(predictions: Tensor, targets: Tensor) -> dict[str, float]:
    """Return the standard errors of `rmse`, `mae`, `r2` and `mse` over the rows, by what each row changes."""
    y = targets.cpu().double().numpy()
    with np.errstate(all="ignore"):
        off, spread = np.abs(predictions.cpu().double().numpy() - y), np.square(y - y.mean())
        square, variance = np.square(off), spread.mean()
        mse = square.mean()
        scores = {
            "mse": square,
            "rmse": square / (2 * np.sqrt(mse)),
            "mae": off,
            "r2": (square - mse / variance * spread) / variance,
        }
    return {name: standard_error(influence) for name, influence in scores.items()}


def loss_error(losses: Tensor, weights: Tensor | None) -> float:
    """Return the standard error of a mean loss over rows, as those of a classifier are weighted."""
    if weights is not None:
        losses = weights * (losses - (weights * losses).sum() / weights.sum()) / weights.mean()
    return standard_error(losses.cpu().double().numpy())


def standard_error(values: Numbers) -> float:
    """Return that of a mean of so many values; NaN for less than two, and of NaN."""
    with np.errstate(all="ignore"):
        return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _f1_influence(found: Any, y: Any, num_classes: int) -> Numbers:
    """Return what each row changes in `class_mean_f1`: a class's f1 is the ratio of two means, 2·right to its mass."""
    masses = (np.bincount(found, minlength=num_classes) + np.bincount(y, minlength=num_classes)) / len(y)
    right = 2 * np.bincount(y[found == y], minlength=num_classes) / len(y)
    f1 = np.divide(right, masses, out=np.zeros(num_classes), where=masses > 0)
    per_mass = np.divide(1.0, masses, out=np.zeros(num_classes), where=masses > 0) / np.count_nonzero(masses)
    influence: Numbers = 2 * (found == y) * per_mass[y] - f1[y] * per_mass[y] - f1[found] * per_mass[found]
    return influence


def _auroc_influence(probabilities: Numbers, y: Any) -> Numbers:
    """Return what each row changes in `class_mean_auroc`: the share of the rows it is compared with that it beats."""
    total, classes = np.zeros(len(y)), 0
    for own, column in enumerate(probabilities.T):
        mine = y == own
        if not 0 < mine.sum() < len(y):
            continue
        classes += 1
        for these, others, sign in ((mine, ~mine, 1), (~mine, mine, -1)):
            ordered = np.sort(column[others])
            beaten = (ordered.searchsorted(column[these]) + ordered.searchsorted(column[these], "right")) / 2
            share = sign * beaten / others.sum()
            total[these] += (share - share.mean()) / these.mean()
    return total / classes if classes and np.isfinite(probabilities).all() else np.full(len(y), math.nan)


# ------------------------------------------------------------------ many trials


def scores_one_by_one(
    metrics: Mapping[str, Metric], predictions: Sequence[Tensor], targets: Sequence[Tensor], names: Sequence[str]
) -> dict[str, Tensor]:
    """Return some of the metrics, `[T]` each, from the predictions `[T, B, ...]` and targets `[B]` of each batch."""
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
