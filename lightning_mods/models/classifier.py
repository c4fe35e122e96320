"""`MLPClassifier`: an MLP that predicts classes."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

from lightning_mods.models.fused.chain_rule import CrossEntropy, LossRule
from lightning_mods.models.metrics import ClassScores, class_errors
from lightning_mods.models.mlp import Activation, Schedule, left_out
from lightning_mods.models.module import MLPModule


class MLPClassifier(MLPModule):
    """An MLP that predicts the class of a row, trained on cross-entropy with SGD.

    Logs `{stage}_loss` (nats), `{stage}_accuracy`, `{stage}_f1` (mean over classes) and `{stage}_auroc` (one
    against the rest, mean over classes).

    Args:
        in_features: Width of the input rows; comes from the data.
        num_classes: Number of classes; comes from the data.
        class_counts: Training rows of each class, or what these weigh; comes from the data.
        hidden_sizes: Widths of the hidden layers, first to last; `[]` for a linear model.
        activation: relu, leaky_relu, elu, gelu, silu, tanh, sigmoid or identity.
        dropout: Probability that a hidden unit is zeroed in training, in [0, 1).
        input_scaling: Whether to learn how much each input feature counts, with a factor on each.
        lr: Learning rate of SGD, above 0.
        momentum: Momentum of SGD, in [0, 1).
        weight_decay: L2 penalty of SGD, at least 0; by default 20 / training rows, at most 0.02, as small tables
            overfit first.
        nesterov: Nesterov's momentum; needs a momentum above 0.
        lr_schedule: `constant`, or `cosine`: the learning rate falls to zero over the fit.
        ema_epochs: Epochs that the moving average of the weights looks back over, which is what is validated, kept and
            used to predict; 0 for none.
        class_weight: Weight of each class in the loss: `balanced` (every class counts the same in all), a list
            of numbers, or none.

    Raises:
        ValueError: A number outside its range, or weights or counts that do not fit the classes.
    """

    metric_names = ("accuracy", "f1", "auroc")

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        class_counts: Sequence[int | float] | None = None,
        *,
        hidden_sizes: Sequence[int] = (128, 128),
        activation: Activation = "relu",
        dropout: float = 0.0,
        input_scaling: bool = False,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float | None = None,
        nesterov: bool = False,
        lr_schedule: Schedule = "constant",
        ema_epochs: float = 0.0,
        class_weight: Literal["balanced"] | Sequence[float] | None = None,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, not {num_classes}.")
        self.num_classes = num_classes
        super().__init__(
            in_features,
            num_classes,
            hidden_sizes=hidden_sizes,
            activation=activation,
            dropout=dropout,
            input_scaling=input_scaling,
            lr=lr,
            momentum=momentum,
            weight_decay=_weight_decay(class_counts) if weight_decay is None else weight_decay,
            nesterov=nesterov,
            lr_schedule=lr_schedule,
            ema_epochs=ema_epochs,
        )
        off = left_out(lr_schedule=lr_schedule, ema_epochs=ema_epochs, input_scaling=input_scaling)
        self.save_hyperparameters(ignore=off)
        self.class_counts = class_counts
        self.class_weight = class_weight
        weights = _weights(num_classes, class_counts, class_weight)
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy in nats, a weighted mean where classes are weighted."""
        return functional.cross_entropy(outputs, y, weight=self.weights)

    def loss_rule(self) -> LossRule | None:
        """Cross-entropy with its derivative, unless a subclass minimises something else."""
        return CrossEntropy(self.weights) if type(self).loss is MLPClassifier.loss else None

    def row_losses(self, outputs: Tensor, y: Tensor) -> Tensor | None:
        """Cross-entropy of each row in nats, unless a subclass minimises something else."""
        own = type(self).loss is MLPClassifier.loss
        return functional.cross_entropy(outputs, y, reduction="none") if own else None

    def row_weights(self, y: Tensor) -> Tensor | None:
        """The weight of each row's class."""
        return None if self.weights is None else self.weights[y]

    def predictions(self, outputs: Tensor) -> Tensor:
        """Class probabilities `[B, C]`."""
        return outputs.float().softmax(dim=-1)

    def outputs_of(self, predictions: Tensor) -> Tensor:
        """Logarithms of class probabilities `[B, C]`; 0 counts as the smallest number of float32."""
        return predictions.float().clamp(min=torch.finfo(torch.float32).tiny).log()

    @property
    def class_weights(self) -> NDArray[np.float64]:
        """The weight of each class in the loss, shape (classes,)."""
        return np.ones(self.num_classes) if self.weights is None else self.weights.double().cpu().numpy()

    @property
    def constants(self) -> tuple[Tensor, Tensor] | None:
        """The shares of the classes among the training rows, for the loss weighted as it is."""
        if not self.class_counts:
            return None
        counts = torch.tensor(self.class_counts, dtype=torch.float64)
        mass = counts * torch.from_numpy(self.class_weights)
        return mass / mass.sum(), counts / counts.sum()

    def metrics(self) -> dict[str, Metric]:
        """Accuracy, F1 (mean over classes) and AUROC (one against the rest, mean over classes)."""
        return {"scores": ClassScores(self.num_classes)}

    def metric_errors(self, predictions: Tensor, y: Tensor) -> dict[str, float]:
        """Standard errors of all metrics over the rows."""
        return class_errors(predictions, y, self.num_classes)

    def scores(
        self, predictions: Sequence[Tensor], targets: Sequence[Tensor], names: Sequence[str]
    ) -> dict[str, Tensor]:
        """Some of the metrics for many trials; the accuracy alone is wanted after every epoch, and is quick."""
        if list(names) != ["accuracy"]:
            return super().scores(predictions, targets, names)
        right = [p.argmax(-1) == y for p, y in zip(predictions, targets, strict=True)]
        return {"accuracy": torch.cat(right, dim=1).float().mean(-1)}

    @property
    def baseline_loss(self) -> float | None:
        """Cross-entropy in nats of predicting the (weighted) class shares of the training rows for every row."""
        if self.class_counts is None:
            return None
        weights: list[float] = [1.0] * self.num_classes if self.weights is None else self.weights.tolist()
        mass = [count * weight for count, weight in zip(self.class_counts, weights, strict=True)]
        return -sum(m / sum(mass) * math.log(m / sum(mass)) for m in mass if m > 0)


def _weight_decay(class_counts: Sequence[float] | None) -> float:
    """A penalty that weighs as much as 20 rows: a prior counts less, the more data there are."""
    rows = sum(class_counts) if class_counts else 0
    return min(20 / rows, 0.02) if rows else 1e-3


def _weights(
    num_classes: int, counts: Sequence[float] | None, class_weight: Literal["balanced"] | Sequence[float] | None
) -> Tensor | None:
    if counts is not None and len(counts) != num_classes:
        raise ValueError(f"class_counts needs one number a class ({num_classes}), not {len(counts)}.")
    if class_weight is None:
        return None
    if class_weight == "balanced":
        if counts is None:
            raise ValueError("class_weight=balanced needs class_counts: the training rows of each class.")
        # A class with no training row cannot be weighted up; it keeps the weight 1 it never uses.
        return torch.tensor([sum(counts) / (num_classes * c) if c else 1.0 for c in counts])
    weights = [float(weight) for weight in class_weight]
    if len(weights) != num_classes:
        raise ValueError(f"class_weight needs one number a class ({num_classes}), not {len(weights)}.")
    if not all(0 <= weight < math.inf for weight in weights) or sum(weights) == 0:
        raise ValueError(f"class_weight needs numbers of at least 0, not all 0; got {weights}.")
    return torch.tensor(weights)
