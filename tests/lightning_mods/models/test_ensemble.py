"""An ensemble: each member is what it would be alone, and together they predict the mean."""

import copy
import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional

from callbacks.fit.monitor import _checkpoint_to_keep
from callbacks.fit.record import FitRecord
from datamodules import TabularDataModule
from lightning_mods import MLPClassifier, MLPEnsemble, MLPRegressor
from lightning_mods.runs.checkpoints import BestCheckpoint, metrics_in, read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")


TASKS = {"classes": ("iris", MLPClassifier), "numbers": ("diabetes", MLPRegressor)}


def table(task):
    return TabularDataModule(path=TASKS[task][0], batch_size=16)


def settings(task, data, **given):
    facts = {"num_classes": data.num_classes, "class_counts": data.class_counts} if task == "classes" else {}
    if task == "numbers":
        facts = {"target_mean": data.target_mean, "target_std": data.target_std}
    return {"in_features": data.in_features, **facts, "hidden_sizes": [16, 8], "lr": 0.03, **given}


def made(task, data, count=3, **given):
    pl.seed_everything(3, verbose=False)
    return MLPEnsemble(TASKS[task][1].__name__, [settings(task, data, **given)] * count)


def fit(model, data, *, steps="auto", **given):
    pl.seed_everything(3, verbose=False)
    model.steps_per_execution = steps
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        **{"max_epochs": 3, "accelerator": "cpu", "devices": 1, "enable_model_summary": False, **quiet, **given}
    )
    trainer.fit(model, datamodule=data)
    return trainer


GIVEN = {
    "plain": {},
    "nesterov": {"nesterov": True, "weight_decay": 0.01},
    "dropout": {"dropout": 0.3},
    "no momentum": {"momentum": 0.0, "activation": "silu"},
    "recipe": {"nesterov": True, "lr_schedule": "cosine", "ema_epochs": 2.0, "lr": 0.3, "input_scaling": True},
}


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("steps", ["auto", 1])
@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("task", TASKS)
def test_each_member_is_to_the_bit_what_it_would_be_alone(task, given, steps, clip):
    ensemble = made(task, table(task), **given)
    alone = [copy.deepcopy(member) for member in ensemble.members]
    assert not torch.equal(next(alone[0].parameters()), next(alone[1].parameters()))
    losses = []
    for member in alone:
        losses.append(fit(member, table(task), gradient_clip_val=clip).callback_metrics)
    trainer = fit(ensemble, table(task), steps=steps, gradient_clip_val=clip)
    for member, twin in zip(ensemble.members, alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(member.parameters(), twin.parameters(), strict=True))
    for name in ("train_loss", "val_loss"):
        assert trainer.callback_metrics[name] == pytest.approx(float(sum(each[name] for each in losses)) / 3, rel=1e-6)


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("task", TASKS)
def test_most_steps_are_taken_by_all_members_at_once(task, given, clip, monkeypatch):
    ensemble, seen = made(task, table(task), **given), []
    step = ensemble.training_step
    monkeypatch.setattr(
        ensemble, "training_step", lambda batch, batch_idx: (seen.append(batch_idx), step(batch, batch_idx))[1]
    )
    trainer = fit(ensemble, table(task), gradient_clip_val=clip)
    assert len(seen) < trainer.global_step / 2


def test_the_first_member_begins_as_a_single_model_and_the_others_as_with_the_next_seeds():
    data = table("classes")
    members = made("classes", data).members
    for number, member in enumerate(members):
        pl.seed_everything(3 + number, verbose=False)
        single = MLPClassifier(**settings("classes", data))
        assert all(torch.equal(a, b) for a, b in zip(member.parameters(), single.parameters(), strict=True))


def test_random_numbers_go_on_as_before_an_ensemble_was_made():
    data = table("classes")
    pl.seed_everything(3, verbose=False)
    wanted = torch.rand(3)
    made("classes", data)
    assert torch.equal(torch.rand(3), wanted)


def test_predictions_are_the_weighted_mean_and_metrics_theirs():
    data = table("classes")
    ensemble = MLPEnsemble("MLPClassifier", [settings("classes", data, hidden_sizes=[8])] * 2, [0.25, 0.75])
    trainer = fit(ensemble, data)
    ensemble.eval()
    x, y = next(iter(data.val_dataloader()))
    with torch.no_grad():
        one, other = (member(x) for member in ensemble.members)
        mean = 0.25 * one + 0.75 * other
        losses = [functional.cross_entropy(member.network(x), y) for member in ensemble.members]
        assert torch.allclose(ensemble(x), mean)
    found = trainer.callback_metrics
    assert found["val_loss"] == pytest.approx(float(sum(losses)) / 2, rel=1e-5)
    assert found["val_ensemble_loss"] == pytest.approx(float(functional.nll_loss(mean.log(), y)), rel=1e-5)
    assert found["val_accuracy"] == pytest.approx(float((mean.argmax(1) == y).float().mean()))


