"""lightly: its heads, losses and helpers put together as in the examples of its documentation, on images made here."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightly import loss
from lightly.models import modules, utils
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.foreign.data import trainer_arguments

DISTRIBUTION = "lightly"
WIDTH = 32


def backbone() -> nn.Sequential:
    stem = [nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    stem += [nn.Conv2d(16, WIDTH, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Method(pl.LightningModule):
    """A method: its loss of two views, its parts, and whether a second backbone and head follow by their mean."""

    def __init__(
        self, loss_of: Callable[[Any, Any], Any], criterion: Any, *, follows: bool = False, **parts: Any
    ) -> None:
        super().__init__()
        self.loss_of, self.criterion, self.follows = loss_of, criterion, follows
        self.backbone = backbone()
        for name, part in parts.items():
            self.add_module(name, part)
        if follows:
            self.backbone_momentum = copy.deepcopy(self.backbone)
            if "head_momentum" not in parts:  # torch does not copy DINO's, for its weight norm
                self.head_momentum = copy.deepcopy(self.head)
            utils.deactivate_requires_grad(self.backbone_momentum)
            utils.deactivate_requires_grad(self.head_momentum)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.backbone(x))

    def forward_momentum(self, x: Tensor) -> Any:
        return self.head_momentum(self.backbone_momentum(x)).detach()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.follows:
            utils.update_momentum(self.backbone, self.backbone_momentum, m=0.99)
            utils.update_momentum(self.head, self.head_momentum, m=0.99)
        found = self.loss_of(self, batch)
        self.log("train_loss_ssl", found)
        return found

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss_ssl", self.loss_of(self, batch))

    def on_after_backward(self) -> None:
        if isinstance(self.head, modules.DINOProjectionHead):
            self.head.cancel_last_layer_gradients(current_epoch=self.current_epoch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.06)


def two_views(method: Any, batch: Any) -> Any:
    return method.criterion(method(batch[0]), method(batch[1]))


def predicted(method: Any, batch: Any) -> Any:
    targets = list(map(method.forward_momentum if method.follows else method, batch))
    guesses = [method.prediction(method(x)) for x in batch]
    return 0.5 * (method.criterion(targets[0].detach(), guesses[1]) + method.criterion(targets[1].detach(), guesses[0]))


def nearest(method: Any, batch: Any) -> Any:
    z0, z1 = map(method, batch)
    p0, p1 = method.prediction(z0), method.prediction(z1)
    z0, z1 = method.bank(z0.detach(), update=False), method.bank(z1.detach(), update=True)
    return 0.5 * (method.criterion(z0, p1) + method.criterion(z1, p0))


def against_queue(method: Any, batch: Any) -> Any:
    return method.criterion(method(batch[0]), method.forward_momentum(batch[1]))


def assigned(method: Any, batch: Any) -> Any:
    method.prototypes.normalize()
    return method.criterion([method.prototypes(nn.functional.normalize(method(x))) for x in batch], [])


def distilled(method: Any, batch: Any) -> Any:
    return method.criterion(
        list(map(method.forward_momentum, batch)), list(map(method, batch)), epoch=method.current_epoch
    )


def fit(make: Callable[[], Any], callbacks: list[Any], folder: Path) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what a memory bank leaves uninitialised
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(96, 3, 32, 32, generator=draw)
    views = [(images + 0.3 * torch.randn(images.shape, generator=draw)).roll(shift, -1) for shift in (0, 2)]
    parts = [TensorDataset(*(view[part] for view in views)) for part in (slice(72), slice(72, 96))]
    loaders = [DataLoader(part, batch_size=16, shuffle=part is parts[0]) for part in parts]
    pl.Trainer(**trainer_arguments(pl, callbacks, folder)).fit(make(), *loaders)


HEADS = modules.heads
MAKE: dict[str, Callable[[], Any]] = {
    "SimCLR": lambda: Method(two_views, loss.NTXentLoss(), head=HEADS.SimCLRProjectionHead(WIDTH, 32, 16)),
    "BarlowTwins": lambda: Method(
        two_views, loss.BarlowTwinsLoss(), head=HEADS.BarlowTwinsProjectionHead(WIDTH, 64, 64)
    ),
    "VICReg": lambda: Method(two_views, loss.VICRegLoss(), head=HEADS.VICRegProjectionHead(WIDTH, 64, 64)),
    "SimSiam": lambda: Method(
        predicted,
        loss.NegativeCosineSimilarity(),
        head=HEADS.SimSiamProjectionHead(WIDTH, 32, 16),
        prediction=HEADS.SimSiamPredictionHead(16, 8, 16),
    ),
    "BYOL": lambda: Method(
        predicted,
        loss.NegativeCosineSimilarity(),
        head=HEADS.BYOLProjectionHead(WIDTH, 32, 16),
        prediction=HEADS.BYOLPredictionHead(16, 32, 16),
        follows=True,
    ),
    "MoCo": lambda: Method(
        against_queue,
        loss.NTXentLoss(memory_bank_size=(64, 16)),
        head=HEADS.MoCoProjectionHead(WIDTH, 32, 16),
        follows=True,
    ),
    "SwaV": lambda: Method(
        assigned,
        loss.SwaVLoss(),
        head=HEADS.SwaVProjectionHead(WIDTH, 32, 16),
        prototypes=HEADS.SwaVPrototypes(16, n_prototypes=24),
    ),
    "DINO": lambda: Method(
        distilled,
        loss.DINOLoss(output_dim=64, warmup_teacher_temp_epochs=2),
        head=HEADS.DINOProjectionHead(WIDTH, 32, 16, 64, freeze_last_layer=1),
        head_momentum=HEADS.DINOProjectionHead(WIDTH, 32, 16, 64),
        follows=True,
    ),
    "NNCLR": lambda: Method(
        nearest,
        loss.NTXentLoss(),
        head=HEADS.NNCLRProjectionHead(WIDTH, 32, 16),
        prediction=HEADS.NNCLRPredictionHead(16, 8, 16),
        bank=modules.NNMemoryBankModule(size=(64, 16)),
    ),
}
FITS = {name: partial(fit, make) for name, make in MAKE.items()}
