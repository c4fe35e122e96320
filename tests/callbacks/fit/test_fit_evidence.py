import json
import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import LIGHTNINGS_WARNINGS, Memorises, Plain, TwoOptimizers, fit, same
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset
from two_ranks import run_ranks

from callbacks import FitMonitor
from callbacks.diagnosis.evidence import Evidence, Settings
from callbacks.fit import evidence
from callbacks.fit.reader import train_eval_loss
from datamodules import TabularDataModule
from lightning_mods import MLPClassifier, MLPEnsemble, MLPRegressor
from lightning_mods.runs.checkpoints import BestCheckpoint, LastCheckpoint

pytestmark = LIGHTNINGS_WARNINGS


def classifier(data, **settings):
    return MLPClassifier(data.in_features, data.num_classes, data.class_counts, hidden_sizes=(8, 4), **settings)


def regressor(data, **settings):
    return MLPRegressor(data.in_features, data.target_mean, data.target_std, hidden_sizes=(8,), **settings)


def ensemble(data, **settings):
    return MLPEnsemble.of(classifier(data, **settings), 3)


def train(folder, make, path="iris", *, epochs=4, monitor=None, callbacks=(), ckpt_path=None, trainer=(), **settings):
    """Fit a model of ours; return the evidence, the model and what its every validation found."""
    pl.seed_everything(1)
    data = TabularDataModule(path, batch_size=32)
    model, monitor, watch = make(data, **settings), monitor or FitMonitor(closing=False, plot=False), Watch()
    fitting = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch, *([monitor] if monitor != "none" else []), *callbacks],
        **dict(trainer),
    )
    fitting.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    found = json.loads(next(folder.rglob("diagnosis.json")).read_text())["evidence"] if monitor != "none" else None
    return found, model, watch.seen


class Watch(pl.Callback):
    def __init__(self):
        self.seen = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.seen.append((float(trainer.callback_metrics["val_loss"]), pl_module.val_row_losses.numpy().copy()))


CASES = [
    ("iris", classifier, {"lr": 0.5, "ema_epochs": 1, "dropout": 0.1}, 22),
    ("iris", classifier, {"lr": 0.5, "class_weight": [1.0, 4.0, 0.5]}, 22),
    ("diabetes", regressor, {"lr": 0.02}, 66),
    ("iris", ensemble, {"lr": 0.5}, 22),
]


@pytest.mark.parametrize(("path", "make", "settings", "rows"), CASES, ids=["averaged", "weighted", "numbers", "many"])
def test_the_error_of_the_loss_and_of_its_rise_come_from_the_same_rows(tmp_path, path, make, settings, rows):
    found, model, seen = train(tmp_path, make, path, epochs=17, **settings)
    for loss, losses in seen:
        assert len(losses) == rows
        assert losses.mean() == pytest.approx(loss, rel=1e-5)
    best, latest = (losses for _, losses in (min(seen, key=lambda one: one[0]), seen[-1]))
    if make is not ensemble:  # its best is that of its own loss
        assert found["rise_error"] == pytest.approx(np.std(latest - best, ddof=1) / math.sqrt(rows), rel=1e-4)
    assert found["rise_error"] >= 0
    assert found["val_error"] == pytest.approx(np.std(latest, ddof=1) / math.sqrt(rows), rel=1e-4)
    assert found["val_rows"] == rows
    assert found["reference_loss"] is None
    x, y = TabularDataModule(path, batch_size=32).train_dataloader().dataset[:]
    with torch.no_grad():  # all rows, after so many epochs
        assert found["fair_train_loss"] == pytest.approx(float(model.eval().evaluation_loss((x, y))), rel=1e-5)


