"""Modules with habits of their own: names, losses and state that FitMonitor must find, and must not change."""

import copy
import importlib
import re
from collections import deque

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import (
    LIGHTNINGS_WARNINGS,
    Memorises,
    Plain,
    TwoLoaders,
    close,
    curves,
    fit,
    loader,
    same,
    train_at,
    val_at,
)
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.tuner import Tuner
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchmetrics import MeanMetric, MetricCollection

from callbacks import FitMonitor
from callbacks.diagnosis.verdict import Fit

pytestmark = [*LIGHTNINGS_WARNINGS, pytest.mark.filterwarnings("ignore:Trainer already configured with model summary")]
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
TRAIN, VAL = [train_at(e) for e in range(6)], [val_at(e) for e in range(6)]


def named(train, val, *, on_step=False):
    class Named(Plain):
        def log_train(self, batch_idx):
            self.log(train, train_at(self.current_epoch), on_step=on_step, on_epoch=not on_step, prog_bar=on_step)

        def validation_step(self, batch, batch_idx):
            self.log(val, 9.0 if self.trainer.sanity_checking else val_at(self.current_epoch))

    return Named


@pytest.mark.parametrize(
    ("train", "val", "on_step"),
    [
        ("train/loss", "val/loss", False),
        ("loss", "valid_loss", True),
        ("loss", "dev/loss", False),
        ("Training/Loss", "Validation/Loss", False),
        ("tr_loss", "lossVal", True),
    ],
)
def test_the_losses_are_found_under_a_strangers_names(tmp_path, capsys, train, val, on_step):
    monitor = FitMonitor(closing=False)
    fit(tmp_path, named(train, val, on_step=on_step), monitor)
    assert curves(monitor)["train_loss"] == close(TRAIN)
    assert curves(monitor)["val_loss"] == close(VAL)
    assert monitor.state_dict()["reader"]["record"]["names"] == {"train_loss": train, "val_loss": val}
    assert monitor.state_dict()["reader"]["record"]["loss_at_start"] == 9.0
    assert all(line.startswith("FitMonitor: epoch") for line in capsys.readouterr().err.splitlines())


class LogsPartsAndTotal(Plain):
    """A part of the loss is logged in the step, the whole at the epoch's end."""

    def log_train(self, batch_idx):
        self.log("train_kl_loss", 7.0)
        self.log("train/loss", train_at(self.current_epoch), on_step=False, on_epoch=True)

    def validation_step(self, batch, batch_idx):
        self.log_dict({"val_kl_loss": 8.0, "val/loss": val_at(self.current_epoch)})


def test_the_total_is_read_although_a_part_is_logged_first(tmp_path):
    monitor = FitMonitor()
    fit(tmp_path, LogsPartsAndTotal, monitor)
    assert curves(monitor)["train_loss"] == close(TRAIN)
    assert curves(monitor)["val_loss"] == close(VAL)


def test_of_two_loaders_the_first_is_read_which_is_said_once(tmp_path, capsys):
    monitor = FitMonitor(closing=False)
    fit(tmp_path, TwoLoaders, monitor)
    assert curves(monitor)["val_loss"] == close(VAL)
    said = [line for line in capsys.readouterr().err.splitlines() if "dataloader_idx_1" in line]
    assert len(said) == 1
    assert "reads val_loss/dataloader_idx_0, not val_loss/dataloader_idx_1; FitMonitor(val_loss=NAME)" in said[0]


def test_a_name_that_is_asked_for_and_wrong_is_one_line(tmp_path, capsys):
    monitor = FitMonitor(val_loss="vall_loss", closing=False)
    trainer, _ = fit(tmp_path, Plain, monitor)
    assert trainer.current_epoch == 6
    said = [line for line in capsys.readouterr().err.splitlines() if "FitMonitor" in line]
    assert len(said) == 1
    assert "no validation loss: `vall_loss` is not logged; logged: train_loss, val_loss." in said[0]
    assert not any(value is not None for value in curves(monitor)["val_loss"])


class EvaluatesInTraining(Plain):
    """Knows no validation loop: one step is the whole data set, as on a graph."""

    validation_step = None

    def log_train(self, batch_idx):
        super().log_train(batch_idx)
        self.log("val_loss", val_at(self.current_epoch), on_step=False, on_epoch=True)


