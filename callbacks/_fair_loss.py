"""The loss of a fixed slice of training rows in eval mode: what a validation loss can fairly be compared with."""

from typing import Any, Protocol, runtime_checkable

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor


@runtime_checkable
class EvaluatesLoss(Protocol):
    """A module that tells the loss of a batch without logging or changing anything."""

    def evaluation_loss(self, batch: Any) -> Tensor:
        """Mean loss of a batch, in the units in which the losses are logged."""


def obstacle(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Why there can be no fair loss, or None if there can."""
    if not isinstance(pl_module, EvaluatesLoss):
        return f"{type(pl_module).__name__} has no method `evaluation_loss(batch)`"
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return "the training data has no `dataset[row]` to take a fixed slice from"
    return None


def fair_loss(trainer: Trainer, pl_module: LightningModule, rows: int) -> float:
    """Loss of `rows` training rows, evenly spaced and the same each time.

    Modes and random numbers are put back: training goes on as if this had not been.
    """
    assert isinstance(pl_module, EvaluatesLoss)
    modes = {module: module.training for module in pl_module.modules()}
    pl_module.eval()
    try:
        with isolate_rng(), torch.no_grad(), trainer.precision_plugin.val_step_context():
            batch = trainer.strategy.batch_to_device(_slice(trainer.train_dataloader, rows))
            return float(pl_module.evaluation_loss(batch))
    finally:
        for module, mode in modes.items():
            module.training = mode


def _slice(loader: Any, rows: int) -> Any:
    dataset = loader.dataset
    count = min(rows, len(dataset))
    indices = [i * len(dataset) // count for i in range(count)]
    gather = getattr(dataset, "__getitems__", None)
    return loader.collate_fn(gather(indices) if gather else [dataset[i] for i in indices])
