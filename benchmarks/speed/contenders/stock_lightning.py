"""Lightning as its tutorials use it: `self.log` in the step, torchmetrics, and what a Trainer attaches by default."""

import tempfile
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from benchmarks.speed.contenders import LogProbabilities
from benchmarks.speed.contenders.laps import Laps
from benchmarks.speed.contenders.torch_parts import answers, make_network, tensors
from benchmarks.speed.shapes import CLASSES, MOMENTUM, Job
from benchmarks.speed.stopwatch import Stopwatch


class Classifier(pl.LightningModule):
    """The module of the tutorials."""

    def __init__(self, in_features: int, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.network = make_network(in_features)
        self.train_accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.val_accuracy = MulticlassAccuracy(CLASSES, average="micro")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self.network(x)
        loss = cross_entropy(logits, y)
        self.train_accuracy(logits, y)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_accuracy", self.train_accuracy, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self.network(x)
        self.val_accuracy(logits, y)
        self.log("val_loss", cross_entropy(logits, y), prog_bar=True)
        self.log("val_accuracy", self.val_accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr, MOMENTUM)


def fit(job: Job, watch: Stopwatch) -> LogProbabilities:
    x, y, val_x, val_y = tensors(job)
    pl.seed_everything(job.seed, verbose=False)
    Laps.watch = watch
    with tempfile.TemporaryDirectory() as root:
        watch.start()
        train = DataLoader(TensorDataset(x, y), job.shape.batch, shuffle=True)
        val = DataLoader(TensorDataset(val_x, val_y), job.shape.batch)
        trainer = pl.Trainer(
            max_epochs=job.shape.epochs, accelerator="cpu", default_root_dir=root, callbacks=[Laps()]
        )  # fmt: skip
        module = Classifier(x.shape[1], job.shape.lr)
        trainer.fit(module, train, val)
        watch.stop()
    return answers(module.network)
