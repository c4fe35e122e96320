import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import LIGHTNINGS_WARNINGS, Memorises, Plain, close, curves, fit, val_at
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from callbacks import FitMonitor
from callbacks.diagnosis.verdict import Fit, diagnose

pytestmark = LIGHTNINGS_WARNINGS


def test_it_stops_an_overfitting_run_and_names_the_checkpoint_to_keep(tmp_path, capsys):
    monitor = FitMonitor(stop=True, metric=None)
    best = ModelCheckpoint(tmp_path, "best", monitor="val_loss")
    trainer, _ = fit(tmp_path, Memorises, monitor, epochs=60, callbacks=[best])
    assert 8 < trainer.current_epoch < 30
    assert monitor.diagnosis.fit is Fit.OVERFIT
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == f"keep         {tmp_path / 'best.ckpt'}"
    assert monitor.last_word.endswith(last)


def test_min_epochs_is_the_trainers_word(tmp_path):
    trainer, _ = fit(tmp_path, Memorises, FitMonitor(stop=True), epochs=40, min_epochs=35)
    assert trainer.current_epoch == 35


def lines_of(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("FitMonitor: epoch")]


def test_a_line_is_printed_when_another_verdict_holds_and_only_then(tmp_path, capsys):
    monitor = FitMonitor(closing=False)
    fit(tmp_path, Memorises, monitor, epochs=20)
    verdicts = [line.split(": ")[2].split(" ")[0] for line in lines_of(capsys)]
    assert verdicts[-1] == "overfit"
    assert all(a != b for a, b in pairwise(verdicts))


def test_verdicts_that_come_and_go_are_not_printed_and_of_those_that_stay_three(tmp_path, capsys, monkeypatch):
    fits = [Fit.GOOD, Fit.UNDERFIT] * 5 + [fit for fit in [Fit.GOOD, Fit.OVERFIT] * 4 for _ in range(12)]
    found = diagnose([1.0] * 9, [1.0] * 9)
    monkeypatch.setattr(
        "callbacks.fit.monitor.diagnose", lambda train, *a, **kw: replace(found, fit=fits[len(train) - 1])
    )
    fit(tmp_path, Plain, FitMonitor(closing=False, check_every=1), epochs=len(fits))
    lines = lines_of(capsys)
    assert [line.split(": ")[2].split(" ")[0] for line in lines] == ["good", "overfit", "good"]
    assert lines[0].startswith("FitMonitor: epoch 12:")


class Dips(Plain):
    """Its lowest validation loss is that of the second validation of epoch 4, which is not its epoch's last."""

    def on_train_epoch_start(self):
        self.times = 0

    def validation_step(self, batch, batch_idx):
        if batch_idx == 0:
            self.times = getattr(self, "times", 0) + 1
        is_lowest = self.current_epoch == 4 and self.times == 2
        self.log("val_loss", 0.1 if is_lowest else val_at(self.current_epoch))


def test_the_best_epoch_is_the_one_that_is_kept_where_an_epoch_has_several_validations(tmp_path):
    monitor, best = FitMonitor(), ModelCheckpoint(tmp_path, "best", monitor="val_loss")
    fit(tmp_path, Dips, monitor, callbacks=[best], epochs=7, val_check_interval=0.25)
    assert monitor.diagnosis.best_epoch == torch.load(best.best_model_path, weights_only=True)["epoch"] == 4
    assert "best: epoch 4" in [text.get_text() for text in monitor.figure().axes[1].get_legend().get_texts()]


def test_a_resumed_run_knows_the_epoch_that_was_kept_before(tmp_path):
    def callbacks():
        best = ModelCheckpoint(tmp_path, "best", monitor="val_loss", enable_version_counter=False)
        return [best, ModelCheckpoint(tmp_path, "end", save_on_train_epoch_end=True, enable_version_counter=False)]

    fit(tmp_path, Dips, FitMonitor(), callbacks=callbacks(), epochs=6, val_check_interval=0.25)
    monitor = FitMonitor()
    again = {"ckpt_path": tmp_path / "end.ckpt", "val_check_interval": 0.25}
    fit(tmp_path, Dips, monitor, callbacks=callbacks(), epochs=9, **again)
    assert monitor.diagnosis.best_epoch == 4


def test_without_a_checkpoint_the_best_epoch_is_the_lowest_that_was_logged(tmp_path):
    monitor = FitMonitor()
    fit(tmp_path, Memorises, monitor, epochs=20, enable_checkpointing=False)
    losses = curves(monitor)["val_loss"]
    assert monitor.diagnosis.best_epoch == losses.index(min(losses))


def test_diagnosis_json_stands_beside_the_checkpoints(tmp_path):
    monitor = FitMonitor()
    fit(tmp_path, Memorises, monitor, epochs=20, callbacks=[ModelCheckpoint(tmp_path / "here", "a")])
    said = json.loads((tmp_path / "here" / "diagnosis.json").read_text())
    found = monitor.diagnosis
    assert said["fit"] == found.fit == diagnose(said["curves"]["train_loss"], said["curves"]["val_loss"]).fit
    assert (said["best_epoch"], said["onset_epoch"]) == (found.best_epoch, found.onset_epoch)
    assert said["probabilities"] == found.probabilities
    assert said["advice"] == list(found.advice) == [each["text"] for each in said["plan"]]
    assert [path.name for path in (tmp_path / "here").iterdir() if path.name.startswith(".")] == []


