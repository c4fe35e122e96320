"""`study` trains trials together; what it leaves behind is what trials of their own leave behind."""

from pathlib import Path

import optuna
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.tuning import trials as tuning_trials
from lightning_mods import fit, study
from lightning_mods.cli.command_line import CommandLine
from lightning_mods.models.fused.group import TrialGroup
from lightning_mods.study.command import StudyCommand
from lightning_mods.study.trials import obstacle

# Lightning 2.6 itself calls names that jsonargparse 5 will drop.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"
)

WINE = ("--data.path=wine", "--trainer.max_epochs=5", "--model.hidden_sizes=[8]", "--study.n_trials=8")
RANDOM = ("--study.sampler=random", "--study.pruner=none", "--recipe=plain")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def trained(monkeypatch):
    """How many trials each group was made with."""
    sizes = []
    made = TrialGroup.__init__

    def note(self, module, rule, rates, **how):
        sizes.append(len(rates))
        made(self, module, rule, rates, **how)

    monkeypatch.setattr(TrialGroup, "__init__", note)
    monkeypatch.setattr(tuning_trials, "GENERATIONS", 1)  # one wave
    return sizes


def load(name):
    backend = optuna.storages.journal.JournalFileBackend(f"studies/{name}/study.journal")
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def told(trial, *, without=()):
    kept = {name: value for name, value in trial.user_attrs.items() if name not in {"owner", "beat", *without}}
    return trial.params, trial.state.name, trial.values, trial.intermediate_values, kept


def scalars(name, number):
    run = EventAccumulator(f"studies/{name}/trial_{number:03d}").Reload()
    return {tag: [(event.step, event.value) for event in run.Scalars(tag)] for tag in run.Tags()["scalars"]}


def both(*flags):
    study.main([*WINE, *RANDOM, *flags, "--study.name=fused"])
    study.main([*WINE, *RANDOM, *flags, "--study.name=single", "--study.fused=false"])
    return load("fused").trials, load("single").trials


def check_told(fused, single):
    for mine, its in zip(fused, single, strict=True):
        # When a trial ends in the middle of an epoch, its own fit lacks that epoch's training loss.
        odd = () if its.state.name == "COMPLETE" else ("why", "metrics")
        mine_told, its_told = told(mine, without=odd), told(its, without=odd)
        metrics = its_told[-1].get("metrics", {})
        metrics.pop("train_loss", None)  # at the validation, this is the epoch's before
        mine_told[-1].get("metrics", {}).pop("train_loss", None)
        assert mine_told == its_told


def test_trials_together_come_to_what_they_come_to_alone(trained):
    flags = ["--space.model.lr=log 1e-3..300", "--space.model.dropout=0..0.5", "--space.data.batch_size=[16,50]"]
    fused, single = both(*flags)
    assert sum(trained) == 8
    assert len(trained) < 8
    assert {trial.state.name for trial in single} == {"COMPLETE", "PRUNED"}
    check_told(fused, single)
    whole = next(trial.number for trial in single if trial.state.name == "COMPLETE")
    mine, its = scalars("fused", whole), scalars("single", whole)
    assert set(mine) == set(its)
    assert all(dict(mine[tag]) == dict(its[tag]) for tag in ("lr", "train_loss", "val_loss", "val_accuracy", "epoch"))
    # What nobody asked for is known of the best epoch alone, and the HParams tab shows the last value.
    assert all({*mine[tag]} <= {*its[tag]} for tag in ("val_f1", "val_auroc"))
    assert all(mine[tag] == its[tag][-1:] for tag in its if tag.startswith("hp/"))


@pytest.mark.parametrize(
    "flags",
    [
        ("--optimizer=AdamW", "--space.optimizer.lr=log 0.005..0.1", "--space.optimizer.weight_decay=log 1e-4..0.1"),
        ("--optimizer=torch.optim.RMSprop", "--optimizer.momentum=0.5", "--space.optimizer.lr=log 1e-3..0.01"),
        (
            *("--optimizer=AdamW", "--space.optimizer.lr=log 0.005..0.1", "--space.model.dropout=0..0.3"),
            *("--lr_scheduler=CosineAnnealingLR", "--lr_scheduler.T_max=5"),
        ),
    ],
    ids=["AdamW", "RMSprop", "AdamW along a cosine"],
)
def test_trials_with_an_optimizer_of_the_user_s_come_to_what_they_come_to_alone(trained, flags):
    fused, single = both(*flags, "--data.batch_size=16")
    assert sum(trained) == 8
    assert len(trained) < 8
    check_told(fused, single)
    whole = next(trial.number for trial in fused if len(trial.intermediate_values) == 5)
    mine, its = scalars("fused", whole), scalars("single", whole)
    assert mine["lr"] == its["lr"]
    assert mine["val_loss"] == its["val_loss"]


