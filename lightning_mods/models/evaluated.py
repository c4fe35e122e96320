"""`EvaluatedModule`: how a model is validated, tested and asked, whatever it predicts."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from callbacks.host.packages import LightningModule, main_package
from lightning_mods.models.average import WeightAverage

Batch = tuple[Tensor, Tensor]

main_package()  # the class is used before there is an instance: by parsers, by `load_from_checkpoint`


class EvaluatedModule(LightningModule, ABC):
    """A network with a loss and metrics, logged once an epoch; in a fit the average of the weights is validated.

    Attributes:
        average: The average of the weights, while a fit has one.
        stage_metrics: The metrics of the stages `val` and `test`, as `{stage}_metrics`.
    """

    network: Any  # from rows `[B, in_features]` to outputs `[B, out_features]`
    average: WeightAverage | None
    stage_metrics: Any

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

    def loss_weight(self, y: Tensor) -> Tensor | int:
        """Return how much a batch's mean loss counts in the epoch's mean: its number of rows."""
        return len(y)

    def logged_loss(self, loss: Tensor) -> Tensor:
        """Return the loss in the units in which it is logged."""
        return loss

    def evaluation_loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch as it is logged; log and change nothing."""
        return self.logged_loss(self.loss(self.network(batch[0]), batch[1]))

    def forward(self, x: Tensor) -> Tensor:
        """Predict rows `[B, in_features]`: class probabilities `[B, C]`, or numbers `[B]` in the target's units."""
        return self.predictions(self.network(x))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch of the validation or test set."""
        x, y = batch
        outputs = self.network(x)
        weight = self.loss_weight(y)
        self._eval_sums[0] += self.loss(outputs, y) * weight
        self._eval_sums[1] += weight
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
        self._eval_sums = torch.zeros(2, device=self.device)

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Log the loss and metrics of the validation or test set, equal on all ranks."""
        stage = "test" if self.trainer.testing else "val"
        total = self.trainer.strategy.reduce(self._eval_sums, reduce_op="sum")
        assert isinstance(total, Tensor)
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


def _stage_metrics(module: EvaluatedModule) -> dict[str, Metric]:
    stage = "test" if module.trainer.testing else "val"
    return dict(module.stage_metrics[f"{stage}_metrics"].items())


def write(module: LightningModule, row: dict[str, float]) -> None:
    """Write numbers by name to all loggers, over the epoch."""
    epoch = module.current_epoch
    for logger in module.loggers:
        logger.log_metrics({**row, "epoch": float(epoch)}, step=epoch)
