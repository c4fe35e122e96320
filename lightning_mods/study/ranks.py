"""Trials of which each is a fit of several processes, started for it and gone with it."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Trainer

from callbacks.search.plan import SearchError
from lightning_mods.cli.command_line import CommandLine, UsageError, error_line
from lightning_mods.console.terminal import quiet, speak_as, writers_report_once
from lightning_mods.study.processes import Ended, Team
from lightning_mods.study.trial_cli import StudyCLI
from lightning_mods.study.trials import Trials, forget_attempts, others_learn

if TYPE_CHECKING:
    from optuna import Trial


BEGAN = "began"  # sent by a rank that is about to train


@dataclass(frozen=True)
class Task:
    """A trial, as its ranks must know it.

    Args:
        line: The command line, with the classes in it.
        names: What is searched.
        folder: The study's folder.
        number: The trial's.
        values: Flag to value.
        directions: One for each objective.
        pruner: The study's; only its kind is of interest here.
        warns: Whether to show warnings: the first trial's are enough.
    """

    line: CommandLine
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
        cli = StudyCLI(task.line)
        trials = Trials(cli, task.names, task.folder)
    except Exception as error:  # noqa: BLE001  # whatever it is, no other trial would fare better
        pipe.send(Word("mistake", f"{CANNOT_START}: {error_line(error)}"))
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


_PATIENCE = 10.0  # seconds for the other ranks to end once it is known what became of the trial
_GRACE = 1.0  # seconds in which it is heard of a rank that was killed, when rank zero fails for want of it
_PORTS = 3  # attempts to meet at a port that nobody else took in between

_ANSWERS: dict[str, Callable[..., Any]] = {
    "report": lambda trial, value, step: trial.report(value, step),
    "should_prune": lambda trial: trial.should_prune(),
    "set_user_attr": lambda trial, name, value: trial.set_user_attr(name, value),
    "others_learn": others_learn,
}


def check_ranks(trainer: Trainer) -> None:
    """See that a study can start the processes of a fit.

    Args:
        trainer: Of the command line.

    Raises:
        UsageError: It cannot.
    """
    if trainer.world_size == 1:
        return
    strategy: Any = trainer.strategy
    if trainer.num_nodes > 1:
        raise UsageError(
            f"the processes of a trial are all on one machine: --trainer.num_nodes=1, not {trainer.num_nodes}; the "
            "same command on another machine with the same --study.storage takes part in the study."
        )
    if "Subprocess" not in type(strategy.launcher).__name__:
        raise UsageError(
            "the processes of a trial are started by the study, and --trainer.strategy here starts its own; give "
            "--trainer.strategy=ddp."
        )
    if strategy.cluster_environment.creates_processes_externally:
        raise UsageError(
            "a study starts the processes of its trials itself: start it once, without torchrun or srun "
            "(LOCAL_RANK is set)."
        )


class RankTrials:
    """Trains trials on several processes. The storage stays here; rank zero asks and tells through a pipe.

    Args:
        cli: The command.
        space: Names that are searched.
        folder: The study's folder.
    """

    def __init__(self, cli: StudyCLI, space: Iterable[str], folder: Path) -> None:
        self.cli, self.names, self.folder = cli, list(space), folder
        self._count = cli.trainer.world_size
        self._threads = torch.get_num_threads()
        self._warns = True

    def train(self, trial: "Trial", values: Mapping[str, Any]) -> list[float]:
        """Fit with the values; the objectives.

        Raises:
            SearchError: A metric that is never logged; processes that cannot be started.
            optuna.TrialPruned: The trial is hopeless.
            RuntimeError: What a rank raised, under its name; a rank that ended or was killed.
        """
        forget_attempts(trial.study, trial.number, trial.user_attrs, self.folder)
        task = self._task(trial, values)
        self._warns = False
        for attempt in range(1, _PORTS + 1):
            word = self._once(trial, task)
            if attempt == _PORTS or not _found_the_port_taken(word):
                break
        return _result(word)

    def _task(self, trial: "Trial", values: Mapping[str, Any]) -> Task:
        return Task(
            line=self.cli.line,
            names=self.names,
            folder=self.folder,
            number=trial.number,
            values=dict(values),
            directions=list(trial.study.directions),
            pruner=trial.study.pruner,
            warns=self._warns,
        )

    def _once(self, trial: "Trial", task: Task) -> Word:
        team = Team(self._count, train_rank, task, threads=self._threads)
        try:
            team.__enter__()
        except (OSError, EOFError) as error:
            raise SearchError(
                f"{CANNOT_START}: {getattr(error, 'strerror', None) or 'no process was made'}."
            ) from error
        try:
            return _Talk(team, trial).run()
        finally:
            team.__exit__()


class _Talk:
    """What the ranks of a trial say until they end."""

    def __init__(self, team: Team, trial: "Trial") -> None:
        self.team, self.trial = team, trial
        self.began: set[int] = set()
        self.words: dict[int, Word] = {}
        self.limit: float | None = None

    def run(self) -> Word:
        """Listen and answer; the word that counts."""
        while self.team.is_alive and (self.limit is None or time.monotonic() < self.limit):
            rest = None if self.limit is None else max(0.0, self.limit - time.monotonic())
            for rank, message in self.team.hear(rest):
                self._take(rank, message)
        bad = [word for word in self.words.values() if word.kind in ("failed", "mistake")]
        return min(bad, key=lambda word: word.when) if bad else self.words[0]

    def _take(self, rank: int, message: Any) -> None:
        if isinstance(message, Ask):
            self.team.answer(rank, _ANSWERS[message.what](self.trial, *message.args))
        elif message == BEGAN:
            self.began.add(rank)
        elif isinstance(message, Word):
            self.words[rank] = message
        elif isinstance(message, Ended) and rank not in self.words:
            self.words[rank] = self._lost(rank, message)
        if rank in self.words:
            self._set_limit(rank, self.words[rank].kind in ("failed", "mistake"))

    def _set_limit(self, rank: int, failed: bool) -> None:
        """Wait for the others no longer than it is worth."""
        # What rank zero tells is what counts, and it may take its time; where one fails, none gets to an end.
        if rank == 0 or failed:
            patience = _GRACE if rank == 0 and failed else _PATIENCE
            self.limit = min(self.limit or math.inf, time.monotonic() + patience)

    def _lost(self, rank: int, how: Ended) -> Word:
        text = f"rank {rank} of {self.team.count} {how}"
        # Before all others: they fail for want of this one.
        return (
            Word("failed", text, "RankLost", when=0.0)
            if rank in self.began
            else Word("mistake", f"{CANNOT_START}: {text}.", when=0.0)
        )


def _found_the_port_taken(word: Word) -> bool:
    return word.kind == "failed" and ("EADDRINUSE" in word.text or "address already in use" in word.text.lower())


def _result(word: Word) -> list[float]:
    from optuna import TrialPruned

    if word.kind == "pruned":
        raise TrialPruned(word.text)
    if word.kind == "mistake":
        raise SearchError(word.text)
    if word.kind == "failed":
        # Under its own name, which stands in the trial's reason, but of a kind that can be made here.
        kind = MemoryError if word.name == "MemoryError" else RuntimeError
        raise type(word.name, (kind,), {})(word.text)
    return list(word.values)
