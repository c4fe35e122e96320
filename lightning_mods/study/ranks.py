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

from callbacks.host.packages import Trainer
from callbacks.search.plan import SearchError
from callbacks.tuning.trials import TrialRunner, others_learn
from lightning_mods.cli.command_line import CommandLine, UsageError, error_line
from lightning_mods.loggers.terminal import quiet, speak_as, writers_report_once
from lightning_mods.study.processes import ChildProcesses, ProcessEnd, rank_processes
from lightning_mods.study.trial_cli import StudyCLI
from lightning_mods.study.trials import StudyFits, forget_attempts

if TYPE_CHECKING:
    from optuna import Trial


BEGAN = "began"  # sent by a rank that is about to train
CANNOT_START = "the processes of a trial cannot be started"


@dataclass(frozen=True)
class RankRequest:
    """A trial of a study, as its ranks must know it."""

    line: CommandLine  # the command line, with the classes in it
    names: Sequence[str]  # what is searched
    folder: Path  # the study's
    number: int
    values: Mapping[str, Any]
    directions: Sequence[Any]
    pruner: Any  # only its kind is of interest here
    warns: bool  # the first trial's warnings are enough


@dataclass(frozen=True)
class TrialCall:
    """A call of a trial's method by rank zero, which waits for what it returns."""

    method: str
    args: tuple[Any, ...]


@dataclass(frozen=True)
class RankResult:
    """How the trial ended on a rank."""

    kind: str  # `values`, `pruned`, `mistake` (of the command; no trial is spent on it) or `failed`
    text: str = ""  # why
    name: str = ""  # of the exception of what failed
    values: tuple[float, ...] = ()  # the objectives
    # Seconds of a clock that all processes share: what fails on one rank makes the others fail after it.
    when: float = field(default_factory=time.monotonic)

    @property
    def is_failure(self) -> bool:
        """Whether no other rank can have come to an end."""
        return self.kind in ("failed", "mistake")


class RemoteTrial:
    """The part of a trial that a fit uses; calls are answered by the process that has the storage."""

    def __init__(self, pipe: Connection, request: RankRequest) -> None:
        self._pipe = pipe
        self.number = request.number
        self.study = SimpleNamespace(directions=request.directions, pruner=request.pruner)

    def report(self, value: float, step: int) -> None:
        """Report a value for a step."""
        self._call("report", value, step)

    def should_prune(self) -> bool:
        """Whether the pruner ends the trial."""
        return bool(self._call("should_prune"))

    def set_user_attr(self, name: str, value: Any) -> None:
        """Store something with the trial."""
        self._call("set_user_attr", name, value)

    def others_learn(self) -> bool:
        """Whether other trials of the study learned something."""
        return bool(self._call("others_learn"))

    def _call(self, method: str, *args: Any) -> Any:
        self._pipe.send(TrialCall(method, args))
        return self._pipe.recv()


def train_rank(rank: int, pipe: Connection, request: RankRequest) -> None:
    """Train a trial as one of its ranks, of which rank zero alone calls it; the last to be sent is a `RankResult`."""
    quiet()
    if not request.warns:
        warnings.simplefilter("ignore")
    speak_as(max(rank, 1))  # what there is to say about the command was said by the study
    try:
        runner = StudyFits(StudyCLI(request.line), request.names, request.folder).runner(ended=False)
    except Exception as error:  # noqa: BLE001  # whatever it is, no other trial would fare better
        pipe.send(RankResult("mistake", f"{CANNOT_START}: {error_line(error)}"))
        return
    speak_as(rank)
    pipe.send(BEGAN)
    pipe.send(_train(runner, RemoteTrial(pipe, request) if rank == 0 else None, request))


def _train(runner: TrialRunner, trial: RemoteTrial | None, request: RankRequest) -> RankResult:
    from optuna import TrialPruned

    learn = trial.others_learn if trial else bool
    try:
        with writers_report_once():
            found = runner.train(trial, request.values, number=request.number, others_learn=learn)
            return RankResult("values", values=tuple(found))
    except TrialPruned as pruned:
        return RankResult("pruned", str(pruned))
    except SearchError as error:
        return RankResult("mistake", str(error))
    except Exception as error:  # noqa: BLE001  # whatever a fit raises, it is that trial's end alone
        return RankResult("failed", str(error), type(error).__name__)


_PATIENCE = 10.0  # seconds for the other ranks to end once it is known what became of the trial
_GRACE = 1.0  # seconds in which it is heard of a rank that was killed, when rank zero fails for want of it


