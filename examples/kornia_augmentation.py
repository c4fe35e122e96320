"""A kornia augmentation pipeline on the device: each batch of handwritten digits is turned, shifted and partly hidden.

python examples/kornia_augmentation.py
"""

import sys
from importlib.util import find_spec

if find_spec("kornia") is None:
    sys.stderr.write("kornia_augmentation.py needs kornia: pip install kornia\n")
    sys.exit(2)

import pytorch_lightning as pl
import torch
from kornia.augmentation import AugmentationSequential, RandomAffine, RandomErasing
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from callbacks import FitMonitor, GradientLogger, GradientMonitor, GraphLogger


class AugmentedModule(pl.LightningModule):
    """A small convolutional network; what it trains on is never the same twice."""

    def __init__(self) -> None:
        super().__init__()
        self.augment = AugmentationSequential(
            RandomAffine(degrees=12.0, translate=(0.1, 0.1), p=0.7), RandomErasing(scale=(0.02, 0.1), p=0.3)
        )
        self.network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
        )

    def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> list[Tensor]:
        """Augment on the device, in training alone."""
        images, labels = batch
        return [self.augment(images), labels] if self.trainer.training else batch

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = functional.cross_entropy(self.network(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self.network(images)
        self.log("val_loss", functional.cross_entropy(logits, labels))
        self.log("val_accuracy", (logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def main() -> None:
    pl.seed_everything(0)
    digits = load_digits()
    images = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.as_tensor(digits.target)
    train, val = train_test_split(range(len(labels)), test_size=0.3, random_state=0, stratify=labels)
    loaders = [
        DataLoader(TensorDataset(images[rows], labels[rows]), batch_size=64, shuffle=rows is train)
        for rows in (train, val)
    ]
    watchers = [FitMonitor(), GradientMonitor(), GradientLogger(), GraphLogger()]
    trainer = pl.Trainer(max_epochs=6, callbacks=watchers, enable_progress_bar=False)
    trainer.fit(AugmentedModule(), *loaders)
    print("reached", {k: round(float(v), 4) for k, v in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()
