"""Storages that cannot be: each is one line, in time."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading

import optuna
import pytest

from callbacks.search import Plan, SearchError, parse_space, search
from callbacks.search import storage as storages
from callbacks.search.storage import open_storage, study_lock

SPACE = {"x": parse_space("0..1.0")}


def refused(storage, said):
    with pytest.raises(SearchError, match=said) as caught:
        search(lambda trial, values: values["x"], SPACE, Plan(n_trials=2), storage=str(storage))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_place_that_is_neither_a_journal_nor_a_url_is_refused():
    refused("study.db", "ending in `.journal`")


def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "table.journal"
    path.write_text("a,b\n1,2\n3")
    refused(path, "is no journal")
    assert path.read_text() == "a,b\n1,2\n3"
    (tmp_path / "folder.journal").mkdir()
    refused(tmp_path / "folder.journal", "cannot be written")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "study.journal", "cannot be written")
    refused(f"sqlite:///{tmp_path}/file/study.db", "cannot be written")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    refused(tmp_path / "study.journal", "folder cannot be written")


def test_a_journal_with_a_broken_line_in_its_midst_is_one_line(tmp_path):
    path = tmp_path / "study.journal"
    search(lambda trial, values: values["x"], SPACE, Plan(n_trials=2), storage=str(path))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3][:9] + lines[4], *lines[5:]]) + "\n")
    refused(path, "cannot be read")


@pytest.mark.parametrize("kept", [3, 5_000])
def test_a_half_line_at_the_end_is_cut_and_nothing_finished_is_lost(tmp_path, kept):
    path = tmp_path / "study.journal"
    search(lambda trial, values: values["x"], SPACE, Plan(n_trials=2), storage=str(path))
    whole = path.read_bytes()
    half = json.dumps({"op_code": 5, "worker_id": "w" * kept}).encode()[: kept + 20]
    path.write_bytes(whole + half)
    study = search(lambda trial, values: values["x"], SPACE, Plan(n_trials=4), storage=str(path))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_first_line_of_which_a_kill_left_half_is_no_end(tmp_path):
    path = tmp_path / "study.journal"
    path.write_bytes(b'{"op_co')
    assert len(search(lambda trial, values: 1.0, SPACE, Plan(n_trials=1), storage=str(path)).trials) == 1


def test_a_writer_whose_lock_was_broken_goes_on(tmp_path):
    path = tmp_path / "study.journal"

    def slow(trial, values):
        lock = tmp_path / "study.journal.lock"
        real = os.fsync

        def once(handle):
            os.fsync = real
            lock.unlink()
            real(handle)

        os.fsync = once
        trial.report(1.0, 0)
        return 1.0

    study = search(slow, SPACE, Plan(n_trials=1), storage=str(path))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]


@pytest.mark.parametrize("folder", ["runs", "moved"])
def test_the_lock_of_a_killed_writer_is_broken_behind_a_relative_path(folder, tmp_path, monkeypatch):
    code = """
import os
from callbacks.search import Plan, parse_space, search
os.fsync = lambda handle: os.kill(os.getpid(), 9)
search(lambda trial, values: 1.0, {"x": parse_space("0..1.0")}, Plan(n_trials=1), storage="runs/study.journal")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert killed.returncode == -9
    assert (tmp_path / "runs" / "study.journal.lock").exists()
    (tmp_path / "runs").rename(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storages, "LOCK_SECONDS", 3)  # what Optuna allows
    study = search(lambda trial, values: 1.0, SPACE, Plan(n_trials=1), storage=f"{folder}/study.journal")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]
    assert [path.name for path in (tmp_path / folder).iterdir()] == ["study.journal"]


def test_a_trial_may_change_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def train(trial, values):
        os.chdir("/")
        trial.report(1.0, 0)
        return 1.0

    study = search(train, SPACE, Plan(n_trials=2), storage="study.journal")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2


