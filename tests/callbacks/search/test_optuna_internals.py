"""What is used of Optuna beyond its promises: that it is there, and what the search does where it isn't."""

import os

import optuna
import pytest
from search_cases import SPACE, states, train
from search_waves import EPOCHS, Together
from search_waves import SPACE as WAVE_SPACE

from callbacks.search import Plan, SearchError, claims, optuna_internals, search
from callbacks.search.storage import open_storage


@pytest.fixture
def place(tmp_path):
    return {"memory": None, "journal": f"{tmp_path}/s.journal", "sqlite": f"sqlite:///{tmp_path}/s.db"}


@pytest.fixture(params=["journal", "sqlite"])
def kept(request, place):
    return place[request.param]


@pytest.fixture(params=["memory", "journal", "sqlite"])
def storage(request, place):
    return place[request.param]


@pytest.fixture
def changed_optuna(monkeypatch):
    """An Optuna whose storages look different from what is known."""
    monkeypatch.setitem(optuna_internals._KNOWN, "create_new_trial", "study_id, template, owner")


def test_this_optuna_looks_as_the_one_that_was_tried(storage):
    """If this fails, try the new Optuna on `TrialWriter`; until then searches go by `PlainTrialWriter`."""
    assert optuna_internals.is_known(open_storage(storage))


def test_a_storage_that_lacks_a_method_is_not_known(storage, monkeypatch):
    monkeypatch.setitem(optuna_internals._KNOWN, "start_trial", "study_id")
    assert not optuna_internals.is_known(open_storage(storage))


def test_trials_that_end_together_are_one_write_to_a_journal(tmp_path, monkeypatch):
    writes, real, sync = [], optuna_internals.TrialWriter.finish, os.fsync

    def finish(self, finished):
        before = len(writes)
        real(self, finished)
        assert len(writes) == before + 1

    monkeypatch.setattr(os, "fsync", lambda handle: writes.append(sync(handle)))
    monkeypatch.setattr(optuna_internals.TrialWriter, "finish", finish)
    plan = Plan(n_trials=8, sampler="random", pruner="none")
    study = search(Together(), WAVE_SPACE, plan, storage=f"{tmp_path}/s.journal")
    assert states(study) == ["COMPLETE"] * 8
    assert all(len(trial.intermediate_values) == EPOCHS for trial in study.trials)


def test_a_journal_reads_on_where_another_process_has_failed_a_trial_that_ends(tmp_path):
    path = f"{tmp_path}/s.journal"
    storage, other = open_storage(path), open_storage(path)
    study = optuna.create_study(study_name="study", storage=storage)
    writer = optuna_internals.TrialWriter(study, storage)
    first, second = writer.start({}, {}, {}), writer.start({}, {}, {})
    optuna.load_study(study_name="study", storage=other).tell(first, state=optuna.trial.TrialState.FAIL)
    writer.finish([optuna_internals.FinishedTrial(n, "", [1.0], {"a": 1}, [2.0, 1.0]) for n in (first, second)])
    assert states(study) == ["FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs == {"a": 1}


@pytest.mark.usefixtures("changed_optuna")
def test_where_optuna_looks_different_a_study_is_searched_trial_by_trial(storage):
    waves = Together()
    study = search(waves, WAVE_SPACE, Plan(n_trials=4, sampler="random", start=({"x": 0.25, "n": 2},)), storage=storage)
    assert states(study) == ["COMPLETE"] * 4
    assert [trial.user_attrs["place"] for trial in study.trials] == [0, 1, 2, 3]
    assert study.trials[0].params == {"x": 0.25, "log2_n": 1}
    assert waves.waves == []
    assert waves.singles == [0, 1, 2, 3]


@pytest.mark.usefixtures("changed_optuna")
@pytest.mark.parametrize("error", [KeyboardInterrupt, SearchError])
def test_where_optuna_looks_different_an_interrupted_trial_is_tried_again(kept, error):
    def until_interrupted(trial, values):
        if trial.number == 2:
            raise error("stop")
        return train(trial, values)

    with pytest.raises(error):
        search(until_interrupted, SPACE, Plan(n_trials=4), storage=kept)
    study = search(train, SPACE, Plan(n_trials=4), storage=kept)
    assert states(study) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[3].params == study.trials[2].params
    assert study.trials[3].user_attrs["origin"] == 2


@pytest.mark.usefixtures("changed_optuna")
def test_where_optuna_looks_different_a_trial_that_another_machine_lost_is_tried_again(kept, monkeypatch):
    monkeypatch.setattr("callbacks.search.claims.LOST_SECONDS", 0.3)
    monkeypatch.setattr("callbacks.search.engine._POLL", 0.05)
    search(train, SPACE, Plan(n_trials=1), storage=kept)
    study = optuna.load_study(study_name="study", storage=open_storage(kept))
    far = {**claims.this_process(), "host": "far"}
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs={"owner": far}))
    study = search(train, SPACE, Plan(n_trials=2), storage=kept)
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[2].user_attrs["origin"] == 1


@pytest.mark.usefixtures("changed_optuna")
def test_where_optuna_looks_different_a_trial_that_was_queued_is_run(kept):
    search(train, SPACE, Plan(n_trials=1), storage=kept)
    optuna.load_study(study_name="study", storage=open_storage(kept)).enqueue_trial({"lr": 0.5})
    study = search(train, SPACE, Plan(n_trials=2), storage=kept)
    assert states(study) == ["COMPLETE", "COMPLETE"]
    assert study.trials[1].params["lr"] == 0.5
