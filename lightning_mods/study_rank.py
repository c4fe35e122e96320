"""One of the processes that train a trial together: builds the fit from the command line, and reports to the study."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from callbacks.search import SearchError
from lightning_mods.explain import explain
from lightning_mods.study_cli import StudyCLI
from lightning_mods.study_trials import Trials
from lightning_mods.terminal import quiet, speak_as, writers_report_once

BEGAN = "began"  # sent by a rank that is about to train


@dataclass(frozen=True)
class Task:
    """A trial, as its ranks must know it.

    Args:
        given: The command line, with the classes in it.
        names: What is searched.
        folder: The study's folder.
        number: The trial's.
        values: Flag to value.
        directions: One for each objective.
        pruner: The study's; only its kind is of interest here.
        warns: Whether to show warnings: the first trial's are enough.
    """

    given: Sequence[str]
    names: Sequence[str]
    folder: Path
    number: int
    values: Mapping[str, Any]
    directions: Sequence[Any]
    pruner: Any
    warns: bool


@dataclass(frozen=True)
class Ask:
    """A question of rank zero's to the trial, which waits for the answer.

    Args:
        what: Name of the question.
        args: What belongs to it.
    """

    what: str
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Word:
    """How the trial ended on a rank.

    Args:
        kind: `values`, `pruned`, `mistake` (of the command; no trial is spent on it) or `failed`.
        text: Why.
        name: Of the exception of what failed.
        values: The objectives.
        when: Seconds of a clock that all processes share: what fails on one rank makes the others fail after it.
    """

    kind: str
    text: str = ""
    name: str = ""
    values: tuple[float, ...] = ()
    when: float = field(default_factory=time.monotonic)


class RemoteTrial:
    """The part of a trial that a fit uses; what is asked of it is answered by the process that has the storage.

    Args:
        pipe: Leads there.
        task: The trial.
    """

    def __init__(self, pipe: Connection, task: Task) -> None:
        self._pipe = pipe
        self.number = task.number
        self.study = SimpleNamespace(directions=task.directions, pruner=task.pruner)

    def report(self, value: float, step: int) -> None:
        """Report a value for a step."""
        self._ask("report", value, step)

    def should_prune(self) -> bool:
        """Whether the pruner ends the trial."""
        return bool(self._ask("should_prune"))

    def set_user_attr(self, name: str, value: Any) -> None:
        """Store something with the trial."""
        self._ask("set_user_attr", name, value)

    def others_learn(self) -> bool:
        """Whether other trials of the study learned something."""
        return bool(self._ask("others_learn"))

    def _ask(self, what: str, *args: Any) -> Any:
        self._pipe.send(Ask(what, args))
        return self._pipe.recv()


def train_rank(rank: int, pipe: Connection, task: Task) -> None:
    """Train a trial as one of its ranks; the last that is sent is a `Word`.

    Args:
        rank: From 0; rank zero alone asks and tells the trial anything.
        pipe: To the study.
        task: The trial.
    """
    quiet()
    if not task.warns:
        warnings.simplefilter("ignore")
    speak_as(max(rank, 1))  # what there is to say about the command was said by the study
    try:
        cli = StudyCLI(task.given)
        trials = Trials(cli, task.names, task.folder)
    except Exception as error:  # noqa: BLE001  # whatever it is, no other trial would fare better
        pipe.send(Word("mistake", f"{CANNOT_START}: {explain(error)}"))
        return
    speak_as(rank)
    pipe.send(BEGAN)
    pipe.send(_train(trials, RemoteTrial(pipe, task) if rank == 0 else None, task))


CANNOT_START = "the processes of a trial cannot be started"


def _train(trials: Trials, trial: RemoteTrial | None, task: Task) -> Word:
    from optuna import TrialPruned

    learn = trial.others_learn if trial else bool
    try:
        with writers_report_once():
            return Word("values", values=tuple(trials.fits(trial, task.values, number=task.number, others_learn=learn)))
    except TrialPruned as pruned:
        return Word("pruned", str(pruned))
    except SearchError as error:
        return Word("mistake", str(error))
    except Exception as error:  # noqa: BLE001  # whatever a fit raises, it is that trial's end alone
        return Word("failed", str(error), type(error).__name__)
