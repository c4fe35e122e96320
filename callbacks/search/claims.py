"""Starts the trials of a study, and takes up those whose process was killed. The one place that writes trials."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from random import random
from typing import TYPE_CHECKING, Any, Protocol

from callbacks.search import owners
from callbacks.search.owners import HeartbeatThread
from callbacks.search.plan import rungs
from callbacks.search.space import Space
from callbacks.search.storage import SILENCE, alone, at_once

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial


ORIGIN = "origin"  # user attribute: number of the original that this trial tries again
ATTEMPT = "attempt"  # user attribute: 1 for the first attempt after the original, 2 for the next, …
REASON = "reason"  # user attribute: why a trial failed by itself or was pruned; a lost trial has none


class _State(Protocol):
    @property
    def name(self) -> str: ...


class _TrialLike(Protocol):
    """What is read of an `optuna.trial.FrozenTrial`."""

    number: int

    @property
    def state(self) -> _State: ...

    @property
    def user_attrs(self) -> dict[str, object]: ...


@dataclass(frozen=True)
class Claim:
    """The next trial to run: another attempt at a place, a trial that waits in the queue, or a new place.

    Args:
        place: Index of the place among those of the study, from 0.
        attempt: 0 for an original.
        lost: The attempt before, whose parameters are taken; None for a new place.
        waiting: A trial that somebody queued, to be taken out.
    """

    place: int
    attempt: int = 0
    lost: _TrialLike | None = None
    waiting: _TrialLike | None = None


class TrialHistory:
    """What the trials of a study amount to.

    Args:
        trials: All trials of the study, in any order.
        n_trials: Places in the study. Originals beyond it are surplus.
        retries: Attempts after the original; a place whose last one is lost too counts as failed.
    """

    def __init__(self, trials: Sequence[_TrialLike], n_trials: int, retries: int) -> None:
        self._total, self._retries = n_trials, retries
        chains: dict[object, list[_TrialLike]] = {}
        for trial in sorted(trials, key=lambda trial: trial.number):
            origin = trial.user_attrs.get(ORIGIN)
            chain = chains.setdefault(trial.number if origin is None else origin, [])
            # Of two attempts of the same rank, started at the same moment, the lower number counts.
            if trial.user_attrs.get(ATTEMPT, 0) == len(chain):
                chain.append(trial)
        self._places = [chain for chain in chains.values() if chain]

    @property
    def places(self) -> list[_TrialLike]:
        """The latest attempt at every place that counts, in order."""
        return [chain[-1] for chain in self._places[: self._total]]

    @property
    def settled(self) -> list[_TrialLike]:
        """Those that ended: complete, pruned, failed by themselves, or lost too often."""
        counted = self._places[: self._total]
        return [chain[-1] for chain in counted if _ended(chain[-1]) and not self._is_lost(chain)]

    def place_of(self, number: int) -> int | None:
        """The place a trial holds; None if it is surplus, or was followed by another attempt."""
        return next((place for place, trial in enumerate(self.places) if trial.number == number), None)

    def next(self) -> Claim | None:
        """What to run now; None if all that remains is run by others, or nothing does."""
        return next(iter(self.claims()), None)

    def claims(self) -> list[Claim]:
        """All that is to be run, in order: what waits or was lost, then the new places."""
        found = []
        for place, chain in enumerate(self._places[: self._total]):
            if chain[-1].state.name == "WAITING":
                found.append(Claim(place, len(chain) - 1, waiting=chain[-1]))
            elif self._is_lost(chain):
                found.append(Claim(place, len(chain), lost=chain[-1]))
        return found + [Claim(place) for place in range(len(self._places), self._total)]

    def origin(self, place: int) -> int:
        """The number of the original at a place."""
        return self._places[place][0].number

    def _is_lost(self, chain: list[_TrialLike]) -> bool:
        last = chain[-1]
        return last.state.name == "FAIL" and REASON not in last.user_attrs and len(chain) <= self._retries


def _ended(trial: _TrialLike) -> bool:
    return trial.state.name in ("COMPLETE", "PRUNED", "FAIL")


@dataclass(frozen=True)
class FinishedTrial:
    """The end of a trial.

    Args:
        number: The trial.
        reason: Why it was pruned; empty if it was trained to the end.
        values: What is optimized. A trial that was trained to the end fails if one of them is not finite.
        attrs: Its user attributes.
        reports: What pruning goes by, a value for each epoch. A pruned trial has the last one as its value.
    """

    number: int
    reason: str
    values: Sequence[float]
    attrs: Mapping[str, Any]
    reports: Sequence[float]


def tell(storage: BaseStorage, ended: Sequence[tuple[int, FinishedTrial]]) -> None:
    """Write the ends of some trials, given by their ids; in one go to a journal."""
    from optuna.exceptions import UpdateFinishedTrialError

    with at_once(storage):
        for trial_id, told in ended:
            # Taken for lost while this machine slept: another process tries it again, so this one must not count.
            with suppress(UpdateFinishedTrialError):
                _tell(storage, trial_id, told)


def _tell(storage: BaseStorage, trial_id: int, told: FinishedTrial) -> None:
    from optuna.trial import TrialState

    reports = {step: value for step, value in enumerate(told.reports) if math.isfinite(value)}
    state, values, reason = TrialState.COMPLETE, list(told.values), told.reason
    if reason:
        state, values = TrialState.PRUNED, list(reports.values())[-1:]
    elif not all(math.isfinite(value) for value in values):
        state, values, reason = TrialState.FAIL, [], f"returned {', '.join(map(str, values))}"
    for step in _told_steps(storage, list(reports)):
        storage.set_trial_intermediate_value(trial_id, step, reports[step])
    for name, value in {**told.attrs, **({REASON: reason} if reason else {})}.items():
        storage.set_trial_user_attr(trial_id, name, value)
    storage.set_trial_state_values(trial_id, state, values or None)


def _told_steps(storage: BaseStorage, steps: list[int]) -> list[int]:
    """The steps to write: all, but to a database, that takes some 20 ms for each, the rungs and the last alone."""
    from optuna.storages import RDBStorage

    if not isinstance(storage, RDBStorage):
        return steps
    compared = {epoch - 1 for epoch in rungs(len(steps))}
    return [step for step in steps if step in compared or step == steps[-1]]


# From a place, parameters and distributions that are given to all parameters and distributions.
WaveSampler = Callable[[int, dict[str, Any], dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]

OWNER = "owner"  # user attribute: the process that runs the trial
PLACE = "place"  # user attribute: index of the place that the trial holds
_SIGN = "beat"  # user attribute: counts up while the trial runs, where the storage has no heartbeats of its own


class TrialClaims:
    """Hands out the trials of one study, each exactly once however many processes ask.

    Args:
        study: The study.
        storage: What it is kept in.
        where: The storage as the user named it, None for memory.
        space: What is searched.
        n_trials: Places in the study.
        retries: Attempts after a lost trial.
        given: The values of a place if they are not to be drawn, by its index.
        run: The name of this search among those of the process.
    """

    def __init__(
        self,
        study: Study,
        storage: BaseStorage,
        *,
        where: str | None,
        space: Space,
        n_trials: int,
        retries: int,
        given: Callable[[int], Mapping[str, Any]],
        run: str,
    ) -> None:
        self.study, self._storage, self._where = study, storage, where
        self._space, self._n_trials, self._retries, self._given = space, n_trials, retries, given
        self._me = {**owners.me(), "run": run}
        self._id = storage.get_study_id_from_name(study.study_name)
        self._heard: dict[int, tuple[object, float]] = {}  # trials of other machines: last sign of life, and when

    def ledger(self) -> TrialHistory:
        """The books as they stand."""
        return TrialHistory(self.study.get_trials(deepcopy=False), self._n_trials, self._retries)

    def claim(self, sampled_by: Callable[[int], Any]) -> Trial | None:
        """Take up the next trial.

        Args:
            sampled_by: Makes the sampler for a place.

        Returns:
            The trial, running and owned by this process; None if there is nothing left to start.
        """
        while True:
            with alone(self._where, self._storage):
                books = self.recover()
                claim = books.next()
                if claim is None:
                    return None
                started = self._start(claim, books)
            if started is not None and self._keeps(started, claim):
                from optuna import Trial

                self.study.sampler = sampled_by(int(self._storage.get_trial_user_attrs(started)[PLACE]))
                return Trial(self.study, started)
            time.sleep(random() * 0.1)  # those who met once shall not meet again

    def claim_many(self, count: int, draw: WaveSampler) -> list[int]:
        """Take up the next trials, with all their parameters.

        Args:
            count: How many at most.
            draw: From a place and the parameters and distributions that are given for it to all of them.

        Returns:
            The numbers of the trials, running and owned by this process. None if there is nothing left to start, or if
            the next trial waits in a queue and is for `claim`.
        """
        with alone(self._where, self._storage):
            books = self.recover()
            claims = list(takewhile(lambda claim: claim.waiting is None, books.claims()[:count]))
            started = [(self._start(claim, books, draw), claim) for claim in claims]
        kept = [trial_id for trial_id, claim in started if trial_id is not None and self._keeps(trial_id, claim)]
        return [self._storage.get_trial_number_from_id(trial_id) for trial_id in kept]

    def _keeps(self, trial_id: int, claim: Claim) -> bool:
        """Whether a trial holds the place it was started for, or another that nothing is given for.

        It does, unless another process was first and no lock kept the two apart; then it is surplus, or has moved on.
        """
        place = self.ledger().place_of(int(self._storage.get_trial_number_from_id(trial_id)))
        moved = place is not None and place != claim.place
        if place is None or (moved and (claim.lost is not None or self._given(place) or self._given(claim.place))):
            self._fail(trial_id)  # without a reason: what holds a place is tried again, what is surplus never counts
            return False
        if moved:
            self._storage.set_trial_user_attr(trial_id, PLACE, place)
        return True

    def recover(self) -> TrialHistory:
        """Declare the trials failed whose process is gone; without a reason among their attributes: they are lost.

        Returns:
            The books afterwards.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.storages import fail_stale_trials
        from optuna.trial import TrialState

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental; does nothing where the storage has no heartbeats
            fail_stale_trials(self.study)
        trials = self.study.get_trials(deepcopy=False)
        gone = [trial for trial in trials if trial.state == TrialState.RUNNING and self._is_gone(trial)]
        for trial in gone:
            trial_id = self._trial_id(trial.number)
            if trial.user_attrs.get(ATTEMPT, 0) >= self._retries:
                with suppress(UpdateFinishedTrialError):
                    self._storage.set_trial_user_attr(trial_id, REASON, f"killed {self._retries + 1} times")
            self._fail(trial_id)
        return self.ledger() if gone else TrialHistory(trials, self._n_trials, self._retries)

    def heart(self, *numbers: int) -> HeartbeatThread:
        """Signs of life for trials, given by their numbers, to be entered while they run."""
        ids = [self._trial_id(number) for number in numbers]
        return HeartbeatThread(lambda count: self._beat_all(ids, count))

    def _beat_all(self, ids: Sequence[int], count: int) -> None:
        for trial_id in ids:
            self._beat(trial_id, count)

    def take(self, number: int) -> Trial:
        """A trial that this process has claimed."""
        from optuna import Trial

        return Trial(self.study, self._trial_id(number))

    def lose(self, number: int) -> None:
        """Give up a trial of this process unless it has ended; it will be tried again."""
        self._fail(self._trial_id(number))

    def tell(self, ended: Sequence[FinishedTrial]) -> None:
        """End trials that were trained together."""
        tell(self._storage, [(self._trial_id(each.number), each) for each in ended])

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)

    # ------------------------------------------------------------------ writing

    def _start(self, claim: Claim, books: TrialHistory, draw: WaveSampler | None = None) -> int | None:
        """The id of a trial that is running from its first moment on, with the name of its owner on it."""
        from optuna.trial import TrialState, create_trial

        if claim.waiting is not None:
            trial_id = self._trial_id(claim.waiting.number)
            if not self._storage.set_trial_state_values(trial_id, state=TrialState.RUNNING):
                return None
            self._storage.set_trial_user_attr(trial_id, OWNER, self._me)
            self._storage.set_trial_user_attr(trial_id, PLACE, claim.place)
        else:
            attrs: dict[str, Any] = {OWNER: self._me, PLACE: claim.place}
            if claim.lost is not None:
                attrs |= {ORIGIN: books.origin(claim.place), ATTEMPT: claim.attempt}
            params, distributions = self._values(claim)
            if draw is not None and len(params) < len(self._space):
                params, distributions = draw(claim.place, params, distributions)
            template = create_trial(
                state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs=attrs
            )
            trial_id = self._storage.create_new_trial(self._id, template_trial=template)
        self._beat(trial_id, 0)
        return trial_id

    def _values(self, claim: Claim) -> tuple[dict[str, Any], dict[str, Any]]:
        lost: FrozenTrial | None = claim.lost  # type: ignore[assignment]  # the ledger gives back what it was given
        if lost is not None and lost.params:
            return dict(lost.params), dict(lost.distributions)
        given = {name: value for name, value in self._given(claim.place).items() if name in self._space}
        keys = {name: self._space[name].key(name) for name in given}
        return (
            {keys[name]: self._space[name].store(value) for name, value in given.items()},
            {keys[name]: self._space[name].distribution() for name in given},
        )

    def _fail(self, trial_id: int) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        with suppress(UpdateFinishedTrialError):  # another process saw it too
            self._storage.set_trial_state_values(trial_id, state=TrialState.FAIL)

    # ------------------------------------------------------------ signs of life

    def _beat(self, trial_id: int, count: int) -> None:
        from optuna.storages import JournalStorage, RDBStorage

        if isinstance(self._storage, RDBStorage):
            self._storage.record_heartbeat(trial_id)
        elif isinstance(self._storage, JournalStorage) and count:
            self._storage.set_trial_user_attr(trial_id, _SIGN, count)

    def _is_gone(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get(OWNER)
        if owner is None or owners.is_elsewhere(owner):
            return self._is_silent(trial)
        return owners.is_gone(owner)

    def _is_silent(self, trial: FrozenTrial) -> bool:
        """Whether nothing was heard of a trial for long, by our own clock: those of other machines may be wrong."""
        from optuna.storages import JournalStorage, RDBStorage

        sign = (trial.user_attrs.get(_SIGN), len(trial.intermediate_values), len(trial.params))
        now = time.monotonic()
        heard, since = self._heard.setdefault(trial.number, (sign, now))
        if heard != sign:
            self._heard[trial.number] = (sign, now)
        if heard != sign or now - since <= SILENCE:
            return False
        if isinstance(self._storage, RDBStorage):
            # Heartbeats are the database's to judge; but it knows no trial that was killed before its first one. That
            # one is given here, once, and from then on it is missed.
            self._beat(self._trial_id(trial.number), 0)
            self._heard[trial.number] = (sign, math.inf)
        return isinstance(self._storage, JournalStorage)
