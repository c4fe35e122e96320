"""A study by real processes: killed, interrupted, shared; it goes on and counts every trial once."""

import os
import signal
import time
from collections import Counter
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from commands import argv, call_warm, environment, is_loaded_by_every_verb
from study_trials import running, settled, trials, wait_until

FLAGS = ("--data.path=iris", "--model.hidden_sizes=[8]", "--study.pruner=none", "--study.prune_hopeless=false")
FLAGS = (*FLAGS, "--data.batch_size=32")


def wait_for(condition, process):
    def found():
        assert process.poll() is None, process.communicate()
        return condition()

    return wait_until(found)


def start(folder, *flags):
    # What a shell starts in the background ignores Ctrl-C, and so would all that is started from there.
    command = ["env", "--default-signal=INT", *argv("study", *flags)]
    return Popen(command, cwd=folder, env=environment(folder), stdout=PIPE, stderr=PIPE, text=True)


@pytest.mark.timeout(600)
def test_workers_that_are_killed_or_interrupted_lose_no_trial(tmp_path):
    flags = ("--trainer.max_epochs=5000", "--study.n_trials=5", "--study.workers=2")
    process = start(tmp_path, *FLAGS, *flags, "--study.fused=false")  # else the first may take all five at once
    first = wait_for(lambda: len(running(tmp_path)) == 2 and running(tmp_path), process)
    os.kill(first[0], signal.SIGKILL)
    # The other worker goes on; Ctrl-C reaches the parent alone, as a shell without a terminal sends it.
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert f"was killed by signal {signal.SIGKILL:d}" in err
    assert "stopped; the same command goes on" in err
    assert "Traceback" not in out + err
    assert all(not Path(f"/proc/{pid}").exists() for pid in first)
    lost = trials(tmp_path)
    assert [trial.number for trial in lost if "reason" in trial.user_attrs] == []


def test_a_study_killed_in_the_middle_of_a_trial_goes_on_with_the_same_trial(tmp_path):
    flags = (*FLAGS, "--trainer.max_epochs=60", "--study.n_trials=2")
    process = start(tmp_path, *flags)
    wait_for(lambda: running(tmp_path) and trials(tmp_path)[-1].params, process)
    process.kill()
    process.communicate()
    killed = trials(tmp_path)[-1]
    assert killed.state.name == "RUNNING"
    done = call_warm("study", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = trials(tmp_path)
    assert sorted(settled(found)) == [0, 1]
    assert found[killed.number].state.name == "FAIL"
    again = next(trial for trial in found if trial.user_attrs.get("origin") == killed.number)
    assert (again.state.name, again.params) == ("COMPLETE", killed.params)
    # One TensorBoard run a trial: that of the attempt that was killed is gone.
    runs = {path.name for path in (tmp_path / "studies/study").glob("trial_*")}
    assert runs == {f"trial_{trial.number:03d}" for trial in found if trial.state.name == "COMPLETE"}


def test_a_killed_study_keeps_the_weights_of_its_trials_and_picks_among_them_at_its_end(tmp_path):
    def members():
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "studies/study/members").glob("*.pt")}

    flags = (*FLAGS, "--trainer.max_epochs=20", "--study.n_trials=6", "--study.fused=false", "--ensemble=greedy")
    process = start(tmp_path, *flags)
    kept = wait_for(lambda: len(members()) > 1 and members(), process)
    process.kill()
    process.communicate()
    done = call_warm("study", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert kept.items() <= members().items()  # none was trained again
    assert len(members()) == 6
    assert "\nensemble     val_loss" in done.stdout
    assert (tmp_path / "studies/study/ensemble.ckpt").is_file()


def test_two_workers_end_with_exactly_as_many_trials_as_asked_for(tmp_path):
    # Trained together they would be over before the second worker is there.
    flags = (*FLAGS, "--trainer.max_epochs=4", "--study.n_trials=7", "--study.workers=2", "--study.fused=false")
    done = call_warm("study", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = trials(tmp_path)
    assert Counter(t.state.name for t in found) == {"COMPLETE": 7}
    assert sorted(settled(found)) == list(range(7))
    assert len({t.user_attrs["owner"]["pid"] for t in found}) == 2
    assert (tmp_path / "studies/study/best.yaml").is_file()


def test_the_search_of_a_fit_is_known_by_its_short_name(tmp_path):
    flags = ("--data.path=iris", "--model.hidden_sizes=[8]", "--trainer.max_epochs=2")
    search = ("--trainer.callbacks+=OptunaSearch", "--trainer.callbacks.n_trials=2")
    done = call_warm("fit", *flags, *search, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the best of 2 trials" in done.stderr
    assert (tmp_path / "lightning_logs/version_0/found.yaml").is_file()
    assert is_loaded_by_every_verb("callbacks.tuning.optuna_search")
    assert not is_loaded_by_every_verb("optuna")
