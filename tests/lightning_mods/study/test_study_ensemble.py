"""`study --ensemble=greedy`: trials' weights are kept while they train, and an ensemble is picked among them."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.datasets import load_diabetes

from callbacks.tuning import ensembles
from callbacks.tuning import trials as tuning_trials
from lightning_mods import MLPEnsemble, fit, predict, study

# Lightning 2.6 itself calls names that jsonargparse 5 will drop.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"
)
SMALL = ("--trainer.max_epochs=4", "--model.hidden_sizes=[8]", "--study.n_trials=6", "--ensemble=greedy")
RANDOM = ("--study.sampler=random", "--study.pruner=none")
ALONE = {"together": (), "alone": ("--study.fused=false",), "workers": ("--study.workers=2",)}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(tuning_trials, "GENERATIONS", 1)  # one wave
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def kept():
    return ensembles.KeptFits(Path("studies/study"), high=False).best


def said(capsys):
    lines = capsys.readouterr().out.splitlines()
    return next(line for line in lines if line.startswith("ensemble  "))


@pytest.mark.parametrize("flags", ALONE.values(), ids=ALONE)
def test_kept_weights_are_those_of_the_trials_fit_bit_for_bit(flags):
    study.main(["--data.path=wine", *SMALL, *RANDOM, *flags])
    best = kept()[0]
    fit.main(["--config=studies/study/best.yaml"])
    found = torch.load(next(Path().glob("lightning_logs/*/checkpoints/best.ckpt")), weights_only=True)["state_dict"]
    assert best.weights.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in best.weights.items())


@pytest.mark.parametrize("table", ["wine", "diabetes"])
def test_a_study_ends_in_an_ensemble_that_is_no_worse_than_its_best_trial(table, capsys):
    study.main([f"--data.path={table}", *SMALL, *RANDOM])
    line = said(capsys)
    ensemble, best = float(line.split()[2]), float(line.split()[4])
    assert ensemble <= best == pytest.approx(kept()[0].value, rel=1e-4)
    assert "; trials " in line
    assert ("val_r2" if table == "diabetes" else "val_accuracy") in line


def test_its_checkpoint_says_how_sure_it_is(capsys):
    study.main(["--data.path=wine", *SMALL, *RANDOM, "--calibrate", "--importance", "--watch=[]"])
    assert "calibrate: temperature" in capsys.readouterr().err
    written = torch.load("studies/study/ensemble.ckpt", weights_only=True)
    assert written["mlp_module"]["uncertainty"]["temperature"] != 1.0
    asked = yaml.safe_load(Path("studies/study/best.yaml").read_text(encoding="utf-8"))
    assert (asked["calibrate"], asked["importance"], asked["watch"]) == (True, True, [])


def test_its_checkpoint_has_intervals_around_numbers(capsys):
    study.main(["--data.path=diabetes", *SMALL, *RANDOM])
    load_diabetes(as_frame=True).frame.head(5).to_csv("rows.csv", index=False)
    predict.main(["--ckpt_path=studies/study/ensemble.ckpt", "--data.predict_path=rows.csv", "--interval=0.8"])
    with Path("predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["prediction_low"]) < float(row["prediction_high"]) for row in rows)
    assert len(rows) == 5


def test_its_checkpoint_predicts_the_weighted_mean_of_the_trials(capsys):
    study.main(["--data.path=diabetes", *SMALL, *RANDOM])
    capsys.readouterr()
    ensemble = MLPEnsemble.load_from_checkpoint("studies/study/ensemble.ckpt", weights_only=True)
    assert sum(ensemble.member_weights) == pytest.approx(1)
    weights = {tuple(each.weights["network.layers.0.bias"].tolist()) for each in kept()}
    assert all(tuple(each.network.layers[0].bias.tolist()) in weights for each in ensemble.members)

    load_diabetes(as_frame=True).data.head(40).to_csv("new.csv", index=False)
    predict.main(["--ckpt_path=studies/study/ensemble.ckpt", "--data.predict_path=new.csv"])
    with Path("predictions.csv").open(newline="") as file:
        found = [float(row["prediction"]) for row in csv.DictReader(file)]
    assert len(found) == 40
    assert np.std(found) > 0


def test_the_same_command_again_picks_the_same_and_trains_nothing(capsys):
    flags = ["--data.path=wine", *SMALL, *RANDOM]
    study.main(flags)
    first, files = said(capsys), {path: path.stat().st_mtime_ns for path in Path("studies/study/members").iterdir()}
    study.main(flags)
    assert said(capsys) == first
    assert files == {path: path.stat().st_mtime_ns for path in Path("studies/study/members").iterdir()}


def test_only_the_best_are_kept(monkeypatch):
    monkeypatch.setattr(ensembles, "MOST", 2)
    study.main(["--data.path=wine", *SMALL, *RANDOM])
    values = [each.value for each in kept()]
    assert len(values) == len(list(Path("studies/study/members").iterdir())) == 2
    import optuna

    backend = optuna.storages.journal.JournalFileBackend("studies/study/study.journal")
    trials = optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(backend)).trials
    assert values == sorted(trial.value for trial in trials)[:2]


def test_a_file_that_is_damaged_or_removed_meanwhile_is_passed_over():
    study.main(["--data.path=wine", *SMALL, *RANDOM])
    first, second, *_ = sorted(Path("studies/study/members").iterdir())
    first.write_bytes(first.read_bytes()[:100])
    second.unlink()
    assert len(kept()) == 4


def test_a_new_study_forgets_what_an_old_one_left():
    study.main(["--data.path=wine", *SMALL, *RANDOM])
    Path("studies/study/study.journal").unlink()
    study.main(["--data.path=wine", *SMALL, *RANDOM, "--study.n_trials=2", "--trainer.max_epochs=2"])
    assert len(kept()) == 2


def test_a_study_without_it_keeps_no_weights():
    study.main(["--data.path=wine", *SMALL[:3], *RANDOM])
    assert not Path("studies/study/members").exists()


REFUSED = {
    "a number": (["--ensemble=8"], "needs `greedy`, not 8"),
    "folds": (["--study.folds=3"], "--study.folds"),
    "other columns": (["--space.data.bins=[0,16]"], "--space.data.bins"),
    "no validation": (["--data.val_fraction=0", "--study.metric=train_loss"], "needs validation rows"),
}


@pytest.mark.parametrize(("flags", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_end_in_an_ensemble_is_refused_in_one_line(flags, words, capsys):
    with pytest.raises(SystemExit) as end:
        study.main(["--data.path=wine", *SMALL, *flags])
    assert end.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("study: "))
    assert words in line
    assert not Path("studies").exists()