def test_a_validation_loss_of_the_training_step_is_read(tmp_path):
    monitor = FitMonitor()
    fit(tmp_path, EvaluatesInTraining, monitor, limit_val_batches=0)
    assert curves(monitor)["val_loss"] == close(VAL)


# ------------------------------------------------------------------ its pass over training rows


class Counter:
    def __init__(self):
        self.calls, self.seen = 0, torch.zeros(1)
        self.rng = np.random.default_rng(3)

    def next(self):
        self.calls += 1
        self.seen += 1
        return float(self.rng.normal())


class Remembers(Plain):
    """Whatever it is asked leaves traces, and what it draws from its generators goes into the loss."""

    def __init__(self):
        super().__init__()
        self.metrics = MetricCollection({"a": MeanMetric(), "b": MeanMetric()})
        self.rng, self.own = np.random.default_rng(1), torch.Generator().manual_seed(2)
        self.state = Counter()
        self.history, self.recent, self.nested = [], deque(maxlen=3), {"all": []}
        self.kept = torch.zeros(3)
        self.register_buffer("seen", torch.zeros(2))
        self.last = None

    def trace(self, loss):
        self.metrics.update(loss.detach())
        drawn = self.state.next() + self.rng.normal() + float(torch.rand(1, generator=self.own))
        self.history.append(drawn)
        self.recent.append(drawn)
        self.nested["all"].append(drawn)
        self.kept += 1
        self.seen += 1
        self.last = loss * (1 + 0.1 * drawn + 0.1 * float(self.kept[0] + self.seen[0]) / 100)
        return self.last + 0.1 * float(torch.rand(1)) * self.last

    def training_step(self, batch, batch_idx):
        self.log_train(batch_idx)
        return self.trace(self.batch_loss(batch))

    def evaluation_loss(self, batch):
        np.random.rand()  # the global generator is what it is about
        self.log("train_loss", 77.0)
        self.log_dict({"val_loss": 77.0})
        self.net(batch[0] * 100)
        return self.trace(self.batch_loss(batch))

    def traces(self):
        plain = [self.history, list(self.recent), self.nested, self.state.calls, self.state.seen, self.kept, self.seen]
        states = [self.rng.bit_generator.state, self.state.rng.bit_generator.state, self.own.get_state()]
        metrics = {name: float(metric.mean_value) for name, metric in self.metrics.items()}
        return copy.deepcopy([*plain, *states, metrics, dict(self.state_dict())])


class Augmented(Dataset):
    """Draws from a generator of its own for every row, counts, and keeps what it read."""

    def __init__(self):
        self.rng, self.calls, self.cache = np.random.default_rng(5), 0, {}
        self.rows = loader().dataset.tensors[0]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        self.calls += 1
        self.cache[row] = self.rows[row] + float(self.rng.normal())
        return [self.cache[row]]


class Data(pl.LightningDataModule):
    """Moves batches by a hook with a generator of its own."""

    def __init__(self):
        super().__init__()
        self.dataset, self.rng = Augmented(), np.random.default_rng(7)
        self.collated = 0

    def collate(self, rows):
        self.collated += 1
        return [torch.stack([row[0] for row in rows])]

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=4, shuffle=True, collate_fn=self.collate)

    def val_dataloader(self):
        return loader()

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] + float(self.rng.normal())]


def fit_with_data(root, monitor):
    pl.seed_everything(1)
    model, data = Remembers(), Data()
    trainer = pl.Trainer(max_epochs=3, default_root_dir=root, callbacks=[monitor] if monitor else [], **QUIET)
    trainer.fit(model, datamodule=data)
    states = [data.dataset.rng.bit_generator.state, data.rng.bit_generator.state]
    drawn = [torch.rand(1), np.random.rand()]
    return [*model.traces(), *states, data.dataset.calls, sorted(data.dataset.cache), data.collated, *drawn]


def test_its_pass_over_training_rows_changes_nothing_in_module_and_data(tmp_path, capsys):
    monitor = FitMonitor(train_slice=8)
    alone, watched = fit_with_data(tmp_path / "a", None), fit_with_data(tmp_path / "b", monitor)
    assert [index for index, pair in enumerate(zip(alone, watched, strict=True)) if not same(*pair)] == []
    assert len(curves(monitor)["fair_loss"]) == 3
    assert curves(monitor)["train_loss"] == close(TRAIN[:3])  # none of the 77 that it logs there
    assert "failed" not in capsys.readouterr().err


