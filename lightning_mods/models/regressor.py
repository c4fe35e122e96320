"""`MLPRegressor`: an MLP that predicts a number."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric

from lightning_mods.models.fused.chain_rule import LossRule, SquaredError
from lightning_mods.models.metrics import R2, regression_errors
from lightning_mods.models.mlp import Activation, Schedule, left_out
from lightning_mods.models.module import MLPModule


class MLPRegressor(MLPModule):
    """An MLP that predicts a number for a row, trained on squared error with SGD.

    It trains on the standardised target, and logs and predicts in the target's own units: `{stage}_loss` (mean
    squared error), `{stage}_rmse`, `{stage}_mae` and `{stage}_r2`.

    Args:
        in_features: Width of the input rows; comes from the data.
        target_mean: Mean of the training targets, in their units; comes from the data.
        target_std: Standard deviation of the training targets, above 0; comes from the data.
        hidden_sizes: Widths of the hidden layers, first to last; `[]` for a linear model.
        activation: relu, leaky_relu, elu, gelu, silu, tanh, sigmoid or identity.
        dropout: Probability that a hidden unit is zeroed in training, in [0, 1).
        input_scaling: Whether to learn how much each input feature counts, with a factor on each.
        lr: Learning rate of SGD, above 0.
        momentum: Momentum of SGD, in [0, 1).
        weight_decay: L2 penalty of SGD, at least 0.
        nesterov: Nesterov's momentum; needs a momentum above 0.
        lr_schedule: `constant`, or `cosine`: the learning rate falls to zero over the fit.
        ema_epochs: Epochs that the moving average of the weights looks back over, which is what is validated, kept and
            used to predict; 0 for none.

    Raises:
        ValueError: A number outside its range, with the range and what came.
    """

    metric_names = ("rmse", "mae", "r2")

    def __init__(
        self,
        in_features: int,
        target_mean: float = 0.0,
        target_std: float = 1.0,
        *,
        hidden_sizes: Sequence[int] = (128, 128),
        activation: Activation = "relu",
        dropout: float = 0.0,
        input_scaling: bool = False,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 1e-3,
        nesterov: bool = False,
        lr_schedule: Schedule = "constant",
        ema_epochs: float = 0.0,
    ) -> None:
        if not (0 < target_std < math.inf and math.isfinite(target_mean)):
            raise ValueError(f"target_mean must be finite and target_std above 0, not {target_mean}, {target_std}.")
        super().__init__(
            in_features,
            1,
            hidden_sizes=hidden_sizes,
            activation=activation,
            dropout=dropout,
            input_scaling=input_scaling,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov,
            lr_schedule=lr_schedule,
            ema_epochs=ema_epochs,
        )
        off = left_out(lr_schedule=lr_schedule, ema_epochs=ema_epochs, input_scaling=input_scaling)
        self.save_hyperparameters(ignore=off)
        self.target_mean = target_mean
        self.target_std = target_std

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean squared error on the standardised target (no units)."""
        return functional.mse_loss(outputs.squeeze(-1), self._standardised(outputs, y))

    def _standardised(self, outputs: Tensor, y: Tensor) -> Tensor:
        return ((y - self.target_mean) / self.target_std).to(outputs.dtype)

    def row_losses(self, outputs: Tensor, y: Tensor) -> Tensor | None:
        """Squared error of each row on the standardised target, unless a subclass minimises something else."""
        own = type(self).loss is MLPRegressor.loss
        return (
            functional.mse_loss(outputs.squeeze(-1), self._standardised(outputs, y), reduction="none") if own else None
        )

    def loss_rule(self) -> LossRule | None:
        """Squared error with its derivative, unless a subclass minimises something else."""
        own = type(self).loss is MLPRegressor.loss
        return SquaredError(self.target_mean, self.target_std) if own else None

    def logged_loss(self, loss: Tensor) -> Tensor:
        """Mean squared error in the target's units squared."""
        return loss * self.target_std**2

    def predictions(self, outputs: Tensor) -> Tensor:
        """Numbers `[B]` in the target's units."""
        return outputs.float().squeeze(-1) * self.target_std + self.target_mean

    def outputs_of(self, predictions: Tensor) -> Tensor:
        """Numbers `[B]` in the target's units, standardised, as `[B, 1]`."""
        return ((predictions - self.target_mean) / self.target_std).float().unsqueeze(-1)

    @property
    def constants(self) -> tuple[Tensor, Tensor]:
        """The training mean."""
        mean = torch.tensor(self.target_mean, dtype=torch.float64)
        return mean, mean

    def metrics(self) -> dict[str, Metric]:
        """Root mean squared error and mean absolute error in the target's units, and R²."""
        return {"rmse": MeanSquaredError(squared=False), "mae": MeanAbsoluteError(), "r2": R2()}

    def metric_errors(self, predictions: Tensor, y: Tensor) -> dict[str, float]:
        """Standard errors of all metrics over the rows."""
        return regression_errors(predictions, y)

    @property
    def baseline_loss(self) -> float | None:
        """Mean squared error of predicting the training mean for every training row."""
        return self.target_std**2
