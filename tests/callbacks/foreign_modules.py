"""LightningModules that are not ours, each with a habit. What they log is known in advance: it can be checked."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ROWS, BATCH = 24, 4
LIGHTNINGS_WARNINGS = [
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:`training_step` returned `None`"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


def train_at(epoch):
    return 2.0 / (epoch + 1)


def val_at(epoch):
    return 2.5 / (epoch + 1) + 0.02 * epoch**2


def loader(shuffle=False):
    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x), batch_size=BATCH, shuffle=shuffle)


class Memory(Logger):
    """Keeps every row."""

    name, version = "memory", 0

    def __init__(self):
        super().__init__()
        self.rows = {}

    def log_metrics(self, metrics, step=None):
        self.rows.setdefault(step, {}).update(metrics)

    def log_hyperparams(self, *args, **kwargs):
        pass

    def named(self, tag):
        return {step: row[tag] for step, row in self.rows.items() if tag in row}


class Plain(pl.LightningModule):
    """Logs both losses over the epoch; dropout and batch norm would show whoever touches the weights' course."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))

    def batch_loss(self, batch):
        return (self.net(batch[0]) - 1).square().mean()

    def training_step(self, batch, batch_idx):
        self.log_train(batch_idx)
        return self.batch_loss(batch)

    def log_train(self, batch_idx):
        self.log("train_loss", train_at(self.current_epoch), on_step=False, on_epoch=True)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", 9.0 if self.trainer.sanity_checking else val_at(self.current_epoch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class DictOutputs(Plain):
    def training_step(self, batch, batch_idx):
        return {"loss": super().training_step(batch, batch_idx), "more": [1, 2]}


class NoValidationLoss(Plain):
    def validation_step(self, batch, batch_idx):
        self.log("val_score", 0.5)


class NoValidation(Plain):
    validation_step = None


class LogsNothing(Plain):
    def log_train(self, batch_idx):
        pass

    def validation_step(self, batch, batch_idx):
        pass


class TwoOptimizers(Plain):
    """A GAN: manual optimization, losses that play against each other and are no fit."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.other = nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        for optimizer, net in zip(self.optimizers(), (self.net, self.other), strict=True):
            loss = net(batch[0]).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.log_dict({"g_loss": loss, "d_loss": -loss}, on_step=False, on_epoch=True)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), lr=0.1) for net in (self.net, self.other)]


class LogsLate(Plain):
    """Logs the training loss in its own on_train_epoch_end, which comes after the callbacks'."""

    def log_train(self, batch_idx):
        pass

    def on_train_epoch_end(self):
        self.log("train_loss", train_at(self.current_epoch))


class LogsBySteps(Plain):
    """Logs as most tutorials do: every step by itself."""

    def log_train(self, batch_idx):
        middle = (self.trainer.num_training_batches - 1) / 2
        self.log("train_loss", train_at(self.current_epoch) + 0.1 * (batch_idx - middle))


class LogsStepsAndEpochs(Plain):
    def log_train(self, batch_idx):
        self.log("train_loss", train_at(self.current_epoch), on_step=True, on_epoch=True)


class Slashes(Plain):
    def log_train(self, batch_idx):
        self.log("train/loss", train_at(self.current_epoch), on_step=False, on_epoch=True)

    def validation_step(self, batch, batch_idx):
        self.log_dict({"val/loss": val_at(self.current_epoch), "val/f1": 0.5})


class SometimesNone(Plain):
    """Skips batches, and has no validation loss in odd epochs."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 2 else loss

    def validation_step(self, batch, batch_idx):
        if self.current_epoch % 2 == 0:
            super().validation_step(batch, batch_idx)


class TwoLoaders(Plain):
    def val_dataloader(self):
        return [loader(), loader()]

    def validation_step(self, batch, batch_idx, dataloader_idx):
        self.log("val_loss", val_at(self.current_epoch) + dataloader_idx)


class Memorises(Plain):
    """Its validation loss falls and then rises for good."""

    def validation_step(self, batch, batch_idx):
        epoch = self.current_epoch
        self.log("val_loss", 0.5 + 2.0 * 0.6**epoch + 0.1 * max(0, epoch - 6))


def fit(root, module, monitor=None, *, epochs=6, callbacks=(), ckpt_path=None, logger=False, **kwargs):
    pl.seed_everything(1)
    model = module()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=root,
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, *([monitor] if monitor else [])],
        **kwargs,
    )
    val = None if isinstance(model, NoValidation | TwoLoaders) else loader()
    trainer.fit(model, loader(shuffle=True), val, ckpt_path=ckpt_path, weights_only=True)
    return trainer, model


def curves(monitor):
    return monitor.state_dict()["reader"]["record"]["curves"]


def close(values):
    return [value if value is None else pytest.approx(value, rel=1e-5) for value in values]


def same(one, other):
    """Whether two values of tensors, lists and dicts are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
