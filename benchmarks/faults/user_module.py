"""The LightningModule that a user would have written for a case."""

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from .losses import FUNCTIONS, MODULES, SQUEEZED
from .networks import Network
from .settings import Settings


class UserModule(pl.LightningModule):
    """Training step, validation step, optimizer; nothing that knows of a detector."""

    def __init__(self, s: Settings, shape: torch.Size):
        super().__init__()
        self.s, self.net = s, Network(s, shape)
        if not s.functional and s.loss in MODULES | SQUEEZED:
            self.criterion = (MODULES | SQUEEZED)[s.loss]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out

    def _loss(self, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.s.functional or self.s.loss not in MODULES | SQUEEZED:
            return self.s.sign * FUNCTIONS[self.s.loss](out, y)
        loss: torch.Tensor = self.criterion(out.squeeze(1) if self.s.loss in SQUEEZED else out, y)
        return self.s.sign * loss

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, y = batch
        loss = self._loss(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        if self.s.validates_in == "train":
            self.net.train()
        x, y = batch
        out = self(x)
        self.log("val_loss", self._loss(out, y))
        if self.s.classes:
            self.log("val_accuracy", (out.argmax(1) == y).float().mean())

    def _trained(self) -> Iterator[tuple[float, nn.Parameter]]:
        """Each parameter for the optimizer, with the factor of its rate."""
        s = self.s
        for number, layer in enumerate([*self.net.hidden, *self.net.norms, self.net.output]):
            for p in layer.parameters():
                if number == 0 and s.first_layer_lr == 0:
                    p.requires_grad_(False)
                elif number != s.left_out:
                    yield s.first_layer_lr if number == 0 else 1.0, p

    def configure_optimizers(self) -> torch.optim.Optimizer:
        s = self.s
        groups: list[dict[str, Any]] = []
        for factor in (1.0, s.first_layer_lr):
            params = [p for f, p in self._trained() if f == factor]
            if params and not (groups and factor == 1.0):
                groups.append({"params": params, "lr": s.lr * factor})
        if s.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=s.lr, momentum=0.9, weight_decay=s.weight_decay)
        kind = torch.optim.AdamW if s.optimizer == "adamw" else torch.optim.Adam
        return kind(groups, lr=s.lr, eps=s.eps, weight_decay=s.weight_decay)


class Forgetful(UserModule):
    """Never clears its gradients."""

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        pass


class Previewing(UserModule):
    """Looks at its predictions at each epoch's end in evaluation mode and goes back to training mode, as one should."""

    def on_train_batch_start(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        if batch_idx == 0:
            self.example = batch[0]

    def on_train_epoch_end(self) -> None:
        self.eval()
        with torch.no_grad():
            self(self.example)
        self.train()


def make_module(s: Settings, shape: torch.Size) -> UserModule:
    """Return the module of a case; `shape` is that of one row."""
    kind = Previewing if s.validates_in == "preview" else UserModule if s.zero_grad else Forgetful
    return kind(s, shape)
