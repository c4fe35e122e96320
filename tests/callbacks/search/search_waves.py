"""Trials that are trained together and take no time, and workers on them that are killed.

python search_waves.py STORAGE LOG N_TRIALS: two workers run at any time. Four die while they train a wave, four while
they write; then two come that live. The log gets a line for every trial that was trained to an end.
"""

import sys
from pathlib import Path

from dying_workers import run_workers

from callbacks.search import Plan, TrialOutcome, parse_space, search

SPACE = {"x": parse_space("0..1.0"), "n": parse_space("pow2 1..4")}
EPOCHS = 8


class Together:
    """Trains waves of four; the course of a trial is a formula."""

    def __init__(self, log=None, *, at_once=4, before_epoch=lambda epoch: None, course=None):
        self.log, self.at_once, self.before_epoch = log, at_once, before_epoch
        self.course = course or (lambda values, epoch: (values["x"] - 0.3) ** 2 + values["n"] / epoch)
        self.waves, self.singles, self.epochs_run = [], [], 0

    def __call__(self, trial, values):
        self.singles.append(trial.number)
        return self.course(values, EPOCHS)

    def together(self, n_trials):
        return self.at_once

    def epochs(self):
        return EPOCHS

    def groups(self, members, study):
        self.waves.append([member.number for member in members])
        sizes = sorted({member.values["n"] for member in members})
        return [Group(self, [member for member in members if member.values["n"] == n]) for n in sizes]


class Group:
    def __init__(self, owner, members):
        self.owner, self.members = owner, members
        self.left = [member.number for member in members]
        self.courses = {number: [] for number in self.left}

    def run(self, epochs):
        self.owner.before_epoch(epochs)
        for member in self.members:
            if member.number in self.left:
                self.owner.epochs_run += 1
                self.courses[member.number].append(self.owner.course(member.values, epochs))

    def reports(self, number):
        return self.courses[number]

    def hopeless(self, number):
        value = self.courses[number][-1]
        return "" if value == value and value < 100 else f"the loss is {value}"

    def keep(self, numbers):
        self.left = list(numbers)

    def end(self, number, reason):
        if self.owner.log is not None:
            with self.owner.log.open("a") as file:
                file.write(f"{number}\n")
        return TrialOutcome([self.courses[number][-1]], {"epochs": len(self.courses[number])})


def worker(storage, log, n_trials, death, at):
    from search_workers import Killer, die

    def before_epoch(epoch):
        if death == "epoch" and epoch == at:
            die()

    if death == "write":
        Killer(at, tear=at % 2).arm()
    train = Together(log, before_epoch=before_epoch)
    search(train, SPACE, Plan(n_trials=n_trials, sampler="random", seed=3), storage=storage)


def main():
    storage, log, n_trials = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    deaths = [("epoch", 1), ("write", 3), ("epoch", 3), ("write", 6)] * 2 + [("none", 0)] * 2
    run_workers(lambda death, at: worker(storage, log, n_trials, death, at), deaths, at_once=2)


if __name__ == "__main__":
    main()