def check_ranks(trainer: Trainer) -> None:
    """Raise a UsageError if a study cannot start the processes of a command line's fit."""
    if trainer.world_size == 1:
        return
    strategy: Any = trainer.strategy
    if trainer.num_nodes > 1:
        how = "the same command on another machine with the same --study.storage takes part in the study"
        here = f"--trainer.num_nodes=1, not {trainer.num_nodes}"
        raise UsageError(f"the processes of a trial are all on one machine: {here}; {how}.")
    if "Subprocess" not in type(strategy.launcher).__name__:
        how = "the study, and --trainer.strategy here starts its own; give --trainer.strategy=ddp"
        raise UsageError(f"the processes of a trial are started by {how}.")
    if strategy.cluster_environment.creates_processes_externally:
        how = "start it once, without torchrun or srun (LOCAL_RANK is set)"
        raise UsageError(f"a study starts the processes of its trials itself: {how}.")


class RankTrialRunner:
    """Trains trials on processes of their own. The storage stays here; rank zero calls the trial through a pipe."""

    def __init__(self, cli: StudyCLI, space: Iterable[str], folder: Path) -> None:
        self._cli, self._names, self._folder = cli, list(space), folder
        self._threads = torch.get_num_threads()
        self._warns = True

    def __call__(self, trial: "Trial", values: Mapping[str, Any]) -> list[float]:
        """Train a trial and return its objectives; what a rank raised is raised under its name."""
        forget_attempts(trial.study, trial.number, trial.user_attrs, self._folder)
        known = (self._cli.line, self._names, self._folder, trial.number, dict(values))
        request = RankRequest(*known, list(trial.study.directions), trial.study.pruner, self._warns)
        self._warns = False
        return _objectives(self._once(trial, request))

    def _once(self, trial: "Trial", request: RankRequest) -> RankResult:
        ranks = rank_processes(self._cli.trainer.world_size, train_rank, request, threads=self._threads)
        try:
            ranks.__enter__()
        except (OSError, EOFError) as error:
            why = getattr(error, "strerror", None) or "no process was made"
            raise SearchError(f"{CANNOT_START}: {why}.") from error
        try:
            return _RankExchange(ranks, trial).run()
        finally:
            ranks.__exit__()


class _RankExchange:
    """Answers the calls of a trial's ranks, and gathers their results."""

    def __init__(self, ranks: ChildProcesses, trial: "Trial") -> None:
        self._ranks = ranks
        self._began: set[int] = set()
        self._results: dict[int, RankResult] = {}
        self._limit: float | None = None
        self._methods: Mapping[str, Callable[..., Any]] = {
            "report": trial.report,
            "should_prune": trial.should_prune,
            "set_user_attr": trial.set_user_attr,
            "others_learn": lambda: others_learn(trial.study),
        }

    def run(self) -> RankResult:
        """Serve the ranks until they end; return the result that counts."""
        while self._ranks.is_alive and (self._limit is None or time.monotonic() < self._limit):
            rest = None if self._limit is None else max(0.0, self._limit - time.monotonic())
            for rank, message in self._ranks.receive(rest):
                self._take(rank, message)
        bad = [result for result in self._results.values() if result.is_failure]
        return min(bad, key=lambda result: result.when) if bad else self._results[0]

    def _take(self, rank: int, message: Any) -> None:
        if isinstance(message, TrialCall):
            self._ranks.send(rank, self._methods[message.method](*message.args))
        elif message == BEGAN:
            self._began.add(rank)
        elif isinstance(message, RankResult):
            self._results[rank] = message
        elif isinstance(message, ProcessEnd) and rank not in self._results:
            self._results[rank] = self._lost(rank, message)
        result = self._results.get(rank)
        # What rank zero tells is what counts, and it may take its time; where one fails, none gets to an end.
        if result is not None and (rank == 0 or result.is_failure):
            patience = _GRACE if rank == 0 and result.is_failure else _PATIENCE
            self._limit = min(self._limit or math.inf, time.monotonic() + patience)

    def _lost(self, rank: int, how: ProcessEnd) -> RankResult:
        text = f"rank {rank} of {self._ranks.count} {how}"
        began = rank in self._began
        kind, why = ("failed", text) if began else ("mistake", f"{CANNOT_START}: {text}.")
        return RankResult(kind, why, "RankLost", when=0.0)  # before all others: they fail for want of this one


def _objectives(result: RankResult) -> list[float]:
    from optuna import TrialPruned

    if result.kind == "pruned":
        raise TrialPruned(result.text)
    if result.kind == "mistake":
        raise SearchError(result.text)
    if result.kind == "failed":
        # Under its own name, which stands in the trial's reason, but of a kind that can be made here.
        kind = MemoryError if result.name == "MemoryError" else RuntimeError
        raise type(result.name, (kind,), {})(result.text)
    return list(result.values)
