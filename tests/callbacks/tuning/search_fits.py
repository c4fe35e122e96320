"""Fits that a search goes before: a module and a data module that are not ours, and how two fits are compared."""

import warnings

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

WARNINGS = [
    "ignore:The number of training batches",
    "ignore:.*does not have many workers",
    "ignore:.*isinstance.treespec, LeafSpec",
    "ignore:Checkpoint directory",
]


class Foreign(pl.LightningModule):
    """Adam with a scheduler, the rate under another name; dropout draws from the global generator."""

    def __init__(self, learning_rate=1e-3, width=8):
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.net = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, 1))

    def loss(self, batch):
        x, y = batch
        return (self.net(x) - y).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        if self.loggers:
            self.logger.experiment.add_scalar("loss", loss)  # as many modules do, whatever logger there is
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]


class Data(pl.LightningDataModule):
    """Shuffles with the global generator, so the order of its rows tells who else drew from it."""

    def __init__(self, rows_a_batch=5, rows=48):
        super().__init__()
        self.save_hyperparameters()
        self.rows_a_batch = rows_a_batch
        self.rows = rows
        self.setups = 0

    def setup(self, stage):
        self.setups += 1
        made = torch.Generator().manual_seed(0)
        x = torch.randn(self.rows + 16, 3, generator=made)
        y = x.sum(dim=1, keepdim=True) + 0.1 * torch.randn(len(x), 1, generator=made)
        self.train = TensorDataset(x[: self.rows], y[: self.rows])
        self.val = TensorDataset(x[self.rows :], y[self.rows :])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.rows_a_batch, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=16)


def fit(root, module, data, *callbacks, epochs=3, logger=True, ckpt_path=None, checkpoints=False, **kwargs):
    pl.seed_everything(7, verbose=False)
    module = module()
    data = data()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=root,
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=checkpoints,
        callbacks=list(callbacks),
        **kwargs,
    )
    with warnings.catch_warnings():
        for message in WARNINGS:
            warnings.filterwarnings("ignore", message=message.removeprefix("ignore:"))
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def everything(trainer):
    """All that two equal fits have in common."""
    return {
        "weights": trainer.lightning_module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "metrics": dict(trainer.callback_metrics),
        "random": torch.get_rng_state(),
        "steps": trainer.global_step,
    }


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other
