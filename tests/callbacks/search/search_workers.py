"""Runs workers of one study and has them killed: python search_workers.py STORAGE LOG N_TRIALS SEED.

Workers are forked from one process that has imported everything, so that a dozen of them cost little. Three run at any
time. Five die in the middle of a trial and five while they write (on a journal every second of these leaves half a
line, and all leave its lock); then three come that live. The log gets a line for every trial that was finished.
"""

import io
import os
import signal
import sys
import time
from pathlib import Path

import sqlalchemy.event
from dying_workers import run_workers
from optuna.storages import RDBStorage  # noqa: F401  # imported once for all workers
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import Engine

from callbacks.search import Plan, parse_space, search
from callbacks.search import storage as storages

SPACE = {"x": parse_space("0..1.0"), "y": parse_space("log 1e-3..1"), "n": parse_space("pow2 1..64")}
storages.LOCK_SECONDS = 3  # what Optuna allows; every kill of a writer costs the others this long


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Killer:
    """Kills its own process at its nth write: before a database commits a trial, or after a journal's line is there.

    On a journal it may leave the line half written. It is never whole before: whoever saw it so would miss the half.
    """

    def __init__(self, at, tear):
        self.left, self.tear, self.fsync, self.wrote = at, tear, os.fsync, False

    def arm(self):
        os.fsync = self.on_fsync
        if self.tear:  # where Optuna's journal opens its file
            sys.modules[JournalFileBackend.__module__].open = self.open
        sqlalchemy.event.listen(Engine, "before_cursor_execute", self.on_statement)
        sqlalchemy.event.listen(Engine, "commit", self.on_commit)

    def on_statement(self, connection, cursor, statement, *rest):
        self.wrote = self.wrote or (statement.startswith(("INSERT", "UPDATE")) and "trial" in statement)

    def on_commit(self, connection):
        if self.wrote:
            self.wrote = False
            self.count()

    def on_fsync(self, handle):
        self.count()
        self.fsync(handle)

    def open(self, path, mode):
        file = open(path, mode)  # noqa: PTH123, SIM115
        if "a" in mode and self.left == 1:
            whole, file = file, io.BytesIO()
            file.write = lambda line: self.leave_half(whole, line)
        return file

    def leave_half(self, file, line):
        file.write(line[:-17])
        file.flush()
        die()

    def count(self):
        self.left -= 1
        if self.left == 0:
            die()


def worker(storage, log, n_trials, death, at):
    def train(trial, values):
        trial.report(values["x"], 0)
        if death == "trial":
            die()
        time.sleep(0.02)
        with log.open("a") as file:
            file.write(f"{trial.user_attrs['place']}\n")
        return (values["x"] - 0.3) ** 2 + values["y"] + values["n"]

    plan = Plan(n_trials=n_trials, sampler="random", seed=3)
    if death == "write":
        Killer(at, tear=at % 2).arm()
    search(train, SPACE, plan, storage=storage)


def main():
    storage, log, n_trials, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    deaths = [("trial", 0), ("write", 2 + seed)] * 5 + [("none", 0)] * 3
    deaths = [(death, at + i // 2) for i, (death, at) in enumerate(deaths)]
    run_workers(lambda death, at: worker(storage, log, n_trials, death, at), deaths, at_once=3)


if __name__ == "__main__":
    main()
