"""`EvaluatedModule`: how a model is validated, tested and asked, whatever it predicts."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from callbacks.host.packages import LightningModule, main_package
from lightning_mods.models.average import WeightAverage
from lightning_mods.models.metrics import loss_error

Batch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]
"""Rows `[B, in_features]`, their targets `[B]` and, where the table has such, their weights `[B]`."""

main_package()  # the class is used before there is an instance: by parsers, by `load_from_checkpoint`


class EvaluatedModule(LightningModule, ABC):
    """A network with a loss and metrics, logged once an epoch; in a fit the average of the weights is validated.

    Attributes:
        average: The average of the weights, while a fit has one.
        stage_metrics: The metrics of the stages `val` and `test`, as `{stage}_metrics`.
        uncertainty: What was learned from validation rows about how sure predictions are: a classifier's `temperature`,
            a regression's `intervals`; empty for nothing.
    """

    network: Any  # from rows `[B, in_features]` to outputs `[B, out_features]`
    average: WeightAverage | None
    stage_metrics: Any
    uncertainty: dict[str, Any]

    @abstractmethod
    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of outputs `[B, out_features]` against targets `[B]`, a scalar to minimise."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """Turn outputs `[B, out_features]` into what a person reads: probabilities `[B, C]` or numbers `[B]`."""

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """Make a fresh set of torchmetrics by name, updated with `(predictions, y)`.

        One that computes a dict gives several metrics, by the names in it.
        """

    def row_losses(self, outputs: Tensor, y: Tensor) -> Tensor | None:
        """Return the loss `[B]` of each row, as it is minimised, without its weight; None where that is not known."""
        return None

    def row_weights(self, y: Tensor) -> Tensor | None:
        """Return how much each row's loss counts in a batch's mean by its target alone, `[B]`; None for all alike."""
        return None

    def all_weights(self, y: Tensor, weight: Tensor | None = None) -> Tensor | None:
        """Return how much each row's loss counts by its target and by its own `weight` `[B]`; None for all alike."""
        by_target = self.row_weights(y)
        return by_target if weight is None else weight if by_target is None else by_target * weight

    def mean_loss(self, outputs: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the mean loss, of rows that count by `weight` `[B]` their weighted mean.

        Raises:
            ValueError: There are weights, and the loss of a single row is not known.
        """
        if weight is None:
            return self.loss(outputs, y)
        losses, weights = self.row_losses(outputs, y), self.all_weights(y, weight)
        if losses is None or weights is None:
            raise ValueError(f"weights of rows need `row_losses`, which {type(self).__name__} does not have.")
        return (losses * weights).sum() / weights.sum()

    def metric_errors(self, predictions: Tensor, y: Tensor) -> dict[str, float]:
        """Return the standard errors over the rows of those metrics whose is known, by name."""
        return {}

    def loss_weight(self, y: Tensor, weight: Tensor | None = None) -> Tensor | int:
        """Return how much a batch's mean loss counts in the epoch's mean: its number of rows, or their weights."""
        weights = self.all_weights(y, weight)
        return len(y) if weights is None else weights.sum()

    def outputs(self, x: Tensor) -> Any:
        """Return the network's outputs for rows `[B, in_features]`, divided by the temperature where there is one."""
        outputs = self.network(x)
        temperature = self.uncertainty.get("temperature")
        if temperature is None:
            return outputs
        return tuple(each / temperature for each in outputs) if isinstance(outputs, tuple) else outputs / temperature

    def logged_loss(self, loss: Tensor) -> Tensor:
        """Return the loss in the units in which it is logged."""
        return loss

    def evaluation_loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch as it is logged, with the weights that are validated; change nothing."""
        average = self.average if self.average is not None and not self.average.shown else None
        if average is not None:
            average.show(True)
        try:
            x, y, *weight = batch
            return self.logged_loss(self.mean_loss(self.network(x), y, *weight))
        finally:
            if average is not None:
                average.show(False)

    def forward(self, x: Tensor) -> Tensor:
        """Predict rows `[B, in_features]`: class probabilities `[B, C]`, or numbers `[B]` in the target's units."""
        return self.predictions(self.outputs(x))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch of the validation or test set."""
        x, y, *weight = batch
        outputs = self.outputs(x)
        mass = self.loss_weight(y, *weight)
        self._eval_sums[0] += self.mean_loss(outputs, y, *weight) * mass
        self._eval_sums[1] += mass
        weights = self.all_weights(y, *weight)
        if weights is not None:
            self._eval_sums[2] += len(y)
        self._eval_rows.append((self.row_losses(outputs, y), weights))
        predictions = self.predictions(outputs)
        for metric in _stage_metrics(self).values():
            metric.update(predictions, y)

    test_step = validation_step

    def predict_step(self, batch: Tensor | Batch, batch_idx: int) -> Tensor:
        """Predict a batch of rows; targets that come along are ignored."""
        out: Tensor = self(batch if isinstance(batch, Tensor) else batch[0])
        return out

    def on_validation_start(self) -> None:
        """Let the average of a fit be validated, where there is one."""
        if self.average is not None and self.trainer.state.fn == "fit":
            self.average.show(True)

    def on_validation_end(self) -> None:
        """Go on with the weights as they are trained."""
        if self.average is not None and self.trainer.state.fn == "fit":
            self.average.show(False)

    def on_validation_epoch_start(self) -> None:
        """Start the sums of the validation or test loss."""
        self._eval_sums = torch.zeros(3, device=self.device)  # of losses times weights, of weights, of rows with one
        self._eval_rows: list[tuple[Tensor | None, Tensor | None]] = []  # losses and weights of each batch's

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Log the loss and metrics of the validation or test set, equal on all ranks."""
        stage = "test" if self.trainer.testing else "val"
        total = self.trainer.strategy.reduce(self._eval_sums, reduce_op="sum")
        assert isinstance(total, Tensor)
        self._eval_sums = total
        row = {f"{stage}_loss": self.logged_loss(total[0] / total[1])}
        for name, metric in _stage_metrics(self).items():
            found = metric.compute()
            for key, value in found.items() if isinstance(found, dict) else [(name, found)]:
                row[f"{stage}_{key}"] = value
            metric.reset()
        # Ranks agree already (reduced above, torchmetrics syncs in compute).
        if self.trainer.state.fn != "fit":
            self.log_dict(row, sync_dist=False)
            return
        # `self.log` would put them there too, and take as long as some training steps for it.
        self.trainer.callback_metrics.update(row)
        if not self.trainer.sanity_checking:
            write(self, {name: float(value) for name, value in row.items()})

    on_test_epoch_end = on_validation_epoch_end

    @torch.no_grad()
    def standard_errors(self, batches: Iterable[Batch]) -> tuple[int, dict[str, float]]:
        """Return the number of some rows, of all ranks together, and the standard errors of loss and metrics over them.

        By the names of the metrics without the stage. Every rank must call this, with its rows.
        """
        self.eval()
        like = next(self.parameters())
        found: list[Any] = []
        for batch in batches:
            x, y, *weight = (part.to(like.device) for part in batch)
            outputs = self.outputs(x.to(like))
            found.append((self.predictions(outputs), y, self.row_losses(outputs, y), self.all_weights(y, *weight)))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            everybody: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(everybody, found)
            found = [batch for each in everybody for batch in each]
        predictions, targets, losses, weights = (
            None if part[0] is None else torch.cat(part) for part in zip(*found, strict=True)
        )
        assert predictions is not None
        assert targets is not None
        errors = self.metric_errors(predictions, targets)
        if losses is not None:
            errors["loss"] = loss_error(self.logged_loss(losses), weights)
        return len(targets), errors

    @property
    def val_row_losses(self) -> Tensor | None:
        """What each of this rank's rows makes of the latest validation or test, as it is logged; None where not known.

        The mean over all rows is the loss, and its standard error that of the loss: a row that counts w times as much
        stands there w times as far from the loss as its own is, which is how a ratio of means is linearised (Cochran
        1977, Sampling Techniques, 6.3). The same holds for the differences of two validations.
        """
        losses = [rows for rows, _ in self._eval_rows if rows is not None]
        if not losses or len(losses) < len(self._eval_rows):
            return None
        found = losses[0] if len(losses) == 1 else torch.cat(losses)
        weights = [each for _, each in self._eval_rows if each is not None]
        if weights:
            total, mass, count = self._eval_sums
            found = total / mass + torch.cat(weights) * (found - total / mass) * (count / mass)
        return self.logged_loss(found)


def _stage_metrics(module: EvaluatedModule) -> dict[str, Metric]:
    stage = "test" if module.trainer.testing else "val"
    return dict(module.stage_metrics[f"{stage}_metrics"].items())


def write(module: LightningModule, row: dict[str, float]) -> None:
    """Write numbers by name to all loggers, over the epoch."""
    epoch = module.current_epoch
    for logger in module.loggers:
        logger.log_metrics({**row, "epoch": float(epoch)}, step=epoch)