class WritesIntoWeights(Plain):
    """Its loss is that of clipped weights, and it trains a helper beside."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.helpers = [torch.nn.Linear(3, 1)]

    def evaluation_loss(self, batch):
        type(self).calls += 1
        for part in (self.net, *self.helpers):
            for parameter in part.parameters():
                parameter.data.clamp_(-0.01, 0.01)
        return self.batch_loss(batch)


def test_its_pass_over_training_rows_writes_into_no_weights(tmp_path):
    WritesIntoWeights.calls, monitor = 0, FitMonitor(train_slice=8)
    _, alone = fit(tmp_path / "a", WritesIntoWeights)
    _, watched = fit(tmp_path / "b", WritesIntoWeights, monitor)
    assert same(dict(alone.state_dict()), dict(watched.state_dict()))
    assert same(dict(alone.helpers[0].state_dict()), dict(watched.helpers[0].state_dict()))
    assert len(curves(monitor)["fair_loss"]) == 6
    assert WritesIntoWeights.calls == 0


class Fails(Plain):
    def evaluation_loss(self, batch):
        torch.rand(1)
        raise ValueError("oh")


def test_a_pass_that_fails_is_one_line_and_leaves_the_random_numbers(tmp_path, capsys):
    _, alone = fit(tmp_path / "a", Fails)
    trainer, watched = fit(tmp_path / "b", Fails, FitMonitor(train_slice=8))
    assert trainer.current_epoch == 6
    assert same(dict(alone.state_dict()), dict(watched.state_dict()))
    said = [line for line in capsys.readouterr().err.splitlines() if "failed" in line]
    assert said == ["FitMonitor: evaluating the slice of training rows failed (ValueError: oh); training goes on."]


# ------------------------------------------------------------------ what it survives


class Rows(IterableDataset):
    def __iter__(self):
        return iter(loader().dataset)


class KnowsNoBaseline(Plain):
    @property
    def baseline_loss(self):
        raise RuntimeError("not yet")


class PutsItsOwn(Plain):
    """Writes what is no tensor of one number where metrics stand."""

    def on_train_batch_start(self, batch, batch_idx):
        self.trainer.callback_metrics["train_loss_extra"] = 3.0
        self.trainer.callback_metrics["val_matrix"] = torch.zeros(2, 2)
        self.trainer.callback_metrics["val_words"] = "many"


@pytest.mark.parametrize(
    ("module", "flags", "validated"),
    [
        (KnowsNoBaseline, {}, 6),
        (PutsItsOwn, {}, 6),
        (Plain, {"check_val_every_n_epoch": 2}, 3),
        (Plain, {"val_check_interval": 0.25}, 6),
        (Plain, {"max_steps": 15, "epochs": -1}, 2),
        (Plain, {"limit_val_batches": 0}, 0),
        (Plain, {"num_sanity_val_steps": 0}, 6),
    ],
)
def test_a_fit_of_another_kind_goes_on_and_is_judged(tmp_path, capsys, module, flags, validated):
    monitor = FitMonitor(train_slice=4)
    fit(tmp_path, module, monitor, **flags)
    assert sum(value is not None for value in curves(monitor)["val_loss"]) == validated
    assert monitor.diagnosis is not None
    assert monitor.last_word
    assert "failed" not in capsys.readouterr().err


def test_it_survives_rows_without_a_length_and_fits_one_after_the_other(tmp_path, capsys):
    monitor = FitMonitor(train_slice=4)
    trainer = pl.Trainer(max_epochs=2, default_root_dir=tmp_path, callbacks=[monitor], **QUIET)
    model, rows = Plain(), DataLoader(Rows(), batch_size=4)
    trainer.validate(model, loader(), verbose=False)
    trainer.fit(model, rows, loader())
    trainer.fit_loop.max_epochs = 6
    trainer.fit(model, rows, loader())
    assert curves(monitor)["val_loss"] == close(VAL)
    assert curves(monitor)["train_loss"] == close(TRAIN)
    assert "failed" not in capsys.readouterr().err


def test_it_survives_a_search_of_the_rate_before_the_fit(tmp_path):
    class HasARate(Plain):
        lr = 0.1

    monitor = FitMonitor()
    trainer = pl.Trainer(max_epochs=6, default_root_dir=tmp_path, callbacks=[monitor], **QUIET)
    model = HasARate()
    Tuner(trainer).lr_find(model, loader(), loader(), num_training=4)
    trainer.fit(model, loader(), loader())
    assert curves(monitor)["val_loss"] == close(VAL)


class Likelihood(Plain):
    """Its loss is a negative log-likelihood, which falls below zero."""

    def log_train(self, batch_idx):
        self.log("train_nll_loss", -1.0 + train_at(self.current_epoch), on_step=False, on_epoch=True)

    def validation_step(self, batch, batch_idx):
        self.log("val_nll_loss", -1.0 + 2.2 / (self.current_epoch + 1))


def test_a_loss_below_zero_is_judged_like_any_other(tmp_path):
    monitor = FitMonitor()
    fit(tmp_path, Likelihood, monitor, epochs=20)
    assert monitor.diagnosis.fit in (Fit.GOOD, Fit.UNDERFIT)


# ------------------------------------------------------------------ its words


@pytest.mark.parametrize("module", [Plain, Memorises, Likelihood, TwoLoaders])
def test_a_strangers_advice_names_no_flags(tmp_path, capsys, module):
    monitor = FitMonitor()
    fit(tmp_path, module, monitor, epochs=20)
    assert monitor.diagnosis.advice
    assert not re.search(r"--\w", capsys.readouterr().err)


def test_the_advice_names_the_flags_that_are_there(tmp_path):
    monitor = FitMonitor()
    monitor.flags = ["trainer.max_epochs", "model.dropout", "optimizer.weight_decay"]
    fit(tmp_path, Memorises, monitor, epochs=30)
    advice = " ".join(monitor.diagnosis.advice)
    named = set(re.findall(r"--[\w.]+", advice))
    assert named
    assert named <= {f"--{flag}" for flag in monitor.flags}


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_the_checkpoint_of_either_package_is_named(tmp_path, package):
    lightning = pytest.importorskip(package)
    callbacks = importlib.import_module(f"{package}.callbacks")

    class Memory(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(3, 1)

        def training_step(self, batch, batch_idx):
            loss = self.net(batch[0]).square().mean()
            self.log("loss", loss)
            return loss

        def validation_step(self, batch, batch_idx):
            self.log("valid/loss", 0.5 + 2.0 * 0.6**self.current_epoch + 0.1 * max(0, self.current_epoch - 6))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.02)

    monitor, saver = FitMonitor(), callbacks.ModelCheckpoint(tmp_path, "best", monitor="valid/loss")
    trainer = lightning.Trainer(max_epochs=30, default_root_dir=tmp_path, callbacks=[saver, monitor], **QUIET)
    trainer.fit(Memory(), loader(), loader())
    assert monitor.diagnosis.fit is Fit.OVERFIT
    assert monitor.last_word.endswith(f"keep         {tmp_path / 'best.ckpt'}")


class KeepsItsOwn(Checkpoint):
    """A user's own, that says nothing of what it kept."""