def test_trials_with_a_schedule_that_goes_by_the_loss_are_trained_alone(trained):
    plateau = ("--lr_scheduler=ReduceLROnPlateau", "--lr_scheduler.monitor=val_loss")
    fused, single = both("--optimizer=AdamW", "--space.optimizer.lr=log 1e-3..0.1", *plateau, "--study.n_trials=2")
    assert trained == []
    assert [trial.values for trial in fused] == [trial.values for trial in single]


def test_trials_of_the_recipe_come_to_what_they_come_to_alone(trained):
    fused, single = both("--recipe=default", "--space.model.lr=0.2..1", "--study.n_trials=4")
    assert sum(trained) == 4
    assert [told(trial) for trial in fused] == [told(trial) for trial in single]
    mine, its = scalars("fused", 0), scalars("single", 0)
    assert all(dict(mine[tag]) == dict(its[tag]) for tag in ("lr", "train_loss", "val_loss"))


def test_seeds_and_folds_are_fits_of_each_trial(trained):
    fused, single = both("--study.folds=2", "--space.data.batch_size=[16]", "--study.n_trials=4")
    assert sum(trained) == 8
    assert [trial.values for trial in fused] == [trial.values for trial in single]
    assert [list(trial.intermediate_values) for trial in fused] == [list(range(10))] * 4
    fused, single = (load(name).trials for name in ("fused", "single"))
    assert all(trial.user_attrs["epochs"] == 10 for trial in fused)


def test_a_regression_by_another_metric(trained, monkeypatch):
    monkeypatch.setattr("test_study_groups.WINE", ("--model=MLPRegressor", "--data.path=diabetes", *WINE[1:]))
    fused, single = both("--study.metric=val_r2", "--study.n_trials=4")
    assert sum(trained) == 4
    assert [trial.values for trial in fused] == [trial.values for trial in single]


def test_a_study_that_is_pruned_keeps_its_best_trials(trained):
    study.main([*WINE, "--study.n_trials=16", "--trainer.max_epochs=8"])
    found = load("study")
    reasons = [trial.user_attrs["reason"] for trial in found.trials if trial.state.name == "PRUNED"]
    assert any(reason.startswith("halving") for reason in reasons)
    assert found.best_trial.user_attrs["metrics"]["val_loss"] == found.best_value
    assert {*found.best_trial.user_attrs["metrics"]} == {
        "train_loss", "val_loss", "val_accuracy", "val_f1", "val_auroc",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--optimizer=NAdam"], "an optimizer"),
        (
            [
                "--optimizer=AdamW",
                "--lr_scheduler=OneCycleLR",
                "--lr_scheduler.max_lr=1",
                "--lr_scheduler.total_steps=9",
            ],
            "an optimizer",
        ),
        (["--lr_scheduler=ExponentialLR", "--lr_scheduler.gamma=0.9"], "a schedule of their own"),
        (["--optimizer=Adam"], ""),
        (["--trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches"),
        (["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"], "trainer.callbacks"),
        (["--trainer.precision=bf16-mixed"], "trainer.precision"),
        (["--space.data.val_fraction=0.1..0.3"], "data.val_fraction"),
        (["--study.metric=train_loss"], "the metric"),
        (["--data.val_fraction=0"], "the metric"),
        (["--data.batch_size=16"], ""),
        (["--trainer.gradient_clip_val=1.0"], ""),
    ],
)
def test_what_trials_cannot_share_is_trained_alone(flags, why):
    made = StudyCommand(CommandLine.parse("study", [*WINE, *flags]))
    assert why in obstacle(made.cli, made.space)
    assert bool(why) == bool(obstacle(made.cli, made.space))


def test_the_search_before_a_fit_comes_to_the_same_trials_and_the_same_fit(trained, monkeypatch):
    monkeypatch.setattr(tuning_trials, "GENERATIONS", 4)  # who learns nothing is ended once a trial before it learned
    found = []
    for name in ("fused", "single"):
        if name == "single":
            monkeypatch.setattr(tuning_trials.GroupedTrialRunner, "together", lambda self, n_trials: 1)
        search = ["--trainer.callbacks+=OptunaSearch", "--trainer.callbacks.n_trials=8"]
        search += ["--trainer.callbacks.sampler=random", "--trainer.callbacks.pruner=none"]
        fit.main([*WINE[:3], *search, "--recipe=plain", "--model.dropout=0.1", f"--trainer.default_root_dir={name}"])
        (journal,) = (path for path in Path(name).rglob("search.journal"))
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
        (only,) = optuna.get_all_study_names(storage)
        trials = optuna.load_study(study_name=only, storage=storage).trials
        weights = torch.load(next(Path(name).rglob("last.ckpt")), weights_only=True)["state_dict"]
        found.append(([told(trial) for trial in trials], weights))
    assert sum(trained) == 8
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][key], value) for key, value in found[1][1].items())
