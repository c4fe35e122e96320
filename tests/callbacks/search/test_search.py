import gc
import time

import optuna
import pytest
from search_cases import SPACE, states, train

from callbacks.search import Plan, SearchError, decode, search
from callbacks.search.storage import open_storage


@pytest.fixture
def journal(tmp_path):
    return str(tmp_path / "study.journal")


@pytest.fixture(autouse=True, scope="module")
def _what_is_imported_is_no_garbage():
    """A search collects garbage behind a failed trial: half a second each among the objects of torch and pytest."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


# ------------------------------------------------------------------- counting


@pytest.mark.parametrize("kept", ["memory", "journal", "sqlite"])
def test_a_study_gets_as_many_trials_as_planned_and_no_more_when_started_again(tmp_path, kept):
    storage = {"memory": None, "journal": f"{tmp_path}/a/s.journal", "sqlite": f"sqlite:///{tmp_path}/b/s.db"}[kept]
    study = search(train, SPACE, Plan(n_trials=4), storage=storage)
    assert states(study) == ["COMPLETE"] * 4
    assert [trial.user_attrs["place"] for trial in study.trials] == [0, 1, 2, 3]
    if storage:
        assert len(search(train, SPACE, Plan(n_trials=4), storage=storage).trials) == 4
        assert len(search(train, SPACE, Plan(n_trials=6), storage=storage).trials) == 6


def test_pruned_and_failed_trials_count(journal):
    def uneven(trial, values):
        if trial.number == 1:
            raise optuna.TrialPruned("hopeless")
        if trial.number == 2:
            raise ValueError("no such\nlayer")
        return 1.0

    study = search(uneven, SPACE, Plan(n_trials=4), storage=journal)
    assert states(study) == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs["reason"] == "hopeless"
    assert study.trials[2].user_attrs["reason"] == "ValueError: no such"


def test_progress_is_told_before_the_first_trial_and_after_each(journal):
    search(train, SPACE, Plan(n_trials=2), storage=journal)
    told = []
    search(train, SPACE, Plan(n_trials=4), storage=journal, report=told.append)
    assert [(one.done, one.total, one.running) for one in told] == [(2, 4, 0), (3, 4, 0), (4, 4, 0)]
    assert told[0].left is None
    assert told[1].left == pytest.approx(told[1].elapsed)
    assert told[2].left == 0
    assert told[2].best.values[0] == min(train(None, decode(SPACE, trial.params)) for trial in optuna_trials(journal))


def optuna_trials(storage):
    return optuna.load_study(study_name="study", storage=open_storage(storage)).trials


def test_no_trial_begins_after_the_timeout():
    started = time.monotonic()
    study = search(lambda trial, values: time.sleep(0.05) or 1.0, SPACE, Plan(n_trials=1000, timeout=0.3))
    assert 1 <= len(study.trials) < 20
    assert time.monotonic() - started < 5


# ------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory (MemoryError)"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out of memory (RuntimeError: CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory (RuntimeError"),
    ],
)
def test_trials_without_memory_fail_and_the_study_goes_on(error, reason):
    def greedy(trial, values):
        if trial.number < 4:
            raise error
        return 1.0

    study = search(greedy, SPACE, Plan(n_trials=5))
    assert states(study) == ["FAIL"] * 4 + ["COMPLETE"]
    assert all(trial.user_attrs["reason"].startswith(reason) for trial in study.trials[:4])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_fails_the_trial(value):
    study = search(lambda trial, values: value if trial.number < 4 else 2.0, SPACE, Plan(n_trials=5))
    assert states(study) == ["FAIL"] * 4 + ["COMPLETE"]
    assert study.trials[0].user_attrs["reason"] == f"returned {value}"


def test_an_objective_that_returns_no_number_is_told_so():
    with pytest.raises(SearchError, match="must return 1 number, not None"):
        search(lambda trial, values: None, SPACE, Plan(n_trials=5))


def test_a_search_ends_when_its_first_trials_all_fail_alike():
    told = []
    with pytest.raises(SearchError, match=r"^The first 3 trials all failed with KeyError: 'val_loss'$"):
        search(lambda trial, values: {}["val_loss"], SPACE, Plan(n_trials=30), report=told.append)
    assert told[-1].failed == 2


def test_failures_after_a_success_do_not_end_it():
    study = search(lambda trial, values: 1 / (trial.number == 0), SPACE, Plan(n_trials=6))
    assert states(study) == ["COMPLETE"] + ["FAIL"] * 5


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_trial_is_tried_again_with_the_same_parameters(journal, interrupt):
    def until_interrupted(trial, values):
        if trial.number == 2:
            raise interrupt
        return train(trial, values)

    with pytest.raises(interrupt):
        search(until_interrupted, SPACE, Plan(n_trials=4), storage=journal)
    study = search(train, SPACE, Plan(n_trials=4), storage=journal)
    assert states(study) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert "reason" not in study.trials[2].user_attrs
    assert study.trials[3].params == study.trials[2].params
    assert study.trials[3].user_attrs["origin"] == 2
    assert study.trials[3].user_attrs["attempt"] == 1


def test_a_mistake_of_the_user_ends_the_search_and_spends_no_trial(journal):
    def misled(trial, values):
        raise SearchError("val_los was not logged")

    with pytest.raises(SearchError, match="val_los was not logged"):
        search(misled, SPACE, Plan(n_trials=2), storage=journal)
    study = search(train, SPACE, Plan(n_trials=2), storage=journal)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
