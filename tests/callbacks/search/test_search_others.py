import subprocess
import sys
import time
import warnings
from importlib.util import find_spec

import optuna
import pytest
from search_cases import SPACE, states, train

from callbacks.search import Plan, SearchError, claims, parse_space, search
from callbacks.search.storage import open_storage


@pytest.fixture
def journal(tmp_path):
    return str(tmp_path / "study.journal")


def optuna_trials(storage):
    return optuna.load_study(study_name="study", storage=open_storage(storage)).trials


# --------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(n_trials=0), "n_trials"),
        (Plan(timeout=0), "timeout"),
        (Plan(retries=-1), "retries"),
        (Plan(sampler="tp"), "tpe, gp"),
        (Plan(pruner="best"), "median, hyperband"),
        (Plan(directions=("down",)), "minimize"),
        (Plan(directions=()), "minimize"),
        (Plan(sampler="cmaes", directions=("minimize", "minimize")), "one direction"),
    ],
)
def test_a_plan_that_cannot_be_is_one_line(plan, said):
    with pytest.raises(SearchError, match=said) as caught:
        search(train, SPACE, plan)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(find_spec("cmaes") is not None, reason="cmaes is installed")
def test_a_missing_package_is_named_with_its_command():
    with pytest.raises(SearchError, match="pip install cmaes"):
        search(train, SPACE, Plan(sampler="cmaes"))


def test_a_study_of_another_space_or_direction_is_refused_and_left_alone(journal):
    search(train, SPACE, Plan(n_trials=2), storage=journal)
    other = {**SPACE, "lr": parse_space("log 1e-3..1"), "wd": parse_space("0..1")}
    with pytest.raises(SearchError, match=r"lr was log 0.0001..1.0 and is log 0.001..1.0; wd was absent and is 0..1"):
        search(train, other, Plan(n_trials=3), storage=journal)
    with pytest.raises(SearchError, match="to minimize, not to maximize"):
        search(train, SPACE, Plan(n_trials=3, directions=("maximize",)), storage=journal)
    with pytest.raises(SearchError, match="to minimize, not to minimize and minimize"):
        search(train, SPACE, Plan(n_trials=3, directions=("minimize", "minimize")), storage=journal)
    assert len(optuna_trials(journal)) == 2
    assert len(search(train, other, Plan(n_trials=1, name="other"), storage=journal).trials) == 1


def test_the_study_of_another_program_is_refused(journal):
    study = optuna.create_study(study_name="study", storage=open_storage(journal))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(SearchError, match="another program"):
        search(train, SPACE, storage=journal)


# ------------------------------------------------------------ other processes


def test_a_trial_that_was_queued_is_run(journal):
    search(train, SPACE, Plan(n_trials=1), storage=journal)
    study = optuna.load_study(study_name="study", storage=open_storage(journal))
    study.enqueue_trial({"lr": 0.5})
    again = search(train, SPACE, Plan(n_trials=2), storage=journal)
    assert states(again) == ["COMPLETE", "COMPLETE"]
    assert again.trials[1].params["lr"] == 0.5


def test_a_result_told_after_the_trial_was_given_to_another_does_not_count(journal):
    def overtaken(trial, values):
        if trial.number == 0:  # as another process does when nothing was heard of this one for long
            other = open_storage(journal)
            study_id = other.get_study_id_from_name("study")
            number = other.get_trial_id_from_study_id_trial_number(study_id, 0)
            other.set_trial_state_values(number, state=optuna.trial.TrialState.FAIL)
        return train(trial, values)

    study = search(overtaken, SPACE, Plan(n_trials=2), storage=journal)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[1].params == study.trials[0].params


def test_a_worker_waits_for_the_trials_of_others_and_takes_them_over(journal, monkeypatch):
    """A trial of another machine: it beats for a while and falls silent."""
    monkeypatch.setattr("callbacks.search.claims.LOST_SECONDS", 0.6)
    monkeypatch.setattr("callbacks.search.engine._POLL", 0.05)
    search(train, SPACE, Plan(n_trials=1), storage=journal)
    storage = open_storage(journal)
    far = {**claims.this_process(), "host": "far"}
    template = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs={"owner": far})
    trial_id = storage.create_new_trial(storage.get_study_id_from_name("study"), template_trial=template)
    beats = []

    def alive(progress):
        if progress.running and len(beats) < 6:
            beats.append(progress.elapsed)
            storage.set_trial_user_attr(trial_id, "beat", len(beats))

    study = search(train, SPACE, Plan(n_trials=2), storage=journal, report=alive)
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert len(beats) == 6
    assert study.trials[2].user_attrs["owner"]["host"] != "far"