@pytest.mark.parametrize(
    ("saver", "flags"),
    [
        (lambda path: ModelCheckpoint(path, "top", monitor="val_score", mode="max"), {}),
        (lambda path: ModelCheckpoint(path, "none", monitor="val_loss", save_top_k=0), {}),
        (lambda path: KeepsItsOwn(), {}),
        (None, {"enable_checkpointing": False}),
    ],
)
def test_without_a_checkpoint_of_the_best_epoch_it_says_how_to_have_one(tmp_path, saver, flags):
    class Scores(Memorises):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.log("val_score", float(self.current_epoch))

    monitor = FitMonitor()
    fit(tmp_path, Scores, monitor, epochs=30, callbacks=[saver(tmp_path)] if saver else [], **flags)
    best = f"the weights of epoch {monitor.diagnosis.best_epoch}"
    assert monitor.last_word.splitlines()[-1] == (
        f"keep         {best}; ModelCheckpoint(monitor='val_loss') would have kept the best ones"
    )


def test_where_every_epoch_is_kept_that_of_the_best_is_named(tmp_path):
    monitor = FitMonitor()
    fit(tmp_path, Memorises, monitor, epochs=20, callbacks=[ModelCheckpoint(tmp_path / "all", save_top_k=-1)])
    kept = monitor.last_word.splitlines()[-1].removeprefix("keep         ")
    assert kept.startswith(str(tmp_path / "all" / f"epoch={monitor.diagnosis.best_epoch}-"))