def test_a_locked_sqlite_is_one_line_after_the_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(storages, "BUSY_SECONDS", 0.2)
    path = tmp_path / "study.db"
    open_storage(f"sqlite:///{path}")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    refused(f"sqlite:///{path}", "database is locked")
    holder.execute("ROLLBACK")
    holder.close()


def test_a_storage_that_is_lost_during_a_trial_ends_the_search_and_the_trial_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(storages, "BUSY_SECONDS", 0.2)
    path = tmp_path / "study.db"
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def locked(trial, values):
        holder.execute("BEGIN EXCLUSIVE")
        trial.report(1.0, 0)

    with pytest.raises(SearchError, match=r"^The storage .* was lost .*locked.*start again to go on\.$") as caught:
        search(locked, SPACE, Plan(n_trials=1), storage=f"sqlite:///{path}")
    assert "\n" not in str(caught.value)
    holder.execute("ROLLBACK")
    holder.close()
    study = search(lambda trial, values: 1.0, SPACE, Plan(n_trials=1), storage=f"sqlite:///{path}")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]


def test_a_file_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "study.db").write_text("a,b\n" * 400)
    refused(f"sqlite:///{tmp_path}/study.db", "not a database")


@pytest.mark.parametrize("url", ["nosuch://here/there", "postgresql://host:port/name"])
def test_a_url_of_nothing_is_one_line(url):
    refused(url, "no URL of a database")


def test_a_server_that_cannot_be_reached_is_one_line_without_its_password():
    pytest.importorskip("psycopg", reason="the driver is not installed: pip install 'psycopg[binary]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = refused(f"postgresql://me:secret@127.0.0.1:{port}/name", "cannot be opened")
    assert "secret" not in text


def test_a_missing_driver_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    refused("postgresql://me@127.0.0.1/name", r"pip install 'psycopg\[binary\]'")


def test_workers_that_make_the_database_at_once_all_live(tmp_path):
    code = """
import os, sys
from contextlib import nullcontext
from callbacks.search import Plan, parse_space, search
from callbacks.search import storage as storages

storages.open_storage("sqlite://")  # all that there is to import, once
storages.folder_lock = lambda where: nullcontext()  # there is none
workers = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        search(lambda trial, values: 1.0, {"x": parse_space("0..1.0")}, Plan(n_trials=3), storage=sys.argv[1])
        os._exit(0)
    workers.append(pid)
sys.exit(any([os.waitpid(pid, 0)[1] for pid in workers]))
"""
    url = f"sqlite:///{tmp_path}/study.db"
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(study_name="study", storage=open_storage(url))
    whole = [trial.user_attrs["place"] for trial in study.trials if trial.state.name == "COMPLETE"]
    assert sorted(whole) == [0, 1, 2]


def test_the_lock_keeps_threads_apart_and_leaves_no_file(tmp_path):
    place, inside, most = str(tmp_path / "study.journal"), [], []

    def enter():
        with study_lock(place):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.01)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", [b"\x00\xffgarbage\n", b'{"op_code": 99}\n', b'{"op_code": 4, "worker_id"\n{}\n'])
def test_lines_of_others_in_a_journal_end_the_search_in_a_line_and_lose_no_trial(tmp_path, harm):
    path = tmp_path / "study.journal"
    whole = []

    def spoiled(trial, values):
        if trial.number == 2:
            whole.append(path.read_bytes())
            with path.open("ab") as file:
                file.write(harm)
            trial.report(1.0, 0)
        return values["x"]

    with pytest.raises(SearchError, match=r"study\.journal was lost .*start again to go on\.$") as caught:
        search(spoiled, SPACE, Plan(n_trials=5), storage=str(path))
    assert "\n" not in str(caught.value)
    refused(path, r"study\.journal (cannot be read|was lost)")
    path.write_bytes(whole[0])
    study = search(lambda trial, values: values["x"], SPACE, Plan(n_trials=5), storage=str(path))
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len(done) == 5
    assert [trial.number for trial in done[:2]] == [0, 1]


def test_a_pipe_in_the_place_of_a_journal_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.journal")
    refused(tmp_path / "pipe.journal", "is no file")
