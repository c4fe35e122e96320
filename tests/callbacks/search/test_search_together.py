"""Trials that are asked for, trained, pruned and told by the wave."""

import functools
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import pytest
from search_waves import EPOCHS, SPACE, Together

from callbacks.search import Plan, SearchError, decode, search
from callbacks.search.plan import best_so_far, make_pruner, rungs, survivors
from callbacks.search.storage import open_storage

ROOT = Path(__file__).parents[3]


def run(train, *, storage=None, **plan):
    return search(
        train, SPACE, Plan(**{"n_trials": 10, "sampler": "random", "pruner": "none", **plan}), storage=storage
    )


def states(study):
    return Counter(trial.state.name for trial in study.trials)


# ---------------------------------------------------------------------- halving


def test_the_rungs_lie_where_optunas_pruner_has_them():
    assert rungs(29) == [3, 7, 19]
    assert rungs(28) == [3, 7]  # the last third has none
    assert rungs(3) == []
    study = optuna.create_study(pruner=make_pruner("halving"))
    trial = study.ask()
    passed = []
    for epoch in range(1, 28):
        before = dict(study.trials[0].system_attrs)
        trial.report(0.0, epoch - 1)
        assert not trial.should_prune()
        passed += [epoch] if study.trials[0].system_attrs != before else []
    assert passed == rungs(29)


def test_the_best_third_goes_on_whoever_came_before():
    values = {7: 0.3, 8: 0.1, 9: 0.2, 10: math.nan}
    assert survivors(values, [], high=False) == [8]
    assert survivors(values, [], high=True) == [7]
    assert survivors(values, [0.4, 0.5, 0.6], high=False) == [8, 9]
    assert survivors(values, [0.01, 0.02], high=False) == []
    assert survivors({1: math.nan}, [], high=False) == []
    assert survivors({1: 0.5}, [math.nan], high=False) == [1]


def test_a_trial_is_compared_by_its_best_epoch():
    assert best_so_far([0.5, 0.2, 0.9, math.nan], high=False) == 0.2
    assert best_so_far([0.5, 0.2, 0.9, math.nan], high=True) == 0.9
    assert math.isnan(best_so_far([math.nan], high=False))
    # Each third trial falls lowest first and stands high at the rung.
    courses = {True: [0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9], False: [0.5] * EPOCHS}
    train = Together(at_once=12, course=lambda values, epoch: courses[values["x"] < 0.3][epoch - 1] + values["x"] / 100)
    study = run(train, pruner="halving", n_trials=12)
    low = [trial.number for trial in study.trials if trial.params["x"] < 0.3]
    assert 0 < len(low) <= 4
    assert {trial.number for trial in study.trials if trial.state.name == "COMPLETE"} >= set(low)


# ------------------------------------------------------------------------ waves


@pytest.mark.parametrize("storage", ["memory", "journal", "sqlite"])
def test_every_trial_is_trained_once_and_told_with_its_course(tmp_path, storage):
    where = {"memory": None, "journal": f"{tmp_path}/s.journal", "sqlite": f"sqlite:///{tmp_path}/s.db"}[storage]
    train = Together()
    study = run(train, storage=where)
    assert states(study) == {"COMPLETE": 10}
    assert [len(wave) for wave in train.waves] == [4, 4, 2]
    assert train.singles == []
    for trial in study.trials:
        values = decode(SPACE, trial.params)
        assert trial.value == train.course(values, EPOCHS)
        assert trial.user_attrs["epochs"] == EPOCHS
        told = {step: train.course(values, step + 1) for step in range(EPOCHS)}
        assert told.items() >= trial.intermediate_values.items()
        # A database waits for the disk with each: it gets those that are compared, and the last.
        assert list(trial.intermediate_values) == ([2, 7] if storage == "sqlite" else list(range(EPOCHS)))


def test_waves_draw_what_single_trials_draw():
    single = run(lambda trial, values: values["x"])
    waves = run(Together())
    assert [trial.params for trial in waves.trials] == [trial.params for trial in single.trials]


class Sorted(Together):
    """Trains together what has the same `n`."""

    def alike(self):
        return ["n"]


def test_a_wave_takes_over_from_its_first_trial_what_a_group_has_in_common():
    study = run(Sorted(at_once=8), n_trials=40)
    waves = [{trial.params["log2_n"] for trial in study.trials[at : at + 8]} for at in range(0, 40, 8)]
    assert len(waves[0]) > 1  # nothing was known of any value
    assert [len(values) for values in waves[1:]] == [1] * 4
    assert len(set.union(*waves[1:])) > 1
    assert len({trial.params["x"] for trial in study.trials}) == 40


def test_where_the_first_wave_cannot_try_each_value_every_trial_is_drawn():
    study = run(Sorted(at_once=4), n_trials=12)
    assert [trial.params for trial in study.trials] == [trial.params for trial in run(Together(), n_trials=12).trials]


