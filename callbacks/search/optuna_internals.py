"""Use Optuna beyond what it promises, in this file alone; tried on Optuna 5.0.0.

`Study.ask` and `Study.tell` cannot start a trial that has its owner and all of its values from its first moment on, end
a trial of another process with a reason, or write the ends of many trials in one go. `TrialWriter` does, through the
storage itself and by making an `optuna.Trial`. Where Optuna doesn't look as it did (`is_known`), `PlainTrialWriter`
does what can be done by `ask` and `tell`. `tests/callbacks/search/test_optuna_internals.py` fails when Optuna changes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

from callbacks.search.plan import rungs

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage

PLACE = "place"  # user attribute: index of the place that the trial holds
REASON = "reason"  # user attribute: why a trial failed by itself or was pruned; a lost trial has none
HEARTBEAT = "beat"  # user attribute: counts up while the trial runs, where the storage has no heartbeats of its own


@dataclass(frozen=True)
class FinishedTrial:
    """Says how a trial ended."""

    number: int
    reason: str  # why it was pruned; empty if it was trained to the end
    values: Sequence[float]  # what is optimized; a trial that was trained to the end fails if one is not finite
    attrs: Mapping[str, Any]  # user attributes
    reports: Sequence[float]  # what pruning goes by, one for each epoch; the last one is a pruned trial's value


def not_finite(values: Sequence[float]) -> str:
    """Return why a trial with these values failed; empty if all of them are finite."""
    return "" if all(map(math.isfinite, values)) else f"returned {', '.join(map(str, values))}"


# The parameters that the methods of a storage had in Optuna 5.0.0.
_KNOWN = {
    "create_new_trial": "study_id, template_trial",
    "get_study_id_from_name": "study_name",
    "get_trial_id_from_study_id_trial_number": "study_id, trial_number",
    "get_trial_number_from_id": "trial_id",
    "set_trial_intermediate_value": "trial_id, step, intermediate_value",
    "set_trial_state_values": "trial_id, state, values",
    "set_trial_user_attr": "trial_id, key, value",
}


def is_known(storage: BaseStorage) -> bool:
    """Return whether a storage, and `optuna.Trial`, take what they took in Optuna 5.0.0."""
    from optuna import Trial
    from optuna.storages import RDBStorage

    known = {**_KNOWN, "record_heartbeat": "trial_id"} if isinstance(storage, RDBStorage) else _KNOWN
    calls: list[tuple[Callable[..., Any] | None, str]] = [(getattr(storage, name, None), known[name]) for name in known]
    calls.append((Trial, "study, trial_id"))
    return all(call is not None and ", ".join(signature(call).parameters) == names for call, names in calls)


def engine_of(storage: BaseStorage | None) -> Any:
    """Return SQLAlchemy's engine of a database; None for any other storage, and for one that no longer names it."""
    return getattr(storage, "engine", None)