def test_the_loss_of_an_ensemble_of_numbers_is_in_the_units_of_the_target():
    data = table("numbers")
    ensemble = made("numbers", data)
    found = fit(ensemble, data).callback_metrics
    x, y = next(iter(data.val_dataloader()))
    with torch.no_grad():
        error = functional.mse_loss(ensemble.eval()(x), y)
    assert found["val_ensemble_loss"] == pytest.approx(float(error), rel=1e-4)
    assert math.sqrt(found["val_ensemble_loss"]) == pytest.approx(float(found["val_rmse"]), rel=1e-5)


class Curves(pl.Callback):
    def __init__(self):
        self.losses = []

    def on_validation_end(self, trainer, pl_module):
        found = trainer.callback_metrics
        self.losses.append((float(found["val_loss"]), float(found["val_ensemble_loss"])))


def test_the_best_checkpoint_is_that_of_the_best_ensemble(tmp_path):
    curves = Curves()
    given = {
        "callbacks": [curves, BestCheckpoint()],
        "enable_checkpointing": True,
        "num_sanity_val_steps": 0,
        "default_root_dir": tmp_path,
    }
    trainer = fit(made("numbers", table("numbers"), 6, lr=0.1), table("numbers"), max_epochs=12, **given)
    of_member, of_ensemble = (min(range(12), key=lambda epoch: curves.losses[epoch][at]) for at in (0, 1))
    assert of_member != of_ensemble  # else this would show nothing
    best = read_checkpoint(Path(trainer.checkpoint_callback.best_model_path))
    assert best["epoch"] == of_ensemble
    assert metrics_in(best)["val_loss"] == pytest.approx(curves.losses[of_ensemble][0])
    assert (
        _checkpoint_to_keep(trainer, FitRecord(names={"val_loss": "val_loss"}), of_member)
        == trainer.checkpoint_callback.best_model_path
    )


def test_members_of_different_shapes_train_one_after_the_other():
    data = table("classes")
    each = [settings("classes", data, hidden_sizes=sizes) for sizes in ([8], [16, 4], [])]
    pl.seed_everything(3, verbose=False)
    ensemble = MLPEnsemble("MLPClassifier", each)
    assert ensemble.chain_rule() is None
    alone = [copy.deepcopy(member) for member in ensemble.members]
    for member in alone:
        fit(member, table("classes"))
    fit(ensemble, table("classes"))
    for member, twin in zip(ensemble.members, alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(member.parameters(), twin.parameters(), strict=True))


def test_a_checkpoint_says_in_plain_words_what_the_ensemble_is(tmp_path):
    data = table("classes")
    ensemble = made("classes", data)
    fit(ensemble, data).save_checkpoint(tmp_path / "ensemble.ckpt")
    kept = read_checkpoint(tmp_path / "ensemble.ckpt")["hyper_parameters"]
    assert kept["member"] == "MLPClassifier"
    assert [each["hidden_sizes"] for each in kept["settings"]] == [[16, 8]] * 3
    loaded = MLPEnsemble.load_from_checkpoint(tmp_path / "ensemble.ckpt", weights_only=True)
    x = torch.randn(4, data.in_features)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), ensemble.eval()(x))


def test_members_with_features_of_their_own_predict_what_each_does_of_its_own():
    settings = [{"in_features": width, "num_classes": 2, "hidden_sizes": [4]} for width in (3, 3, 5, 5)]
    ensemble = MLPEnsemble("MLPClassifier", settings, [0.1, 0.2, 0.3, 0.4], sharing=2).eval()
    x = torch.randn(6, 8)
    each = [member(x[:, :3] if number < 2 else x[:, 3:]) for number, member in enumerate(ensemble.members)]
    whole = sum(weight * found for weight, found in zip((0.1, 0.2, 0.3, 0.4), each, strict=True))
    assert torch.allclose(ensemble(x), whole, rtol=1e-6)
    assert ensemble.example_input_array.shape == (1, 8)
    assert ensemble.chain_rule() is None
    twin = MLPEnsemble(**ensemble.hparams).eval()
    twin.load_state_dict(ensemble.state_dict())
    assert torch.equal(twin(x), ensemble(x))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"settings": []}, "at least one member"),
        ({"weights": [0.5, 0.6]}, "whose sum is 1"),
        ({"weights": [1.0]}, "2 numbers"),
        ({"weights": [1.5, -0.5]}, "at least 0"),
        (
            {"settings": [{"in_features": 3, "num_classes": 2}, {"in_features": 3, "num_classes": 4}]},
            "same num_classes",
        ),
        (
            {"settings": [{"in_features": 3, "num_classes": 2}, {"in_features": 4, "num_classes": 2}]},
            "same in_features",
        ),
        ({"sharing": 0}, "sharing must divide the 2 members"),
        ({"settings": [{"in_features": 3, "num_classes": 2}] * 3, "sharing": 2}, "sharing must divide the 3 members"),
    ],
)
def test_what_cannot_be_is_said(given, said):
    usual = {"settings": [{"in_features": 3, "num_classes": 2}] * 2}
    with pytest.raises(ValueError, match=said):
        MLPEnsemble("MLPClassifier", **{**usual, **given})
