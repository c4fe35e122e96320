"""Modules that call their losses what they like: every verb finds them without being told."""

import json
import re

import pytest
import pytorch_lightning as pl
import torch
from optuna import load_study
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from torch.utils.data import DataLoader, TensorDataset
from verbs_here import do, succeed

from callbacks.diagnosis.names import TEST, VAL, unstaged
from lightning_mods.cli.flags import is_high

# Lightning 2.6 itself calls names that jsonargparse 5 will drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

LOWEST = 2  # the epoch of the lowest validation loss


class Net(pl.LightningModule):
    """Its validation loss is lowest in the third epoch; what it logs is called what its arguments say."""

    def __init__(
        self, train: str, val: str, test: str, acc: str = "val/acc", lr: float = 0.1, in_steps: bool = False
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(3, 1)

    def logs(self, name, value):
        self.log(name, value, on_step=self.hparams.in_steps, on_epoch=True)

    def training_step(self, batch, batch_idx):
        loss = (self.net(batch[0]).squeeze(1) - batch[1]).square().mean()
        self.logs(self.hparams.train, loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.logs(self.hparams.val, 1.0 + (self.current_epoch - LOWEST) ** 2)
        self.log(self.hparams.acc, 0.5)

    def test_step(self, batch, batch_idx):
        self.logs(self.hparams.test, 3.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.hparams.lr)


class Data(pl.LightningDataModule):
    def __init__(self, batch_size: int = 16) -> None:
        super().__init__()
        self.batch_size = batch_size
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        self.rows = TensorDataset(x, x.sum(1))

    def train_dataloader(self):
        return DataLoader(self.rows, batch_size=self.batch_size)

    def val_dataloader(self):
        return DataLoader(self.rows, batch_size=32)

    test_dataloader = val_dataloader


def command(root, names, *flags):
    flags = [f"--model.{name}={value}" for name, value in names.items()] + list(flags)
    classes = [f"--model={__name__}.Net", f"--data={__name__}.Data", "--trainer.accelerator=cpu"]
    return [*classes, f"--trainer.default_root_dir={root}", *flags]


def rows(table):
    """The first column of a table, and the numbers of each of its rows."""
    found = [re.split(r"\s{2,}", line) for line in table.splitlines() if re.search(r"\s(–|0\.5|1|3|5)$", line)]
    return {name: [float(cell) for cell in cells if cell != "–"] for name, *cells in found}


NAMES = [
    {"train": "train/loss", "val": "val/loss", "test": "test/loss"},
    {"train": "loss/train", "val": "loss/val", "test": "loss/test", "acc": "acc/val"},
    {"train": "train_loss", "val": "valid_loss", "test": "test_loss", "acc": "valid_acc", "in_steps": "true"},
    {"train": "loss", "val": "validation_loss", "test": "testLoss", "in_steps": "true"},
    {"train": "tr_loss", "val": "eval_loss", "test": "eval_loss", "acc": "eval_acc"},
]
IDS = [names["val"] for names in NAMES]


@pytest.mark.parametrize("names", NAMES, ids=IDS)
def test_fit_validate_and_test_find_the_losses_under_a_strangers_names(tmp_path, names):
    flags = command(tmp_path, names, "--trainer.logger=false")
    out, err = succeed("fit", *flags, "--trainer.max_epochs=9", "--patience=3")
    table, _ = out.split("verdict  ")
    assert rows(table) == {"loss": [1, 3], "acc": [0.5]}
    assert f"epoch        {LOWEST} (of 0 to {LOWEST + 3})" in table  # BestCheckpoint, and Patience
    assert "stopped: no lower validation loss for 3 epochs" in err
    assert "FitMonitor finds no" not in err
    said = json.loads(next(tmp_path.rglob("diagnosis.json")).read_text())
    known = {name: logged.removesuffix("_epoch") for name, logged in said["logged_as"].items()}
    assert known == {"train_loss": names["train"], "val_loss": names["val"], "metric": names.get("acc", "val/acc")}
    assert said["curves"]["val_loss"] == [5, 2, 1, 2, 5, 10]
    assert None not in said["curves"]["train_loss"]
    assert rows(succeed("test", *flags)[0]) == {"loss": [3]}
    assert rows(succeed("validate", *flags)[0]) == {"loss": [5], "acc": [0.5]}  # no epoch is done in its trainer


def trials(root):
    storage = JournalStorage(JournalFileBackend(str(root / "studies/study/study.journal")))
    return load_study(study_name="study", storage=storage).trials


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing takes longer than these trials."""
    monkeypatch.setattr("lightning_mods.study.command.write_pictures", lambda folder, report: folder)


@pytest.mark.parametrize("names", NAMES[:4:3], ids=IDS[:4:3])
@pytest.mark.parametrize("metric", ["val_loss", "[val/acc,val_loss]"])
def test_a_study_finds_the_validation_loss_under_a_strangers_name(tmp_path, undrawn, names, metric):
    flags = command(tmp_path, names, "--trainer.max_epochs=4", "--study.n_trials=2", f"--study.metric={metric}")
    out, _ = succeed("study", *flags, "--trainer.logger=false", "--study.pruner=none", "--study.prune_hopeless=false")
    assert "val_loss" in out
    assert [trial.values for trial in trials(tmp_path)] == [[1.0] if metric == "val_loss" else [0.5, 5.0]] * 2
    assert all(trial.user_attrs["verdict"] != "unknown" for trial in trials(tmp_path))


def test_a_metric_that_is_asked_for_and_not_logged_is_one_line_that_says_what_is(tmp_path, undrawn):
    flags = command(tmp_path, NAMES[0], "--trainer.max_epochs=1", "--study.n_trials=2", "--study.metric=vall_loss")
    code, _, err = do("study", *flags)
    (line,) = [line for line in err.splitlines() if "note:" not in line]
    assert code == 2
    assert line.startswith("study: ")
    assert line.endswith("reads 'vall_loss', which was not logged; logged were: train/loss, val/acc, val/loss.")


@pytest.mark.parametrize("name", ["val_acc", "acc/val", "valid/F1", "val_acc_epoch", "r2", "val_auc/dataloader_idx_1"])
def test_what_is_to_be_high_is_told_by_its_name_wherever_the_stage_stands(name):
    assert is_high(name)
    assert not is_high(name.replace("acc", "loss").replace("F1", "mae").replace("r2", "val").replace("auc", "r2_error"))


@pytest.mark.parametrize(
    ("logged", "stage", "short"),
    [
        (["val_loss", "val_loss_epoch"], VAL, {"loss": "val_loss_epoch"}),
        (["validation_loss_epoch", "valid_acc"], VAL, {"loss": "validation_loss_epoch", "acc": "valid_acc"}),
        (["val/std_dev", "Validation/F1Score"], VAL, {"std_dev": "val/std_dev", "f1_score": "Validation/F1Score"}),
        (["loss", "val_loss"], VAL, {"loss": "val_loss"}),
        (["loss/test", "val_loss"], TEST, {"loss": "loss/test"}),
        (["test_loss/dataloader_idx_0", "test_loss/dataloader_idx_1"], TEST,
         {f"loss/dataloader_idx_{i}": f"test_loss/dataloader_idx_{i}" for i in range(2)}),
        (["epoch", "val"], VAL, {"epoch": "epoch", "val": "val"}),
    ],
)  # fmt: skip
def test_a_short_name_lacks_the_stage_and_stands_once(logged, stage, short):
    assert unstaged(logged, stage) == short
