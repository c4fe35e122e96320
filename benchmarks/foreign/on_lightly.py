"""lightly: its heads, losses and helpers in the LightningModules of its documentation, on images made here."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightly import loss
from lightly.models import modules, utils
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.foreign.data import trainer_arguments

DISTRIBUTION = "lightly"
WIDTH = 32


def backbone() -> nn.Sequential:
    stem = [nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(
        *stem, nn.Conv2d(16, WIDTH, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


class Base(pl.LightningModule):
    """Two views of each image, and a loss of a validation too, which the documentation leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = backbone()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        found = self.loss_of(batch)
        self.log("train_loss_ssl", found)
        return found

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss_ssl", self.loss_of(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.06)


class TwoViews(Base):
    """SimCLR, Barlow Twins, VICReg: one projection of both views and a symmetric criterion."""

    def __init__(self, head: Any, criterion: Any) -> None:
        super().__init__()
        self.projection_head, self.criterion = head, criterion

    def forward(self, x: Tensor) -> Any:
        return self.projection_head(self.backbone(x))

    def loss_of(self, batch: Any) -> Any:
        return self.criterion(self(batch[0]), self(batch[1]))


class SimSiam(Base):
    def __init__(self) -> None:
        super().__init__()
        self.projection_head = modules.SimSiamProjectionHead(WIDTH, 32, 16)
        self.prediction_head = modules.SimSiamPredictionHead(16, 8, 16)
        self.criterion = loss.NegativeCosineSimilarity()

    def forward(self, x: Tensor) -> Any:
        z = self.projection_head(self.backbone(x))
        return z.detach(), self.prediction_head(z)

    def loss_of(self, batch: Any) -> Any:
        (z0, p0), (z1, p1) = self(batch[0]), self(batch[1])
        return 0.5 * (self.criterion(z0, p1) + self.criterion(z1, p0))


class Momentum(Base):
    """BYOL and MoCo: the second network follows the first by its exponential mean."""

    def __init__(self, head: Any, criterion: Any, prediction: Any = None) -> None:
        super().__init__()
        self.projection_head, self.prediction_head = head, prediction or nn.Identity()
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        utils.deactivate_requires_grad(self.backbone_momentum)
        utils.deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = criterion

    def forward(self, x: Tensor) -> Any:
        return self.prediction_head(self.projection_head(self.backbone(x)))

    def forward_momentum(self, x: Tensor) -> Any:
        return self.projection_head_momentum(self.backbone_momentum(x)).detach()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        momentum = cosine_schedule(self.current_epoch, 3, 0.996, 1)
        utils.update_momentum(self.backbone, self.backbone_momentum, m=momentum)
        utils.update_momentum(self.projection_head, self.projection_head_momentum, m=momentum)
        return super().training_step(batch, batch_idx)

    def loss_of(self, batch: Any) -> Any:
        x0, x1 = batch
        first, second = (
            self.criterion(self(x0), self.forward_momentum(x1)),
            self.criterion(self(x1), self.forward_momentum(x0)),
        )
        return 0.5 * (first + second)


class SwaV(Base):
    def __init__(self) -> None:
        super().__init__()
        self.projection_head = modules.SwaVProjectionHead(WIDTH, 32, 16)
        self.prototypes = modules.SwaVPrototypes(16, n_prototypes=24)
        self.criterion = loss.SwaVLoss()

    def loss_of(self, batch: Any) -> Any:
        self.prototypes.normalize()
        scores = [self.prototypes(nn.functional.normalize(self.projection_head(self.backbone(x)))) for x in batch]
        return self.criterion(scores, [])


class DINO(Base):
    def __init__(self) -> None:
        super().__init__()
        self.student_head = modules.DINOProjectionHead(WIDTH, 32, 16, 64, freeze_last_layer=1)
        self.teacher_backbone, self.teacher_head = backbone(), modules.DINOProjectionHead(WIDTH, 32, 16, 64)
        utils.deactivate_requires_grad(self.teacher_backbone)
        utils.deactivate_requires_grad(self.teacher_head)
        self.criterion = loss.DINOLoss(output_dim=64, warmup_teacher_temp_epochs=2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        utils.update_momentum(self.backbone, self.teacher_backbone, m=0.99)
        utils.update_momentum(self.student_head, self.teacher_head, m=0.99)
        return super().training_step(batch, batch_idx)

    def loss_of(self, batch: Any) -> Any:
        teacher = [self.teacher_head(self.teacher_backbone(x)) for x in batch]
        return self.criterion(teacher, [self.student_head(self.backbone(x)) for x in batch], epoch=self.current_epoch)

    def on_after_backward(self) -> None:
        self.student_head.cancel_last_layer_gradients(current_epoch=self.current_epoch)


class NNCLR(Base):
    def __init__(self) -> None:
        super().__init__()
        self.projection_head = modules.NNCLRProjectionHead(WIDTH, 32, 16)
        self.prediction_head = modules.NNCLRPredictionHead(16, 8, 16)
        self.memory_bank = modules.NNMemoryBankModule(size=(64, 16))
        self.criterion = loss.NTXentLoss()

    def loss_of(self, batch: Any) -> Any:
        z0, z1 = (self.projection_head(self.backbone(x)) for x in batch)
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        z0, z1 = self.memory_bank(z0.detach(), update=False), self.memory_bank(z1.detach(), update=True)
        return 0.5 * (self.criterion(z0, p1) + self.criterion(z1, p0))


def fit(make: Any, callbacks: list[Any], folder: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(96, 3, 32, 32, generator=draw)
    views = [(images + 0.3 * torch.randn(images.shape, generator=draw)).roll(shift, -1) for shift in (0, 2)]
    loaders = [
        DataLoader(TensorDataset(*(view[part] for view in views)), batch_size=16, shuffle=part.start is None)
        for part in (slice(72), slice(72, 96))
    ]
    pl.Trainer(**trainer_arguments(pl, callbacks, folder)).fit(make(), *loaders)


MAKE = {
    "SimCLR": lambda: TwoViews(modules.SimCLRProjectionHead(WIDTH, 32, 16), loss.NTXentLoss()),
    "BarlowTwins": lambda: TwoViews(modules.BarlowTwinsProjectionHead(WIDTH, 64, 64), loss.BarlowTwinsLoss()),
    "VICReg": lambda: TwoViews(modules.heads.VICRegProjectionHead(WIDTH, 64, 64), loss.VICRegLoss()),
    "SimSiam": SimSiam,
    "BYOL": lambda: Momentum(
        modules.BYOLProjectionHead(WIDTH, 32, 16),
        loss.NegativeCosineSimilarity(),
        modules.BYOLPredictionHead(16, 32, 16),
    ),
    "MoCo": lambda: Momentum(modules.MoCoProjectionHead(WIDTH, 32, 16), loss.NTXentLoss(memory_bank_size=(64, 16))),
    "SwaV": SwaV,
    "DINO": DINO,
    "NNCLR": NNCLR,
}
FITS = {name: partial(fit, make) for name, make in MAKE.items()}
