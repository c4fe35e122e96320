"""lightning-uq-box: its methods around a small network."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning_uq_box import uq_methods
from lightning_uq_box.models.cards import ConditionalGuidedLinearModel
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.foreign.data import table, trainer_arguments

DISTRIBUTION = "lightning-uq-box"


def network(outputs: int, dropout: float = 0.0) -> nn.Sequential:
    parts = [nn.Linear(5, 32), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else []), nn.Linear(32, 32), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(32, outputs))


class Rows(pl.LightningDataModule):
    """Some of the methods look for the rows in the Trainer's data module."""

    def __init__(self, rows: list[Any]) -> None:
        super().__init__()
        self.rows = rows

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows[:384], batch_size=32, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.rows[384:], batch_size=32)


def fit(make: Callable[[], Any], classes: int, callbacks: list[Any], folder: Path) -> None:
    frame = table(classes)
    inputs = torch.tensor(frame.filter(like="x").to_numpy())
    target = torch.tensor(frame["target"].to_numpy())
    rows = [{"input": x, "target": y if classes else y[None]} for x, y in zip(inputs, target, strict=True)]
    pl.Trainer(**trainer_arguments(pl, callbacks, folder)).fit(make(), datamodule=Rows(rows))


U, MSE = uq_methods, nn.MSELoss
REGRESSIONS: dict[str, Callable[[], Any]] = {
    "DeterministicRegression": lambda: U.DeterministicRegression(network(1), loss_fn=MSE()),
    "MCDropoutRegression": lambda: U.MCDropoutRegression(network(2, 0.1), 5, U.NLL(), burnin_epochs=1),
    "MVERegression": lambda: U.MVERegression(network(2), burnin_epochs=1),
    "QuantileRegression": lambda: U.QuantileRegression(network(3)),
    "DER": lambda: U.DER(network(4)),
    "BNN_VI_ELBO_Regression": lambda: U.BNN_VI_ELBO_Regression(network(2), U.NLL(), 1, num_mc_samples_train=3),
    "BNN_VI_Regression": lambda: U.BNN_VI_Regression(network(1), n_mc_samples_train=3),
    "SNGPRegression": lambda: U.SNGPRegression(network(16), MSE(), num_gp_features=16, num_random_features=32),
    "DKLRegression": lambda: U.DKLRegression(network(2), 16),
    "DUERegression": lambda: U.DUERegression(network(2), 16, input_size=5),
    "MDNRegression": lambda: U.MDNRegression(network(1), 3, hidden_dims=[8]),
    "VBLLRegression": lambda: U.VBLLRegression(network(1), 1 / 384),
    "DensityLayerModelRegression": lambda: U.DensityLayerModelRegression(network(1)),
    "MasksemblesRegression": lambda: U.MasksemblesRegression(network(1), MSE(), 4, 2.0),
    "SGLDRegression": lambda: U.SGLDRegression(network(1), MSE(), 1e-3, 0.0, 0.7, 1, 5),
    "CARDRegression": lambda: U.CARDRegression(
        network(1), ConditionalGuidedLinearModel(n_steps=20, x_dim=5, y_dim=1, n_hidden=[16, 16], cat_x=True), 20
    ),
}
FITS = {name: partial(fit, make, 0) for name, make in REGRESSIONS.items()}
FITS["DeterministicClassification"] = partial(
    fit, lambda: U.DeterministicClassification(network(3), loss_fn=nn.CrossEntropyLoss()), 3
)
FITS["MCDropoutClassification"] = partial(
    fit, lambda: U.MCDropoutClassification(network(3, 0.1), 5, nn.CrossEntropyLoss()), 3
)