class BreaksOff(Plain):
    """Ends in the middle of an epoch, before its losses are logged, as a monitor does that finds a NaN."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.current_epoch == 3 and batch_idx == 1:
            self.trainer.should_stop = True
            return loss * math.nan
        return loss

    def log_train(self, batch_idx):
        if self.current_epoch < 3:
            super().log_train(batch_idx)


def test_an_epoch_that_is_broken_off_by_a_nan_is_an_explosion(tmp_path):
    monitor = FitMonitor()
    fit(tmp_path, BreaksOff, monitor, epochs=9)
    assert monitor.diagnosis.fit is Fit.DIVERGED


class Explodes(Plain):
    def log_train(self, batch_idx):
        self.log("train_loss", math.nan if self.current_epoch > 3 else 1.0, on_step=False, on_epoch=True)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", math.nan if self.current_epoch > 3 else val_at(self.current_epoch))


def test_losses_that_are_no_numbers_are_a_verdict_and_null_in_the_file(tmp_path):
    monitor = FitMonitor()
    fit(tmp_path, Explodes, monitor)
    assert monitor.diagnosis.fit is Fit.DIVERGED
    said = json.loads((tmp_path / "checkpoints" / "diagnosis.json").read_text())
    assert said["curves"]["val_loss"][-1] is None


def test_a_failure_of_its_own_is_named_once_and_training_goes_on(tmp_path, capsys, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("callbacks.fit.monitor.diagnose", broken)
    trainer, _ = fit(tmp_path, Plain, FitMonitor())
    assert trainer.current_epoch == 6
    line = "FitMonitor: the diagnosis failed (ZeroDivisionError: oh); training goes on."
    assert capsys.readouterr().err.splitlines().count(line) == 1


class CtrlC(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 15:
            raise KeyboardInterrupt


def test_a_run_that_a_person_interrupts_leaves_its_verdict(tmp_path, capsys):
    with pytest.raises(SystemExit):
        fit(tmp_path, Memorises, FitMonitor(), epochs=20, callbacks=[CtrlC()])
    assert "verdict      overfit" in capsys.readouterr().err
    said = json.loads((tmp_path / "checkpoints" / "diagnosis.json").read_text())
    assert len(said["curves"]["val_loss"]) == 15


def test_a_fast_dev_run_writes_and_says_nothing(tmp_path, capsys):
    fit(tmp_path, Plain, FitMonitor(), fast_dev_run=True)
    assert not list(tmp_path.rglob("diagnosis.json"))
    assert "verdict" not in capsys.readouterr().err


def test_any_logger_gets_the_probabilities_by_epoch(tmp_path):
    logger = CSVLogger(tmp_path)
    fit(tmp_path, Plain, FitMonitor(), logger=logger, log_every_n_steps=1)
    text = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert all(f"fit/probability_{fit}" in text for fit in Fit)


def test_the_baseline_of_the_module_is_used_and_the_argument_before_it(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "callbacks.fit.monitor.diagnose", lambda *a, **kw: seen.append(kw["baseline_loss"]) or diagnose(*a, **kw)
    )
    for module, argument in ((Plain, None), (type("Knows", (Plain,), {"baseline_loss": 2.5}), None), (Plain, 3.5)):
        fit(tmp_path, module, FitMonitor(baseline_loss=argument), epochs=1)
    assert list(dict.fromkeys(seen)) == [None, 2.5, 3.5]


def test_the_reference_of_the_module_is_evidence_and_the_argument_before_it(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "callbacks.fit.monitor.diagnose", lambda *a, **kw: seen.append(kw["evidence"]) or diagnose(*a, **kw)
    )
    knows = type("Knows", (Plain,), {"reference_loss": 0.25})
    fails = type("Fails", (Plain,), {"reference_loss": property(lambda self: 1 / 0)})
    for module, argument in ((fails, None), (knows, None), (knows, 0.5)):
        fit(tmp_path, module, FitMonitor(reference_loss=argument), epochs=1)
    assert list(dict.fromkeys(each.reference_loss for each in seen)) == [None, 0.25, 0.5]
    assert json.loads(next(tmp_path.rglob("diagnosis.json")).read_text())["reference_loss"] in (None, 0.25, 0.5)


def test_loggers_get_the_levels_beside_the_curves(tmp_path):
    logger = CSVLogger(tmp_path)
    monitor = FitMonitor(baseline_loss=3.5, reference_loss=0.25)
    fit(tmp_path, Plain, monitor, logger=logger, log_every_n_steps=1)
    text = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert "fit/baseline_loss" in text
    assert "fit/reference_loss" in text


def test_it_can_be_used_for_one_run_after_another(tmp_path):
    monitor = FitMonitor()
    fit(tmp_path, Memorises, monitor, epochs=9)
    fit(tmp_path, Plain, monitor)
    assert curves(monitor)["val_loss"] == close([val_at(e) for e in range(6)])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"metric_mode": "up"}, "metric_mode must be `max` or `min`, not 'up'"),
        ({"stop_after": 0}, "stop_after must be at least 1, not 0"),
        ({"train_slice": -1}, "train_slice must be at least 0, not -1"),
        ({"check_every": -1}, "check_every must be at least 0, not -1"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        FitMonitor(**arguments)
