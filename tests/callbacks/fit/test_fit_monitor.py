import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import (
    LIGHTNINGS_WARNINGS,
    DictOutputs,
    LogsBySteps,
    LogsLate,
    LogsNothing,
    LogsStepsAndEpochs,
    Memorises,
    NoValidation,
    NoValidationLoss,
    Plain,
    Slashes,
    SometimesNone,
    TwoLoaders,
    TwoOptimizers,
    close,
    curves,
    fit,
    loader,
    train_at,
    val_at,
)
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks import FitMonitor, TensorBoardLayout
from lightning_mods.runs.checkpoints import BestCheckpoint, LastCheckpoint

pytestmark = LIGHTNINGS_WARNINGS
SLASHES = {"train_loss": "train/loss", "val_loss": "val/loss", "metric": "val/f1"}


TRAIN, VAL = [train_at(e) for e in range(6)], [val_at(e) for e in range(6)]
THIRD = [value if epoch % 3 == 2 else None for epoch, value in enumerate(VAL)]
CASES = [
    ("plain", Plain, {}, {}, TRAIN, VAL),
    ("a dict is returned", DictOutputs, {}, {}, TRAIN, VAL),
    ("logged in its own on_train_epoch_end", LogsLate, {}, {}, TRAIN, VAL),
    ("logged by steps", LogsBySteps, {}, {}, TRAIN, VAL),
    ("logged by steps and epochs", LogsStepsAndEpochs, {}, {}, TRAIN, VAL),
    ("names with slashes", Slashes, SLASHES, {}, TRAIN, VAL),
    ("batches skipped", SometimesNone, {}, {}, TRAIN, [v if e % 2 == 0 else None for e, v in enumerate(VAL)]),
    ("every third epoch", Plain, {}, {"check_val_every_n_epoch": 3}, TRAIN, THIRD),
    ("four times an epoch", Plain, {}, {"val_check_interval": 0.25}, TRAIN, VAL),
    ("one of two loaders", TwoLoaders, {"val_loss": "val_loss/dataloader_idx_1"}, {}, TRAIN, [v + 1 for v in VAL]),
    ("batches accumulated", Plain, {}, {"accumulate_grad_batches": 3}, TRAIN, VAL),
]


