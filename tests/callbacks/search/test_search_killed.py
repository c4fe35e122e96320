"""Workers that are killed, on every storage; PostgreSQL is a real server."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna

from callbacks.search.storage import open_storage

ROOT = Path(__file__).parents[3]
N_TRIALS = 14


def check_kills(storage, tmp_path, seed):
    log = tmp_path / "finished.txt"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "callbacks")])
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("search_workers.py")),
            storage,
            str(log),
            str(N_TRIALS),
            str(seed),
        ],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "killed 10 ended [0, 0, 0]\n", done.stdout + done.stderr
    assert done.stderr == ""
    study = optuna.load_study(study_name="study", storage=open_storage(storage))
    states = Counter(trial.state.name for trial in study.trials)
    assert set(states) == {"COMPLETE", "FAIL"}
    assert states["COMPLETE"] == N_TRIALS
    whole = [trial.user_attrs["place"] for trial in study.trials if trial.state.name == "COMPLETE"]
    assert sorted(whole) == list(range(N_TRIALS))
    # A trial that was trained to its end may be lost before it is told; none that is told was trained by nobody.
    assert set(map(int, log.read_text().split())) == set(range(N_TRIALS))
    lost = {trial.number: trial for trial in study.trials if trial.state.name == "FAIL"}
    assert all("reason" not in trial.user_attrs for trial in lost.values())
    for trial in study.trials:
        before = [
            other
            for other in study.trials
            if other.user_attrs["place"] == trial.user_attrs["place"] and other.number < trial.number
        ]
        assert trial.user_attrs.get("attempt", 0) == len(before)
        assert all(other.params.items() <= trial.params.items() for other in before if trial.state.name == "COMPLETE")


def test_a_journal_survives_ten_kills_and_half_lines(tmp_path):
    path = tmp_path / "study.journal"
    check_kills(str(path), tmp_path, 0)
    assert [file.name for file in tmp_path.iterdir() if "lock" in file.name] == []


def test_sqlite_survives_ten_kills(tmp_path):
    check_kills(f"sqlite:///{tmp_path}/study.db", tmp_path, 1)


def test_postgresql_survives_ten_kills(tmp_path, postgresql):
    check_kills(postgresql, tmp_path, 2)
