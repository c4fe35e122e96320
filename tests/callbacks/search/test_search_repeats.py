import optuna
import pytest
from search_cases import SPACE, params, states, train

from callbacks.search import Plan, SearchError, best, best_trials, decode, importances, parse_space, search


@pytest.fixture
def journal(tmp_path):
    return str(tmp_path / "study.journal")


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_a_study_repeats_exactly_and_another_seed_is_another_study(sampler):
    plan = Plan(n_trials=13, sampler=sampler)
    one = search(train, SPACE, plan)
    assert params(search(train, SPACE, plan)) == params(one)
    assert params(search(train, SPACE, Plan(n_trials=3, sampler=sampler, seed=1))) != params(one)[:3]
    assert len({values["lr"] for values in params(one)}) == 13


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "grid"])
def test_an_interruption_changes_nothing_of_what_is_tried(journal, sampler):
    plan = Plan(n_trials=14, sampler=sampler)

    def interrupted(trial, values):
        if trial.number in (1, 6):
            raise KeyboardInterrupt
        return train(trial, values)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search(interrupted, SPACE, plan, storage=journal)
    whole = [trial for trial in search(train, SPACE, plan, storage=journal).trials if trial.state.name == "COMPLETE"]
    assert [trial.params for trial in whole] == [trial.params for trial in search(train, SPACE, plan).trials]


def test_a_grid_ends_when_all_of_it_was_tried():
    space = {"h": parse_space("[a, b]"), "n": parse_space("1..3")}
    told = []
    study = search(lambda trial, values: 1.0, space, Plan(n_trials=50, sampler="grid"), report=told.append)
    assert sorted(tuple(decode(space, trial.params).values()) for trial in study.trials) == [
        (h, n) for h in "ab" for n in (1, 2, 3)
    ]
    assert told[-1].total == 6


def test_start_values_are_tried_first_and_what_they_leave_out_is_drawn():
    study = search(train, SPACE, Plan(n_trials=3, start=[{"lr": 0.1, "batch_size": 16, "h": [8]}, {"lr": 0.2}]))
    assert params(study)[0] == {"lr": 0.1, "batch_size": 16, "h": [8]}
    assert params(study)[1]["lr"] == 0.2


@pytest.mark.parametrize("start", [{"lr": 2.0}, {"batch_size": 17}, {"batch_size": 128}, {"h": [9]}, {"wd": 1}])
def test_a_start_value_outside_the_space_is_refused(start):
    with pytest.raises(SearchError, match=str(next(iter(start)))):
        search(train, SPACE, Plan(start=[start]))


@pytest.mark.parametrize("pruner", ["halving", "median", "hyperband", "percentile", "wilcoxon", "none"])
def test_every_pruner_runs_and_only_none_prunes_nothing(pruner):
    def steps(trial, values):
        for step in range(12):
            trial.report(trial.number + step / 100, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(trial.number)

    found = set(states(search(steps, SPACE, Plan(n_trials=14, pruner=pruner, sampler="random"))))
    assert found == ({"COMPLETE"} if pruner == "none" else {"COMPLETE", "PRUNED"})


@pytest.mark.parametrize("ways", [("maximize",), ("minimize", "maximize")])
def test_the_best_trials_follow_the_directions(ways):
    def both(trial, values):
        return [values["lr"], values["lr"]][: len(ways)]

    study = search(both, SPACE, Plan(n_trials=5, directions=ways, sampler="random"))
    rows = best_trials(study, SPACE)
    largest = max(trial.values[0] for trial in study.trials)
    if len(ways) == 1:
        assert rows[0].values[0] == largest == best(study, SPACE).values[0]
        assert len(rows) == 5
    else:
        assert {row.number for row in rows} == set(range(5))
        assert best(study, SPACE) is None


def test_what_matters_is_told_once_there_are_trials_enough():
    few = search(lambda trial, values: values["batch_size"], SPACE, Plan(n_trials=5, sampler="random"))
    assert importances(few, SPACE) == {}
    many = search(lambda trial, values: values["batch_size"], SPACE, Plan(n_trials=15, sampler="random"))
    shares = importances(many, SPACE)
    assert next(iter(shares)) == "batch_size"
    assert sum(shares.values()) == pytest.approx(1)


def test_what_was_pruned_tells_what_matters_and_one_that_grew_beyond_all_bounds_hides_nothing():
    def train(trial, values):
        value = 1e30 if trial.number == 3 else values["batch_size"]
        trial.report(value, 0)
        if trial.number > 2:
            raise optuna.TrialPruned
        return value

    study = search(train, SPACE, Plan(n_trials=15, sampler="random"))
    assert next(iter(importances(study, SPACE))) == "batch_size"