def test_the_error_of_a_weighted_loss_is_that_of_a_ratio():
    model = MLPClassifier(2, 2, hidden_sizes=[], class_weight=[1.0, 3.0])
    losses, weights = torch.tensor([0.5, 0.1, 2.0, 1.0]), torch.tensor([1.0, 3.0, 3.0, 1.0])
    model._eval_rows = [(losses[:3], weights[:3]), (losses[3:], weights[3:])]
    model._eval_sums = torch.stack([(losses * weights).sum(), weights.sum(), torch.tensor(4.0)])
    found = model.val_row_losses.numpy()
    mean = float((losses * weights).sum() / weights.sum())
    assert found.mean() == pytest.approx(mean)
    off = (weights * (losses - mean)).numpy()
    assert found.std() == pytest.approx(math.sqrt(np.square(off).mean()) / 2)  # the mean weight is 2


def test_a_loss_of_somebodys_own_has_no_rows_of_ours():
    class Own(MLPRegressor):
        def loss(self, outputs, y):
            return outputs.abs().mean()

    assert Own(3).row_losses(torch.ones(2, 1), torch.ones(2)) is None
    assert MLPRegressor(3).row_losses(torch.ones(2, 1), torch.zeros(2)).tolist() == [1, 1]


def test_the_settings_of_our_modules_are_known(tmp_path):
    settings = {
        "lr": 0.2,
        "momentum": 0.5,
        "weight_decay": 0.01,
        "dropout": 0.3,
        "ema_epochs": 2,
        "lr_schedule": "cosine",
    }
    saver = ModelCheckpoint(tmp_path / "checkpoints", monitor="val_loss")
    clip = {"gradient_clip_val": 0.3}
    found, *_ = train(tmp_path, classifier, epochs=2, callbacks=[saver], trainer=clip, **settings)
    known = {name: value for name, value in found["settings"].items() if name in settings}
    assert known == {**settings, "lr": 0.2}  # at the start: by now the cosine has it at 0
    rest = {name: value for name, value in found["settings"].items() if name not in settings}
    assert rest == {
        "optimizer": "sgd",
        "hidden_sizes": [8, 4],
        "batch_size": 32,
        "max_epochs": 2,
        "clip": 0.3,
        "members": 1,
        "train_rows": 106,
        "in_features": 4,
        "classes": 3,
    }
    assert found["keeps_best"]
    assert found["rise_error"] == 0.0 or found["val_error"] > 0


def test_those_of_an_ensemble_and_of_numbers_too(tmp_path):
    found, *_ = train(tmp_path / "a", ensemble, epochs=1, dropout=0.2)
    assert {n: found["settings"][n] for n in ("members", "hidden_sizes", "dropout", "classes")} == {
        "members": 3,
        "hidden_sizes": [8, 4],
        "dropout": 0.2,
        "classes": 3,
    }
    assert not found["keeps_best"]
    found, *_ = train(tmp_path / "b", regressor, "diabetes", epochs=1)
    assert (found["settings"]["classes"], found["settings"]["in_features"]) == (0, 10)


def of(folder, module, monitor=None, **how):
    monitor = monitor or FitMonitor(closing=False)
    fit(folder, module, monitor, **{"epochs": 2, **how})
    return monitor._evidence


def test_a_strangers_module_tells_what_its_trainer_and_its_layers_do(tmp_path):
    found = of(tmp_path, Plain)
    assert found == Evidence(
        settings=Settings(
            optimizer="sgd",
            lr=0.1,
            momentum=0,
            weight_decay=0,
            dropout=0.3,
            hidden_sizes=(8,),
            batch_size=4,
            max_epochs=2,
            lr_schedule="constant",
            clip=0,
            train_rows=24,
            in_features=3,
        )
    )


class Tells(Plain):
    def training_settings(self):
        return {"members": 2, "hidden_sizes": [5], "lr": "high", "classes": -1, "clip": math.nan, "colour": "red"}

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.1)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)]


def test_what_a_module_says_counts_if_it_can_be(tmp_path):
    settings = of(tmp_path, Tells, max_steps=9, epochs=-1).settings
    assert (settings.members, settings.hidden_sizes) == (2, (5,))
    assert (settings.optimizer, settings.lr, settings.weight_decay) == ("adam", None, 0.1)
    assert (settings.lr_schedule, settings.momentum, settings.max_epochs) == ("cosine", None, None)
    assert (settings.classes, settings.clip) == (None, None)