def test_a_database_has_heartbeats_and_a_trial_of_another_machine_without_them_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr("callbacks.search.storage.LOST_SECONDS", 1)
    monkeypatch.setattr("callbacks.search.claims.LOST_SECONDS", 0.5)
    monkeypatch.setattr("callbacks.search.engine._POLL", 0.2)
    url = f"sqlite:///{tmp_path}/study.db"
    search(train, SPACE, Plan(n_trials=1), storage=url)
    storage = open_storage(url)
    assert storage.get_heartbeat_interval() == 15
    distributions = {"lr": SPACE["lr"].distribution()}
    for host in ("far", "killed before its first beat"):
        template = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params={"lr": 0.25},
            distributions=distributions,
            user_attrs={"owner": {**claims.this_process(), "host": host}},
        )
        trial_id = storage.create_new_trial(storage.get_study_id_from_name("study"), template_trial=template)
        if host == "far":
            storage.record_heartbeat(trial_id)
    study = search(train, SPACE, Plan(n_trials=3), storage=url)
    assert states(study) == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert [trial.params["lr"] for trial in study.trials[1:]] == [0.25] * 4


def test_a_trial_that_an_interrupt_left_running_is_taken_up_by_the_next_search_of_the_process(journal, monkeypatch):
    def interrupted(self, trial, values=None, state=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "tell", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(train, SPACE, Plan(n_trials=2), storage=journal)
    assert [trial.state.name for trial in optuna_trials(journal)] == ["RUNNING"]
    study = search(train, SPACE, Plan(n_trials=2), storage=journal)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]


def test_a_trial_that_is_killed_every_time_counts_as_failed_in_the_end(journal, monkeypatch):
    def interrupted(self, trial, values=None, state=None):
        raise KeyboardInterrupt

    for _ in range(3):
        with monkeypatch.context() as patched:
            patched.setattr(optuna.Study, "tell", interrupted)
            with pytest.raises(KeyboardInterrupt):
                search(train, SPACE, Plan(n_trials=2, retries=2), storage=journal)
    study = search(train, SPACE, Plan(n_trials=2, retries=2), storage=journal)
    assert states(study) == ["FAIL", "FAIL", "FAIL", "COMPLETE"]
    assert [trial.user_attrs.get("reason") for trial in study.trials] == [None, None, "killed 3 times", None]


def test_a_full_disk_is_one_line_and_the_study_goes_on_when_there_is_room(journal, monkeypatch):
    def full(trial, values):
        def fsync(handle):
            raise OSError(28, "No space left on device")

        patched.setattr("os.fsync", fsync)
        return 1.0

    with monkeypatch.context() as patched, pytest.raises(SearchError, match=r"cannot be written \(No space left"):
        search(full, SPACE, Plan(n_trials=2), storage=journal)
    assert states(search(train, SPACE, Plan(n_trials=2), storage=journal))[-1] == "COMPLETE"


def test_owners_are_told_apart_by_machine_its_life_and_their_start():
    with claims.named_search() as name:
        mine = {**claims.this_process(), "run": name}
        assert not claims.is_gone(mine)
        assert claims.is_gone({**mine, "run": "an interrupted one"})
    assert claims.is_gone(mine)
    assert not claims.is_gone({**mine, "host": "elsewhere", "pid": 1})
    assert claims.is_gone({**mine, "life": "before the last boot"})
    assert claims.is_gone({**mine, "began": "1"})
    ended = subprocess.Popen([sys.executable, "-c", ""])
    while claims._state_and_start(ended.pid)[0] not in ("Z", None):  # ended, not yet asked for: a zombie runs no trial
        time.sleep(0.01)
    assert claims.is_gone({**mine, "pid": ended.pid, "began": claims._state_and_start(ended.pid)[1]})
    ended.wait()
    assert claims.is_gone({**mine, "pid": ended.pid})


def test_importing_the_engine_loads_neither_torch_nor_optuna():
    code = "import sys, callbacks.search.engine; print({'torch', 'optuna', 'pytorch_lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_optuna_keeps_silent_and_its_log_is_as_before_afterwards(capfd):
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search(train, SPACE, Plan(n_trials=1, sampler="qmc", pruner="wilcoxon"))
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")
