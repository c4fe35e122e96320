"""How many threads a small network is worth."""

import os

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_mods.module import MLPModule

# Floating-point operations of a step below which a second thread costs more than it gives: it takes part in products
# of some microseconds each, and waits between them. 1e9 are about 11 ms of one core.
SMALL_STEP = 1e9


def limit_threads(trainer: Trainer, model: object, rows: object) -> None:
    """Train an MLP whose steps are small on one thread, unless OMP_NUM_THREADS says otherwise.

    Args:
        trainer: Only a fit on the CPU is concerned.
        model: An `MLPModule`; any other module is left alone, as its parameters do not tell its cost.
        rows: Rows of a mini-batch, where known.
    """
    if "OMP_NUM_THREADS" in os.environ or trainer.strategy.root_device.type != "cpu":
        return
    if not isinstance(model, MLPModule) or not isinstance(rows, int):
        return
    # Forward, and backward to the inputs and to the weights: three products of 2 · parameters · rows each.
    operations = 6 * sum(parameter.numel() for parameter in model.parameters()) * rows
    if operations < SMALL_STEP:
        torch.set_num_threads(1)


class ThreadLimit(Callback):
    """Limits the threads anew where a search before the fit has found another batch size.

    Made before the threads are limited: their number then is what a larger batch gets.
    """

    def __init__(self) -> None:
        self._before = torch.get_num_threads()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count again; optimizers are made by now, and the search was over before them."""
        torch.set_num_threads(self._before)
        limit_threads(trainer, pl_module, getattr(getattr(trainer, "datamodule", None), "resolved_batch_size", None))