class Breaks(TwoOptimizers):
    @property
    def val_row_losses(self):
        raise SystemError("nothing of yours")

    def training_settings(self):
        raise ValueError("nothing of yours")


def test_nothing_that_a_module_does_instead_of_telling_ends_a_fit(tmp_path, capsys):
    settings = of(tmp_path, Breaks).settings
    assert (settings.optimizer, settings.lr, settings.batch_size) == (None, None, 4)
    assert "failed" not in capsys.readouterr().err


class Rows(Memorises):
    """Tells its rows, of which the first gets worse by more than the loss does, the others hardly."""

    @property
    def val_row_losses(self):
        loss = float(self.trainer.callback_metrics["val_loss"])
        return loss + 0.01 * self.current_epoch * torch.tensor([1.0, -1.0, 0.0])


def test_any_module_may_have_rows(tmp_path):
    found = of(tmp_path, Rows, epochs=12)
    assert found.val_rows == 3
    assert found.val_error == pytest.approx(0.11 / math.sqrt(3), rel=1e-4)
    assert found.rise_error == pytest.approx(0.05 / math.sqrt(3), rel=1e-3)  # epoch 6 was the best


class Explodes(Memorises):
    @property
    def val_row_losses(self):
        return torch.tensor([1.0, math.inf, math.nan if self.current_epoch else 2.0])


def test_what_is_no_number_has_no_error(tmp_path):
    found = of(tmp_path, Explodes)
    assert (found.val_rows, found.val_error, found.rise_error) == (3, None, None)


def test_of_very_many_rows_an_evenly_spaced_part_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "MOST_ROWS", 100)

    class Many(Memorises):
        @property
        def val_row_losses(self):
            return torch.arange(1000.0)

    monitor = FitMonitor(closing=False)
    found = of(tmp_path, Many, monitor)
    kept = monitor.state_dict()["reader"]["evidence"]["rows"]
    assert kept["latest"].tolist() == list(range(0, 1000, 10))
    assert found.val_rows == 1000
    assert found.val_error == pytest.approx(np.std(np.arange(1000), ddof=1) / math.sqrt(1000), rel=0.02)


class Kill(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (7, 1):
            raise RuntimeError("killed")


@pytest.mark.parametrize("make", [classifier, ensemble])
def test_an_interrupted_fit_ends_with_the_evidence_of_the_whole_one(tmp_path, make):
    how = {"epochs": 12, "lr": 0.5, "dropout": 0.2, "lr_schedule": "cosine", "ema_epochs": 1}
    whole, resumed = FitMonitor(closing=False, plot=False), FitMonitor(closing=False, plot=False)
    savers = lambda: [BestCheckpoint(), LastCheckpoint()]  # noqa: E731
    found, *_ = train(tmp_path / "whole", make, monitor=whole, callbacks=savers(), **how)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "cut", make, callbacks=[*savers(), Kill()], **how)
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    again, *_ = train(tmp_path / "cut", make, monitor=resumed, callbacks=savers(), ckpt_path=last, **how)
    assert again == found
    assert same(resumed.state_dict(), whole.state_dict())


def test_a_checkpoint_from_before_there_was_evidence_is_gone_on_with(tmp_path):
    saver = ModelCheckpoint(tmp_path / "checkpoints", "end", save_on_train_epoch_end=True)
    fit(tmp_path, Rows, FitMonitor(closing=False), callbacks=[saver], epochs=2)
    kept = torch.load(tmp_path / "checkpoints" / "end.ckpt", weights_only=True)
    del next(state for key, state in kept["callbacks"].items() if key.startswith("FitMonitor"))["reader"]["evidence"]
    torch.save(kept, tmp_path / "old.ckpt")
    found = of(tmp_path, Rows, epochs=4, ckpt_path=tmp_path / "old.ckpt")
    assert found.val_rows == 3
    assert found.settings.lr == 0.1


