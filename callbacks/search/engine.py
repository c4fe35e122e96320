"""Search hyperparameters with Optuna: open the study, take its trials, train them and tell what came of them."""

from __future__ import annotations

import errno
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from callbacks.search.claims import TrialClaims, TrialHistory, named_search
from callbacks.search.optuna_internals import REASON, FinishedTrial, engine_of, not_finite
from callbacks.search.plan import OtherSpaceError, Plan, SearchError, make_pruner, make_sampler, one_line
from callbacks.search.results import Progress
from callbacks.search.space import Space, decode, grid
from callbacks.search.storage import is_storage_error, open_storage, quiet, study_lock, why
from callbacks.search.waves import SampledTrial, TrainsTogether, Wave, WaveSampler, suits_waves

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage


Train = Callable[["Trial", dict[str, Any]], float | Sequence[float]]
Report = Callable[[Progress], object]

_POLL = 0.5  # seconds between two looks at what other processes do
_ALIKE = 3  # first trials that fail with the same error before the search gives up
_FULL_OR_GONE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)


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
            with _lost_storage_in_one_line(storage), named_search() as run:
                study = _open_study(opened, storage, space, plan)
                _Search(train, space, plan, study, report or (lambda progress: None)).run(opened, storage, run)
        finally:
            if (engine := engine_of(opened)) is not None:
                engine.dispose()  # it can still be used, and opens new connections then
        return _without_connections(study, opened, storage)