class TrialWriter:
    """Writes the trials of a study through its storage. Trials are given by their numbers."""

    writes_many = True  # trials that have all of their values when they start, and end together

    def __init__(self, study: Study, storage: BaseStorage) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.storages import JournalStorage, RDBStorage
        from optuna.trial import TrialState

        self._states, self._already_finished = TrialState, UpdateFinishedTrialError
        self.has_heartbeats = isinstance(storage, RDBStorage)  # which the database judges itself
        self._counts_heartbeats = isinstance(storage, JournalStorage)
        self._study, self._storage = study, storage
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._ids: dict[int, int] = {}

    def start(self, params: dict[str, Any], distributions: dict[str, Any], attrs: dict[str, Any]) -> int:
        """Start a trial that has its parameters and attributes from its first moment on; return its number."""
        from optuna.trial import create_trial

        state = self._states.RUNNING
        template = create_trial(state=state, params=params, distributions=distributions, user_attrs=attrs)
        trial_id = self._storage.create_new_trial(self._study_id, template_trial=template)
        number = int(self._storage.get_trial_number_from_id(trial_id))
        self._ids[number] = trial_id
        return number

    def start_waiting(self, number: int, attrs: dict[str, Any]) -> int | None:
        """Start a trial that waits in the queue; return its number, or None if another process was first."""
        if not self._storage.set_trial_state_values(self._id(number), state=self._states.RUNNING):
            return None
        for name, value in attrs.items():
            self._storage.set_trial_user_attr(self._id(number), name, value)
        return number

    def trial(self, number: int) -> Trial:
        """Return a trial that this process has started, to be trained."""
        from optuna import Trial

        return Trial(self._study, self._id(number))

    def set_place(self, number: int, place: int) -> None:
        """Give a trial of this process another place."""
        self._storage.set_trial_user_attr(self._id(number), PLACE, place)

    def heartbeat(self, number: int, count: int) -> None:
        """Record that a trial is alive, for the `count`th time; 0 when it starts."""
        if self.has_heartbeats:
            self._storage.record_heartbeat(self._id(number))  # type: ignore[attr-defined]  # of databases
        elif self._counts_heartbeats and count:
            self._storage.set_trial_user_attr(self._id(number), HEARTBEAT, count)

    def fail(self, number: int, reason: str = "") -> None:
        """Fail a running trial of any process; without a reason it is lost, and will be tried again."""
        with suppress(self._already_finished):  # another process saw it too
            if reason:
                self._storage.set_trial_user_attr(self._id(number), REASON, reason)
            self._storage.set_trial_state_values(self._id(number), state=self._states.FAIL)

    def finish(self, finished: Sequence[FinishedTrial]) -> None:
        """Write the ends of some trials of this process; in one go to a journal, where a write waits for the disk."""
        backend = getattr(self._storage, "backend", None)  # of `open_storage`'s journals
        if backend is not None:
            backend.held_back = []
        try:
            for trial in finished:
                # Taken for lost while this machine slept: another process tries it again, so this one must not count.
                with suppress(self._already_finished):
                    self._finish(self._id(trial.number), trial)
        finally:
            if backend is not None:
                held_back, backend.held_back = backend.held_back, None
                if held_back:
                    backend.append_logs(held_back)
                self._read_past_refused_lines()

    def _finish(self, trial_id: int, trial: FinishedTrial) -> None:
        from optuna.storages import RDBStorage

        reports = {step: value for step, value in enumerate(trial.reports) if math.isfinite(value)}
        state, values, reason = self._states.COMPLETE, list(trial.values), trial.reason
        if reason:
            state, values = self._states.PRUNED, list(reports.values())[-1:]
        elif reason := not_finite(values):
            state, values = self._states.FAIL, []
        steps = list(reports)
        if isinstance(self._storage, RDBStorage):  # takes some 20 ms for each: those that are compared, and the last
            compared = {epoch - 1 for epoch in rungs(len(steps))}
            steps = [step for step in steps if step in compared or step == steps[-1]]
        for step in steps:
            self._storage.set_trial_intermediate_value(trial_id, step, reports[step])
        for name, value in {**trial.attrs, **({REASON: reason} if reason else {})}.items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        self._storage.set_trial_state_values(trial_id, state, values or None)

    def _read_past_refused_lines(self) -> None:
        """Read on in a journal where another process has failed a trial before its end was written."""
        while True:  # each reading stops behind one line that is refused
            with suppress(self._already_finished):
                self._storage.get_all_studies()
                return

    def _id(self, number: int) -> int:
        if number not in self._ids:
            self._ids[number] = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        return self._ids[number]


class PlainTrialWriter:
    """Writes the trials of a study by `Study.ask` and `Study.tell` alone, one after the other.

    Against `TrialWriter`: no waves; trials of other machines are told from lost ones by counted heartbeats on databases
    too; a trial that was killed too often has no reason, and one that was killed before it drew its values draws them
    anew. Without a lock two processes may take up each other's trials.
    """

    writes_many = has_heartbeats = False

    def __init__(self, study: Study) -> None:
        self._study = study
        self._trials: dict[int, Trial] = {}

    def start(self, params: dict[str, Any], distributions: dict[str, Any], attrs: dict[str, Any]) -> int:
        """Queue a trial and take it out; return its number."""
        self._study.enqueue_trial(params, user_attrs=attrs)
        return self.start_waiting(-1, attrs)

    def start_waiting(self, number: int, attrs: dict[str, Any]) -> int:
        """Start the first trial that waits in the queue; return its number."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a database with heartbeats gets none of them
            trial = self._study.ask()
        for name, value in attrs.items():
            trial.set_user_attr(name, value)
        self._trials[trial.number] = trial
        return trial.number

    def trial(self, number: int) -> Trial:
        """Return a trial that this process has started, to be trained."""
        return self._trials[number]

    def set_place(self, number: int, place: int) -> None:
        """Give a trial of this process another place."""
        self._trials[number].set_user_attr(PLACE, place)

    def heartbeat(self, number: int, count: int) -> None:
        """Record that a trial of this process is alive, for the `count`th time; 0 when it starts."""
        if count:
            self._trials[number].set_user_attr(HEARTBEAT, count)

    def fail(self, number: int, reason: str = "") -> None:
        """Fail a running trial of any process, so that it will be tried again."""
        import optuna

        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._study.tell(number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)

    def finish(self, finished: Sequence[FinishedTrial]) -> None:
        """Refuse: without `writes_many` no trials end together."""
        raise NotImplementedError