def test_a_study_that_was_killed_while_it_drew_a_wave_goes_on_with_its_first_trials_values(tmp_path):
    whole = run(Sorted(at_once=8), n_trials=24)
    where = f"{tmp_path}/s.journal"
    written = 0

    class Killed(BaseException):
        pass

    create = optuna.storages.JournalStorage.create_new_trial

    @functools.wraps(create)  # or the storage looks different from what is known
    def die(*args, **kwargs):
        nonlocal written
        written += 1
        if written == 12:
            raise Killed
        return create(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.storages.JournalStorage, "create_new_trial", die)
        with pytest.raises(Killed):
            run(Sorted(at_once=8), n_trials=24, storage=where)
    study = run(Sorted(at_once=8), n_trials=24, storage=where)
    tried = [trial.params for trial in study.trials if trial.state.name == "COMPLETE"]
    assert sorted(map(str, tried)) == sorted(str(trial.params) for trial in whole.trials)


def test_a_pruned_trial_is_trained_no_further():
    train = Together()
    study = run(train, pruner="halving", n_trials=12)
    told = states(study)
    assert told["PRUNED"] >= 6
    assert told["COMPLETE"] >= 1
    assert train.epochs_run == sum(trial.user_attrs["epochs"] for trial in study.trials) <= 12 * EPOCHS * 0.7
    for trial in study.trials:
        assert trial.value == list(trial.intermediate_values.values())[-1]
        if trial.state.name == "PRUNED":
            assert trial.user_attrs["epochs"] == 3
            assert trial.user_attrs["reason"].startswith("halving: ")


def test_a_diverged_trial_leaves_with_its_reason():
    train = Together(course=lambda values, epoch: math.inf if values["x"] > 0.5 and epoch == 2 else values["x"])
    study = run(train)
    lost = [trial for trial in study.trials if trial.params["x"] > 0.5]
    assert 0 < len(lost) < 10
    assert all(trial.state.name == "PRUNED" and trial.user_attrs["reason"] == "the loss is inf" for trial in lost)
    assert all(list(trial.intermediate_values) == [0] for trial in lost)  # what is no number is not reported
    assert all(trial.state.name == "COMPLETE" for trial in study.trials if trial not in lost)


def test_a_group_that_fails_leaves_its_trials_to_be_trained_alone():
    def fail(epoch):
        if epoch == 5:
            raise RuntimeError("out of memory")

    train = Together(before_epoch=fail)
    study = run(train)
    assert states(study) == {"COMPLETE": 10}
    assert sorted(train.singles) == list(range(10))


def test_values_to_begin_with_are_tried_first():
    study = run(Together(), start=({"x": 0.25, "n": 2}, {"x": 0.75}))
    assert [trial.params["x"] for trial in study.trials[:2]] == [0.25, 0.75]
    assert study.trials[0].params["log2_n"] == 1


@pytest.mark.parametrize("plan", [{"pruner": "median"}, {"sampler": "qmc"}])
def test_engines_that_have_to_see_each_trial_get_one_at_a_time(plan):
    train = Together()
    study = run(train, n_trials=3, **plan)
    assert train.waves == []
    assert states(study) == {"COMPLETE": 3}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, SearchError])
def test_an_interrupted_wave_is_tried_again_with_the_same_values(tmp_path, error):
    def interrupt(epoch):
        if epoch == 4:
            raise error

    where = f"{tmp_path}/s.journal"
    with pytest.raises(error):
        run(Together(before_epoch=interrupt), storage=where)
    study = run(Together(), storage=where)
    assert states(study) == {"COMPLETE": 10, "FAIL": 4}
    again = [trial for trial in study.trials if "origin" in trial.user_attrs]
    assert {trial.user_attrs["origin"]: trial.params for trial in again} == {
        trial.number: trial.params for trial in study.trials[:4]
    }


# ------------------------------------------------------------------------ kills


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_killed_groups_lose_no_trial_that_was_told(tmp_path, storage):
    where = f"{tmp_path}/s.journal" if storage == "journal" else f"sqlite:///{tmp_path}/s.db"
    log = tmp_path / "trained.txt"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "callbacks")])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("search_waves.py")), where, str(log), "40"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "killed 8 ended [0, 0]\n", done.stdout + done.stderr
    study = optuna.load_study(study_name="study", storage=open_storage(where))
    told = [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]
    assert sorted(trial.user_attrs["place"] for trial in told) == list(range(40))
    assert {trial.number for trial in told} <= set(map(int, log.read_text().split()))
    lost = [trial for trial in study.trials if trial not in told]
    assert all(trial.state.name == "FAIL" and "reason" not in trial.user_attrs for trial in lost)
    for trial in told:
        before = [t for t in lost if t.user_attrs["place"] == trial.user_attrs["place"]]
        assert all(other.params == trial.params for other in before)