class Sees(pl.Callback):
    """Notes the random numbers that would come next."""

    def on_train_end(self, trainer, pl_module):
        self.state = torch.get_rng_state()


def test_weights_and_random_numbers_are_those_without_it(tmp_path):
    ends = [Sees(), Sees()]
    how = {"epochs": 6, "lr": 0.3, "dropout": 0.3, "ema_epochs": 1}
    _, watched, _ = train(tmp_path / "a", classifier, callbacks=ends[:1], **how)
    _, alone, _ = train(tmp_path / "b", classifier, monitor="none", callbacks=ends[1:], **how)
    assert same(dict(watched.state_dict()), dict(alone.state_dict()))
    assert torch.equal(ends[0].state, ends[1].state)


class Helps(Memorises):
    def evaluation_loss(self, batch):
        return self.batch_loss(batch) + 10 * len(batch[0])


def test_training_rows_are_evaluated_once_and_cost_little(tmp_path, monkeypatch):
    asked = []
    for room in ("monitor", "reader"):
        monkeypatch.setattr(
            f"callbacks.fit.{room}.train_eval_loss", lambda *args: asked.append(args[2]) or train_eval_loss(*args)
        )
    found = of(tmp_path, Helps, epochs=9)
    assert asked == [math.ceil(0.06 * 9 * 24)]
    assert found.fair_train_loss == pytest.approx(130, abs=5)
    monitor = FitMonitor(closing=False, train_slice=24)
    found = of(tmp_path, Helps, monitor, epochs=3)
    assert asked[1:] == [24] * 3
    assert found.fair_train_loss == monitor.state_dict()["reader"]["record"]["curves"]["fair_loss"][-1]


SCRIPT = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import pytorch_lightning as pl
from callbacks import FitMonitor
from test_fit_evidence import classifier
from datamodules import TabularDataModule

if __name__ == "__main__":
    pl.seed_everything(1)
    data = TabularDataModule("iris", batch_size=16)
    monitor = FitMonitor(closing=False, plot=False)
    trainer = pl.Trainer(max_epochs=5, accelerator="cpu", devices=2, strategy="ddp", logger=False,
                         default_root_dir=sys.argv[1], enable_progress_bar=False, enable_model_summary=False,
                         callbacks=[monitor])
    trainer.fit(classifier(data, lr=0.5, class_weight=[1.0, 3.0, 1.0]), data)
    rows = monitor.state_dict()["reader"]["evidence"]["rows"]
    Path(sys.argv[1], f"rank{trainer.global_rank}").write_text(repr((monitor._evidence, rows["latest"].tolist())))
    Path(sys.argv[1], f"loss{trainer.global_rank}").write_text(str(float(trainer.callback_metrics["val_loss"])))
"""


def test_two_ranks_know_the_same_rows(tmp_path):
    run_ranks(tmp_path, SCRIPT, tmp_path)
    zero, one = ((tmp_path / f"rank{rank}").read_text() for rank in (0, 1))
    assert zero == one
    names = {"Evidence": Evidence, "Settings": Settings}
    found, rows = eval(zero, names)  # noqa: S307  # our own words
    assert len(rows) == found.val_rows == 22
    assert np.mean(rows) == pytest.approx(float((tmp_path / "loss1").read_text()), rel=1e-5)
    assert found.val_error == pytest.approx(np.std(rows, ddof=1) / math.sqrt(22), rel=1e-4)
    assert found.rise_error is not None
    assert found.fair_train_loss > 0


class Stream(IterableDataset):
    def __iter__(self):
        return ([row] for row in torch.ones(8, 3))


def test_a_stream_of_rows_has_no_slice_of_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("foreign_modules.loader", lambda **how: DataLoader(Stream(), batch_size=2))
    found = of(tmp_path, Helps)
    assert (found.fair_train_loss, found.settings.train_rows, found.settings.batch_size) == (None, None, 2)
    assert "train_slice" not in capsys.readouterr().err
