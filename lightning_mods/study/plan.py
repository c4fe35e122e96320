"""`Study`: what a command line makes of a study, and taking part in it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.search.engine import search
from callbacks.search.plan import Plan, SearchError
from callbacks.search.results import Progress
from lightning_mods.cli.command_line import CommandLine, UsageError
from lightning_mods.console.terminal import quiet, writers_report_once
from lightning_mods.study.groups import GroupedTrials
from lightning_mods.study.ranks import RankTrials, check_ranks
from lightning_mods.study.space import asked_space, build_space
from lightning_mods.study.trial_cli import StudyCLI, check_folds
from lightning_mods.study.trials import Trials

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy


class Study:
    """A study as a command line describes it.

    Args:
        line: The command line.

    Raises:
        UsageError: What is wrong with them.
    """

    def __init__(self, line: CommandLine) -> None:
        self.line = line
        searched, asked = asked_space(line)
        self.cli = StudyCLI(searched)
        self.flags = self.cli.study
        self.flags.check()
        check_ranks(self.cli.trainer)
        if self.flags.folds:
            check_folds(self.cli.datamodule, self.flags.folds)
        self.space = build_space(self.cli, searched, asked)
        self.root = Path(self.cli.config.trainer.default_root_dir or ".")
        self.folder = self.flags.folder(self.root)
        self.storage = self.flags.place(self.root)
        self.plan = Plan(
            name=self.flags.name,
            n_trials=self.flags.n_trials,
            timeout=self.flags.timeout,
            sampler=self.flags.sampler,
            pruner=self.flags.pruner,
            directions=tuple(self.flags.directions),
            seed=self.flags.seed,
        )
        self.plan.check()

    def train_here(self, report: Callable[[Progress], object]) -> None:
        """Take part in the study until it is done."""
        if self.cli.trainer.world_size > 1:
            train: Any = RankTrials(self.cli, self.space, self.folder).train
        else:
            train = GroupedTrials(Trials(self.cli, self.space, self.folder))
        with writers_report_once():
            search(train, self.space, self.plan, storage=self.storage, report=report)

    def look(self) -> tuple["OptunaStudy", Progress]:
        """The study as it stands and how far it is; nothing is trained."""
        seen: list[Progress] = []
        plan = replace(self.plan, timeout=1e-9)  # over before the first trial
        study = search(_never, self.space, plan, storage=self.storage, report=seen.append)
        return study, seen[-1]


def work(line: CommandLine, send: Callable[[Any], None]) -> None:
    """A worker's part in a study.

    Args:
        line: The command line of the study.
        send: Takes the progress, or what is wrong with the command.
    """
    quiet()
    try:
        Study(line).train_here(send)
    except (SearchError, UsageError) as error:
        send(str(error))


def _never(trial: Any, values: Any) -> float:
    raise AssertionError("no trial is to be trained")
