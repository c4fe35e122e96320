"""Search hyperparameters with Optuna: the loop that takes trials, trains them and tells what came of them."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from callbacks.search import owners
from callbacks.search import study as studies
from callbacks.search.claims import REASON, TrialClaims, TrialHistory
from callbacks.search.plan import (
    Plan,
    SearchError,
    make_pruner,
    make_sampler,
)
from callbacks.search.results import (
    Progress,
)
from callbacks.search.space import (
    Space,
    grid,
)
from callbacks.search.storage import (
    close_storage,
    lost_storage_in_one_line,
    open_storage,
    quiet,
)
from callbacks.search.waves import (
    Together,
    TrainsTogether,
)

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage


Train = Callable[["Trial", dict[str, Any]], float | Sequence[float]]
Report = Callable[[Progress], object]

_POLL = 0.5  # seconds between two looks at what other processes do
_ALIKE = 3  # first trials that fail with the same error before the search gives up


def search(
    train: Train, space: Space, plan: Plan | None = None, *, storage: str | None = None, report: Report | None = None
) -> Study:
    """Run trials until the whole study has as many as planned; joins and resumes a study that is there.

    With nothing left to start it waits for the trials that other processes run, and takes over those of a process that
    dies meanwhile.

    Args:
        train: Called with the trial and the values by name, returns what is to be optimized. It may raise
            `optuna.TrialPruned`. Whatever else it raises fails the trial; the study goes on. A `SearchError` and what
            is no `Exception` (Ctrl-C, `SystemExit`) fail the trial as lost, to be tried again, and go on up.
        space: Name to dimension, see `parse_space`.
        plan: How to search; None takes the defaults.
        storage: A path ending in `.journal`, a URL such as `sqlite:///study.db` or `postgresql://user@host/name`, or
            None for memory. Journals and SQLite are for one machine's processes or a shared folder with working locks.
        report: Called with the progress before the first trial, after each, and while waiting.

    Returns:
        The study.

    Raises:
        SearchError: A plan, space or storage that cannot be; a study of another space or direction; the first trials
            all fail with the same error.
    """
    plan = plan or Plan()
    plan.check()
    if not space:
        raise SearchError("A search needs a space: one name and its range at least.")
    with quiet():
        opened = open_storage(storage, keep=True)
        try:
            with lost_storage_in_one_line(), owners.run() as name:
                study = studies.open_study(opened, storage, space, plan.name, plan.directions)
                _Search(train, space, plan, study, report or (lambda progress: None)).run(opened, storage, name)
        finally:
            close_storage(opened)
        return studies.reopened(study, opened, storage)


class _Search:
    """One process's part in a study."""

    def __init__(self, train: Train, space: Space, plan: Plan, study: Study, report: Report) -> None:
        self._train, self._space, self._plan, self._study, self._report = train, space, plan, study, report
        study.pruner = make_pruner(plan.pruner)
        points = self._grid() if plan.sampler == "grid" else []
        self._given = [*(studies.checked(values, space) for values in plan.start), *points]
        self._total = min(plan.n_trials, len(self._given)) if points else plan.n_trials
        self._began = time.monotonic()
        self._errors: list[str] = []
        self._at_start: int | None = None  # trials that were done when this process began

    def run(self, storage: BaseStorage, where: str | None, name: str) -> None:
        """All trials there are to be run here."""
        self._desk = TrialClaims(
            self._study,
            storage,
            where=where,
            space=self._space,
            n_trials=self._total,
            retries=self._plan.retries,
            given=lambda place: self._given[place] if place < len(self._given) else {},
            run=name,
        )
        self._tell(self._desk.ledger())
        together = self._together()
        while not self._is_late():
            if together is not None and together.next():
                books = self._desk.ledger()
                if len(books.settled) >= self._total:
                    break
                continue
            trial = self._desk.claim(lambda place: make_sampler(self._plan.sampler, self._plan.seed, place))
            if trial is not None:
                self._one(trial)
                self._give_up_if_all_alike()
            books = self._desk.recover()
            self._tell(books)
            if len(books.settled) >= self._total:
                break
            if trial is None:
                time.sleep(_POLL)

    def _together(self) -> Together | None:
        """Who trains several trials at once, where this can be."""
        train: object = self._train
        if not isinstance(train, TrainsTogether) or not Together.suits(train, self._plan):
            return None
        return Together(
            train,
            self._space,
            self._plan,
            study=self._study,
            desk=self._desk,
            alone=self._one,
            progress=lambda: self._tell(self._desk.ledger()),
        )

    def _one(self, trial: Trial) -> None:
        """Run a trial and tell the study what came of it."""
        from optuna import TrialPruned
        from optuna.trial import TrialState

        try:
            with self._desk.heart(trial.number):
                values = {name: dimension.suggest(trial, name) for name, dimension in self._space.items()}
                told = studies.numbers(self._train(trial, values), len(self._plan.directions))
        except TrialPruned as pruned:
            self._end(trial, TrialState.PRUNED, reason=str(pruned) or "pruned")
        except SearchError:  # a mistake that every trial would meet: no trial is spent on it
            with suppress(Exception):
                self._end(trial, TrialState.FAIL)
            raise
        except Exception as error:  # whatever a fit raises, it is that trial's end alone
            if studies.is_storage_trouble(error):
                raise
            self._end(trial, TrialState.FAIL, reason=studies.reason(error))
            gc.collect()  # what failed for lack of memory sits in cycles with its traceback
            self._errors.append("" if studies.is_memory(error) else studies.reason(error))
        except BaseException:
            with suppress(Exception):
                self._end(trial, TrialState.FAIL)
            raise
        else:
            if all(math.isfinite(value) for value in told):
                self._end(trial, TrialState.COMPLETE, values=told)
            else:
                self._end(trial, TrialState.FAIL, reason=f"returned {', '.join(map(str, told))}")

    def _end(self, trial: Trial, state: Any, *, values: Sequence[float] | None = None, reason: str = "") -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            if reason:
                trial.set_user_attr(REASON, reason)
            self._study.tell(trial, values, state)
        except (UpdateFinishedTrialError, ValueError):
            # Taken for lost while this machine slept: another process tries it again, so this result must not count.
            if self._desk.ledger().place_of(trial.number) is not None and not studies.is_over(
                self._study, trial.number
            ):
                raise

    def _is_late(self) -> bool:
        return self._plan.timeout is not None and time.monotonic() - self._began >= self._plan.timeout

    def _tell(self, books: TrialHistory) -> None:
        self._at_start = len(books.settled) if self._at_start is None else self._at_start
        elapsed = time.monotonic() - self._began
        self._report(Progress.of(self._study, self._space, books, self._total, self._at_start, elapsed))

    def _give_up_if_all_alike(self) -> None:
        first = self._errors[:_ALIKE]
        if len(first) == _ALIKE and first[0] and len(set(first)) == 1 and not studies.any_worked(self._study):
            raise SearchError(f"The first {_ALIKE} trials all failed with {first[0]}")

    def _grid(self) -> list[dict[str, Any]]:
        # As many levels as the first process wanted: with more trials later, the first points stay the same.
        return grid(self._space, studies.once(self._study, "grid_points", self._plan.n_trials), self._plan.seed)
