"""Checkpoints that somebody has changed: one line that names the file, in every verb."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from verbs_here import do, succeed

from lightning_mods.runs.restoring import fault_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor"),
]
FLAGS = ("--data.path=iris", "--watch=[health,gradients,fit]", "--model.hidden_sizes=[8]", "--optimizer=AdamW")
FLAGS = (*FLAGS, "--optimizer.lr=0.01", "--recipe=plain", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeed("fit", *FLAGS, "--trainer.max_epochs=1")
    return folder


@pytest.fixture
def content(finished):
    return torch.load(finished / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)


def key_of(content, name):
    return next(key for key in content["callbacks"] if key.startswith(name))


def put(content, value, *places):
    for place in places[:-1]:
        content = content[place]
    content[places[-1]] = value


WEIGHT = "network.layers.0.weight"
LOOP = ("loops", "fit_loop", "epoch_progress", "current")
STATE = ("optimizer_states", 0)
# What is put where.
SEEN_AT_ONCE = {
    "weights a list": ([1, 2], "state_dict"),
    "a weight a word": ("w", "state_dict", WEIGHT),
    "a weight of another shape": (torch.ones(3, 3), "state_dict", WEIGHT),
    "a sparse weight": (torch.ones(8, 4).to_sparse(), "state_dict", WEIGHT),
    "a weight without numbers": (torch.ones(8, 4, device="meta"), "state_dict", WEIGHT),
    "a weight larger than the file": (torch.ones(1).expand(10**10), "state_dict", WEIGHT),
    "settings a number": (3, "hyper_parameters"),
    "a setting of a wrong kind": ("wide", "hyper_parameters", "hidden_sizes"),
    "a network larger than any memory": ([10**12], "hyper_parameters", "hidden_sizes"),
    "our names a list": ([], "lightning_mods"),
    "a name a number": (7, "lightning_mods", "model"),
    "callbacks a list": ([1], "callbacks"),
    "loops a word": ("loops", "loops"),
    "a setting no file can hold": (torch.device("cpu"), "datamodule_hyper_parameters", "target"),
    "loops without a count": ({"fit_loop": {}}, "loops"),
    "epochs a word": ("three", *LOOP, "processed"),
    "epochs below zero": (-2, "epoch"),
    "optimizers a number": (1, "optimizer_states"),
    "a mean a word": ("x", "TabularDataModule", "encoding", "columns", 0, "mean"),
    "a scale of zero": (0.0, "TabularDataModule", "encoding", "columns", 0, "scale"),
    "a scale that is no number": (float("nan"), "TabularDataModule", "encoding", "columns", 0, "scale"),
    "classes a number": (3, "TabularDataModule", "class_names"),
    "no rows": (0, "TabularDataModule", "sizes", "train"),
    "a seed a list": ([], "TabularDataModule", "seed"),
}


@pytest.mark.parametrize("change", SEEN_AT_ONCE.values(), ids=SEEN_AT_ONCE)
def test_what_cannot_be_is_seen_before_anything_is_made_of_it(content, change):
    assert fault_of(content) is None
    value, *places = change
    put(content, value, *places)
    assert fault_of(content)


WHEN_RESTORED = {
    "a count of a loop a word": ("x", *LOOP, "ready"),
    "a count of a loop below zero": (-5, "loops", "fit_loop", "epoch_loop.batch_progress", "current", "ready"),
    "a loop without counts": ({}, "loops", "fit_loop", "epoch_loop.batch_progress"),
    "a rate a word": ("fast", *STATE, "param_groups", 0, "lr"),
    "betas a number": (0.9, *STATE, "param_groups", 0, "betas"),
    "parameters of another network": ([0], *STATE, "param_groups", 0, "params"),
    "a moment of another shape": (torch.ones(2), *STATE, "state", 0, "exp_avg"),
    "a moment a word": ("x", *STATE, "state", 0, "exp_avg_sq"),
    "a schedule's step a word": ("x", "lr_schedulers", 0, "last_epoch"),
}


def refused(content, *verb_and_flags):
    path = Path("lightning_logs/version_1/checkpoints/changed.ckpt")
    torch.save(content, path)
    config = path.parents[1] / "config.yaml"
    before = config.read_bytes()
    code, _, err = do(*verb_and_flags, f"--ckpt_path={path}")
    (line,) = [line for line in err.splitlines() if line.startswith(f"{verb_and_flags[0]}: ")]
    return code == 2 and "changed.ckpt" in line and config.read_bytes() == before


@pytest.fixture
def _here(finished, tmp_path, monkeypatch):
    shutil.copytree(finished / "lightning_logs/version_0", tmp_path / "lightning_logs/version_1")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("change", WHEN_RESTORED.values(), ids=WHEN_RESTORED)
def test_states_that_fit_nothing_are_seen_before_training_goes_on(content, change):
    value, *places = change
    put(content, value, *places)
    assert refused(content, "fit", *FLAGS, "--trainer.max_epochs=2")


@pytest.mark.usefixtures("_here")
def test_states_of_callbacks_that_are_none_are_seen_before_training_goes_on(content):
    changes = {
        ("LastCheckpoint", "cpu"): torch.ones(3),
        ("BestCheckpoint", "best_model_path"): 5,
        ("GradientMonitor", "watch"): [],
        ("GradientLogger", "counts"): "x",
        ("GradientLogger", "flow"): {"layers": ["a"], "columns": [[0, 1, [1.0], [], [0], 1]], "width": 1, "of": 1},
        ("FitMonitor", "reader"): None,
    }
    for (name, key), value in changes.items():
        changed = copy.deepcopy(content)
        changed["callbacks"][key_of(content, name)][key] = value
        assert refused(changed, "fit", *FLAGS, "--trainer.max_epochs=2"), name


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("verb", ["validate", "test", "predict", "export"])
def test_every_verb_names_a_checkpoint_that_was_changed(content, verb):
    flags = ("--data.predict_path=iris",) if verb == "predict" else ()
    for value, *places in (SEEN_AT_ONCE["weights a list"], SEEN_AT_ONCE["a mean a word"]):
        changed = copy.deepcopy(content)
        put(changed, value, *places)
        assert refused(changed, verb, *flags)
    del content["state_dict"]["network.layers.0.bias"]
    assert refused(content, verb, *flags)