@contextmanager
def _lost_storage_in_one_line(where: str | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL_OR_GONE:
            raise
        raise SearchError(f"The storage {where} cannot be written ({error.strerror}); start again to go on.") from error
    except Exception as error:
        if not is_storage_error(error):
            raise
        reason = why(error.__cause__ or error)
        raise SearchError(f"The storage {where} was lost ({reason}); start again to go on.") from error


def _open_study(storage: BaseStorage, where: str | None, space: Space, plan: Plan) -> Study:
    """Open the study of a plan, new or as it was left."""
    import optuna

    with study_lock(where, storage):
        ways = [optuna.study.StudyDirection[way.upper()] for way in plan.directions]
        study = optuna.create_study(storage=storage, study_name=plan.name, directions=ways, load_if_exists=True)
        there = [way.name.lower() for way in study.directions]
        if there != list(plan.directions):
            raise SearchError(
                f"The study {plan.name!r} in {where} is to {' and '.join(there)}, not to "
                f"{' and '.join(plan.directions)}; give the same directions, or another name."
            )
        _check_space(study, where, {key: str(dimension) for key, dimension in space.items()})
    return study


def _check_space(study: Study, where: str | None, asked: Mapping[str, str]) -> None:
    there: Mapping[str, str] | None = study.user_attrs.get("space")
    named = f"The study {study.study_name!r} in {where}"
    if there is None:
        if study.get_trials(deepcopy=False):
            raise SearchError(f"{named} was made by another program; give another name.")
        study.set_user_attr("space", dict(asked))
        return
    names = [name for name in sorted({*there, *asked}) if there.get(name) != asked.get(name)]
    differ = [f"{name} was {there.get(name, 'absent')} and is {asked.get(name, 'absent')}" for name in names]
    if differ:
        raise OtherSpaceError(f"{named} has another space: {'; '.join(differ)}. Give the same space, or another name.")


def _without_connections(study: Study, storage: BaseStorage, where: str | None) -> Study:
    """Return the study to be handed out, over a storage that keeps no connection to a server."""
    from optuna import load_study

    engine = engine_of(storage)
    if engine is None or engine.dialect.name == "sqlite":
        return study
    return load_study(study_name=study.study_name, storage=open_storage(where))


def _start_values(values: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Return values to start from, if they lie in the space."""
    from optuna.trial import TrialState, create_trial

    for name, value in values.items():
        if name not in space:
            raise SearchError(f"A start value is given for {name!r}, and the space has {', '.join(space)}.")
        dimension = space[name]
        try:
            stored = {name: dimension.store(value)}
            create_trial(state=TrialState.RUNNING, params=stored, distributions={name: dimension.distribution()})
        except (SearchError, TypeError, ValueError):
            raise SearchError(f"The start value {value!r} of {name!r} lies outside its space {dimension}.") from None
    return dict(values)


class _Search:
    """Takes one process's part in a study."""

    def __init__(self, train: Train, space: Space, plan: Plan, study: Study, report: Report) -> None:
        self._train, self._space, self._plan, self._study, self._report = train, space, plan, study, report
        study.pruner = make_pruner(plan.pruner)
        self._sampler = partial(make_sampler, plan.sampler, plan.seed)
        points = []
        if plan.sampler == "grid":
            # As many levels as the first process wanted: with more trials later, the first points stay the same.
            if "grid_points" not in study.user_attrs:
                study.set_user_attr("grid_points", plan.n_trials)
            points = grid(space, int(study.user_attrs["grid_points"]), plan.seed)
        self._given = [*(_start_values(values, space) for values in plan.start), *points]
        self._total = min(plan.n_trials, len(self._given)) if points else plan.n_trials
        self._began = time.monotonic()
        self._errors: list[str] = []

    def run(self, storage: BaseStorage, where: str | None, run: str) -> None:
        """Run all trials there are to be run here."""
        total, retries, given = self._total, self._plan.retries, self._given
        self._claims = TrialClaims(
            self._study, storage, where, self._space, n_trials=total, retries=retries, given=given, run=run
        )
        history = self._claims.history()
        self._at_start = len(history.settled)
        self._tell(history)
        while self._plan.timeout is None or time.monotonic() - self._began < self._plan.timeout:
            if self._run_wave():
                history = self._claims.history()
            else:
                trial = self._claims.claim(self._sampler)
                if trial is not None:
                    self._run_one(trial)
                    self._give_up_if_all_alike()
                history = self._claims.recover()
                self._tell(history)
                if trial is None and len(history.settled) < self._total:
                    time.sleep(_POLL)
            if len(history.settled) >= self._total:
                break

    def _run_wave(self) -> bool:
        """Claim several trials and train them together; return whether this could be and there were any."""
        train: object = self._train
        many = self._claims.writer.writes_many
        if not (many and isinstance(train, TrainsTogether) and suits_waves(train, self._plan)):
            return False
        width = train.together(self._plan.n_trials)
        names: Sequence[str] = getattr(train, "alike", list)()
        draw = WaveSampler(self._study, self._space, self._sampler, names, width=width)
        numbers = self._claims.claim_many(width, draw)
        if not numbers:
            return False
        with self._claims.heartbeats(*numbers):
            try:
                self._train_together(train, numbers)
            except BaseException:
                for number in numbers:
                    with suppress(Exception):
                        self._claims.writer.fail(number)
                raise
        return True

    def _train_together(self, train: TrainsTogether, numbers: Sequence[int]) -> None:
        known = self._study.get_trials(deepcopy=False)
        trials = [SampledTrial(n, decode(self._space, known[n].params), dict(known[n].user_attrs)) for n in numbers]
        groups = train.groups(trials, self._study)
        halving = self._plan.pruner == "halving"
        wave = Wave(self._study, groups, epochs=train.epochs(), halving=halving, finish=self._finish)
        try:
            wave.run()
        except Exception as error:  # whatever it was, each trial may meet it alone
            if isinstance(error, SearchError) or is_storage_error(error):
                raise
        grouped = {member.number for group in groups for member in group.members}
        for number in [*wave.left, *(n for n in numbers if n not in grouped)]:
            self._run_one(self._claims.writer.trial(number))
            self._tell(self._claims.history())

    def _finish(self, finished: Sequence[FinishedTrial]) -> None:
        self._claims.writer.finish(finished)
        self._tell(self._claims.history())

    def _run_one(self, trial: Trial) -> None:
        """Run a trial and tell the study what came of it."""
        from optuna import TrialPruned

        try:
            with self._claims.heartbeats(trial.number):
                values = {name: dimension.suggest(trial, name) for name, dimension in self._space.items()}
                returned = _numbers(self._train(trial, values), len(self._plan.directions))
        except TrialPruned as pruned:
            self._end(trial, "PRUNED", reason=str(pruned) or "pruned")
        except Exception as error:  # whatever a fit raises, it is that trial's end alone
            if isinstance(error, SearchError):  # a mistake that every trial would meet: no trial is spent on it
                self._lose(trial)
                raise
            if is_storage_error(error):
                raise
            is_memory, reason = _is_lack_of_memory(error), one_line(error)
            self._end(trial, "FAIL", reason=f"out of memory ({reason})" if is_memory else reason)
            gc.collect()  # what failed for lack of memory sits in cycles with its traceback
            self._errors.append("" if is_memory else reason)
        except BaseException:
            self._lose(trial)
            raise
        else:
            reason = not_finite(returned)
            self._end(trial, "FAIL" if reason else "COMPLETE", values=None if reason else returned, reason=reason)

    def _lose(self, trial: Trial) -> None:
        with suppress(Exception):
            self._end(trial, "FAIL")

    def _end(self, trial: Trial, state: str, *, values: Sequence[float] | None = None, reason: str = "") -> None:
        import optuna

        try:
            if reason:
                trial.set_user_attr(REASON, reason)
            self._study.tell(trial, values, optuna.trial.TrialState[state])
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            # Taken for lost while this machine slept: another process tries it again, so this result must not count.
            is_over = self._study.get_trials(deepcopy=False)[trial.number].state.is_finished()
            if self._claims.history().place_of(trial.number) is not None and not is_over:
                raise

    def _tell(self, history: TrialHistory) -> None:
        elapsed = time.monotonic() - self._began
        self._report(Progress.of(self._study, self._space, history, self._total, self._at_start, elapsed))

    def _give_up_if_all_alike(self) -> None:
        first = self._errors[:_ALIKE]
        if len(first) == _ALIKE and first[0] and len(set(first)) == 1:
            trials = self._study.get_trials(deepcopy=False)
            if not any(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials):
                raise SearchError(f"The first {_ALIKE} trials all failed with {first[0]}")


def _numbers(returned: object, directions: int) -> list[float]:
    """Return what an objective returned, as floats; TypeError if it is no number, or not one for each direction."""
    items = list(returned) if isinstance(returned, Sequence) else [returned]
    try:
        values = [float(item) for item in items]  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        values = []
    if len(values) != directions:
        raise TypeError(f"the objective must return {directions} number{'s' * (directions > 1)}, not {returned!r}")
    return values


def _is_lack_of_memory(error: BaseException) -> bool:
    """Return whether the machine or a device had no memory left; torch names it in several ways."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    text = str(error).lower()
    return named or "out of memory" in text or "can't allocate memory" in text