@pytest.mark.parametrize(
    ("module", "names", "flags", "train", "val"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_the_losses_of_one_epoch_stand_together(tmp_path, capsys, module, names, flags, train, val):
    monitor = FitMonitor(**names)
    fit(tmp_path, module, monitor, **flags)
    found = curves(monitor)
    assert found["train_loss"] == close(train)
    assert found["val_loss"] == close([*val, *[None] * (6 - len(val))])[: len(found["val_loss"])]
    assert sum(v is not None for v in found["val_loss"]) == sum(v is not None for v in val)
    assert "FitMonitor finds no" not in capsys.readouterr().err


SILENT = [
    (NoValidationLoss, "finds no validation loss: `val_loss` is not logged; logged: train_loss, val_score."),
    (NoValidation, "finds no validation loss: `val_loss` is not logged; logged: train_loss."),
    (LogsNothing, "`val_loss` is not logged and no training loss: `train_loss` is not logged; logged: nothing."),
    (TwoOptimizers, "is not logged; logged: d_loss, g_loss."),
]


@pytest.mark.parametrize(("module", "line"), SILENT)
def test_without_a_validation_loss_one_line_says_what_is_logged(tmp_path, capsys, module, line):
    monitor = FitMonitor(closing=False)
    fit(tmp_path, module, monitor)
    said = [text for text in capsys.readouterr().err.splitlines() if "FitMonitor" in text]
    assert sum(line in text for text in said) == 1
    assert len(said) == 1
    assert monitor.diagnosis.cause == "no_validation"


class LogsMuch(Plain):
    def validation_step(self, batch, batch_idx):
        self.log_dict({f"score_{i}": 0.5 for i in range(100)})


def test_of_very_many_metrics_a_line_names_some(tmp_path, capsys):
    fit(tmp_path, LogsMuch, FitMonitor(closing=False), epochs=1)
    (said,) = [text for text in capsys.readouterr().err.splitlines() if "FitMonitor" in text]
    assert "score_10, " in said
    assert " and 81 more. " in said


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    callbacks = [FitMonitor(closing=False), TensorBoardLayout()]
    trainer, _ = fit(tmp_path / "file" / "runs", Plain, callbacks=callbacks, enable_checkpointing=False)
    assert trainer.current_epoch == 6
    said = sorted(line for line in capsys.readouterr().err.splitlines() if " failed (" in line)
    assert [line.partition(":")[0] for line in said] == ["FitMonitor", "TensorBoardLayout"]


def test_two_monitors_stand_in_one_trainer_and_keep_their_states_apart(tmp_path):
    two = [FitMonitor(closing=False), FitMonitor(closing=False), FitMonitor(val_loss="other", closing=False)]
    fit(tmp_path, Plain, callbacks=[*two, *savers(tmp_path, "end")], epochs=2)
    end = tmp_path / "checkpoints" / "end.ckpt"
    kept = [name for name in torch.load(end, weights_only=True)["callbacks"] if name.startswith("FitMonitor")]
    first = "FitMonitor[train_loss, val_loss]"
    assert kept == [first, f"{first}[1]", "FitMonitor[train_loss, other]"]
    resumed = [FitMonitor(closing=False), FitMonitor(check_every=2, closing=False)]
    fit(tmp_path, Plain, callbacks=resumed, ckpt_path=end, enable_checkpointing=False)
    assert [curves(each)["val_loss"] for each in resumed] == [close(VAL)] * 2


def test_the_loss_before_training_is_kept_apart(tmp_path):
    monitor = FitMonitor()
    trainer, model = fit(tmp_path, Plain, monitor)
    assert monitor.state_dict()["reader"]["record"]["loss_at_start"] == 9.0
    trainer.validate(model, loader(), verbose=False)  # is no epoch of the run
    assert curves(monitor)["val_loss"] == close(VAL)


@pytest.mark.parametrize("module", [Plain, TwoOptimizers, LogsBySteps])
@pytest.mark.parametrize("train_slice", [0, 8])
def test_the_weights_are_those_without_it(tmp_path, module, train_slice):
    class Helps(module):
        def evaluation_loss(self, batch):
            torch.rand(1)
            return self.batch_loss(batch)

    monitor = FitMonitor(train_slice=train_slice)
    _, alone = fit(tmp_path / "a", Helps)
    trainer, watched = fit(tmp_path / "b", Helps, monitor)
    same = zip(alone.state_dict().values(), watched.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert len(curves(monitor)["fair_loss"]) == (6 if train_slice else 0)
    if train_slice:
        with torch.no_grad():
            rows = trainer.train_dataloader.dataset[range(0, 24, 3)]
            assert curves(monitor)["fair_loss"][-1] == pytest.approx(float(watched.eval().batch_loss(rows)), rel=1e-5)


def test_a_slice_needs_the_modules_help(tmp_path, capsys):
    fit(tmp_path, Plain, FitMonitor(train_slice=8))
    said = [line for line in capsys.readouterr().err.splitlines() if "train_slice" in line]
    assert said == ["FitMonitor: train_slice=8 is not used: Plain has no method `evaluation_loss(batch)`"]


class Kill(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (4, 2):
            raise RuntimeError("killed")


def savers(folder, which):
    if which == "last":
        return [BestCheckpoint(), LastCheckpoint()]
    return [ModelCheckpoint(folder / "checkpoints", "end", save_on_train_epoch_end=True, enable_version_counter=False)]


# A checkpoint at an epoch's end is written before LogsLate logs: that one value is lost to whoever resumes from it.
@pytest.mark.parametrize(
    ("module", "which"),
    [(Memorises, "last"), (LogsBySteps, "last"), (LogsLate, "last"), (Memorises, "end"), (LogsBySteps, "end")],
)
def test_an_interrupted_run_ends_with_the_same_curves_and_diagnosis(tmp_path, module, which):
    whole, resumed = FitMonitor(), FitMonitor()
    fit(tmp_path / "whole", module, whole, epochs=14, callbacks=savers(tmp_path / "whole", which))
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, module, FitMonitor(), epochs=14, callbacks=[*savers(tmp_path, which), Kill()])
    checkpoint = tmp_path / "checkpoints" / f"{which}.ckpt"
    fit(tmp_path, module, resumed, epochs=14, callbacks=savers(tmp_path, which), ckpt_path=checkpoint)
    assert resumed.state_dict() == whole.state_dict()
    assert resumed.diagnosis == whole.diagnosis
