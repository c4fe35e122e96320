"""Hand out the trials of a study, each once however many processes ask, and take up those whose process was killed."""

from __future__ import annotations

import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from random import random
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from callbacks.search.optuna_internals import HEARTBEAT, PLACE, REASON, PlainTrialWriter, TrialWriter, is_known
from callbacks.search.space import Space
from callbacks.search.storage import HEARTBEAT_SECONDS, LOST_SECONDS, study_lock

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial


ORIGIN = "origin"  # user attribute: number of the original that this trial tries again
ATTEMPT = "attempt"  # user attribute: 1 for the first attempt after the original, 2 for the next, …
OWNER = "owner"  # user attribute: the process that runs the trial

_PROCESS: dict[int, dict[str, Any]] = {}
_SEARCHES: set[str] = set()  # searches that go on in this process


@contextmanager
def named_search() -> Iterator[str]:
    """Name a search while it goes on: a process outlives an interrupted one, in a notebook for days."""
    name = uuid4().hex[:12]
    _SEARCHES.add(name)
    try:
        yield name
    finally:
        _SEARCHES.discard(name)


def this_process() -> dict[str, Any]:
    """Return this process as plain data; ids are used again, so when it and its machine began stand beside."""
    pid = os.getpid()
    if pid not in _PROCESS:  # asked by the id, since a fork takes the cache along
        _PROCESS.clear()
        try:
            # Starts count from when the machine was started, and a container has ids of its own.
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            life = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
        except OSError:
            life = None
        _PROCESS[pid] = {"host": platform.node(), "life": life, "pid": pid, "began": _state_and_start(pid)[1]}
    return dict(_PROCESS[pid])


def is_elsewhere(owner: Mapping[str, Any]) -> bool:
    """Return whether an owner of trials runs on another machine, of which nothing can be said from here."""
    return bool(owner.get("host") != this_process()["host"])


def is_gone(owner: Mapping[str, Any]) -> bool:
    """Return whether an owner of trials was a search on this machine that ended; machines need different host names."""
    if is_elsewhere(owner):
        return False
    if owner.get("life") != this_process()["life"]:
        return True
    pid = int(owner["pid"])
    if pid == os.getpid() and owner.get("run") not in _SEARCHES:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it lives, as another user's
    state, began = _state_and_start(pid)
    return state in ("Z", "X") or began != owner.get("began")  # Z: killed, and its parent has not asked yet


def _state_and_start(pid: int) -> tuple[str | None, str | None]:
    """Return a process's state, and the clock ticks from its machine's start to its own; None where nothing tells."""
    try:  # proc(5): the name may hold anything but stands in brackets
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None, None
    return fields[0], fields[19]


@dataclass(frozen=True)
class Claim:
    """Names the next trial to run: another attempt at a place, a trial that waits in the queue, or a new place."""

    place: int  # among those of the study, from 0
    attempt: int = 0  # 0 for an original
    lost: FrozenTrial | None = None  # the attempt before, whose parameters are taken; None for a new place
    waiting: FrozenTrial | None = None  # somebody queued it, to be taken out


class TrialHistory:
    """Sorts the trials of a study by their places: which count, which have ended, and which are to be run.

    Originals beyond `n_trials` are surplus. A place whose last retry is lost too counts as failed.
    """

    def __init__(self, trials: Sequence[FrozenTrial], n_trials: int, retries: int) -> None:
        self._total, self._retries = n_trials, retries
        chains: dict[object, list[FrozenTrial]] = {}
        for trial in sorted(trials, key=lambda trial: trial.number):
            origin = trial.user_attrs.get(ORIGIN)
            chain = chains.setdefault(trial.number if origin is None else origin, [])
            # Of two attempts of the same rank, started at the same moment, the lower number counts.
            if trial.user_attrs.get(ATTEMPT, 0) == len(chain):
                chain.append(trial)
        self._chains = [chain for chain in chains.values() if chain]

    @property
    def places(self) -> list[FrozenTrial]:
        """Return the latest attempt at every place that counts, in order."""
        return [chain[-1] for chain in self._chains[: self._total]]

    @property
    def settled(self) -> list[FrozenTrial]:
        """Return those that ended: complete, pruned, failed by themselves, or lost too often."""
        ended = ("COMPLETE", "PRUNED", "FAIL")
        counted = self._chains[: self._total]
        return [chain[-1] for chain in counted if chain[-1].state.name in ended and not self._is_lost(chain)]

    def place_of(self, number: int) -> int | None:
        """Return the place a trial holds; None if it is surplus, or was followed by another attempt."""
        return next((place for place, trial in enumerate(self.places) if trial.number == number), None)

    def claims(self) -> list[Claim]:
        """Return all that is to be run, in order: what waits or was lost, then the new places."""
        found = []
        for place, chain in enumerate(self._chains[: self._total]):
            if chain[-1].state.name == "WAITING":
                found.append(Claim(place, len(chain) - 1, waiting=chain[-1]))
            elif self._is_lost(chain):
                found.append(Claim(place, len(chain), lost=chain[-1]))
        return found + [Claim(place) for place in range(len(self._chains), self._total)]

    def next(self) -> Claim | None:
        """Return what to run now; None if all that remains is run by others, or nothing does."""
        return next(iter(self.claims()), None)

    def origin(self, place: int) -> int:
        """Return the number of the original at a place."""
        return self._chains[place][0].number

    def _is_lost(self, chain: list[FrozenTrial]) -> bool:
        last = chain[-1]
        return last.state.name == "FAIL" and REASON not in last.user_attrs and len(chain) <= self._retries


# From a place, parameters and distributions that are given, to all parameters and distributions.
DrawParameters = Callable[[int, dict[str, Any], dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]


class TrialClaims:
    """Hands out the trials of one study, each exactly once however many processes ask."""

    def __init__(
        self,
        study: Study,
        storage: BaseStorage,
        where: str | None,  # the storage as the user named it, None for memory
        space: Space,
        *,
        n_trials: int,  # places in the study
        retries: int,  # attempts after a lost trial
        given: Sequence[Mapping[str, Any]],  # the values of the first places, which are not drawn
        run: str,  # the name of this search among those of the process
    ) -> None:
        self.study, self._storage, self._where = study, storage, where
        self._space, self._n_trials, self._retries = space, n_trials, retries
        self._given = dict(enumerate(given))
        self._owner = {**this_process(), "run": run}
        self.writer = TrialWriter(study, storage) if is_known(storage) else PlainTrialWriter(study)
        self._last_signs: dict[int, tuple[object, float]] = {}  # of trials of other machines, and when each was seen

    def history(self) -> TrialHistory:
        """Return the trials of the study as they stand."""
        return TrialHistory(self.study.get_trials(deepcopy=False), self._n_trials, self._retries)

    def claim(self, sampled_by: Callable[[int], Any]) -> Trial | None:
        """Take up the next trial as this process's, by the sampler of its place; None if nothing is left to start."""
        while True:
            with study_lock(self._where, self._storage):
                history = self.recover()
                claim = history.next()
                if claim is None:
                    return None
                self.study.sampler = sampled_by(claim.place)
                number = self._start(claim, history)
            place = None if number is None else self._place_kept(number, claim)
            if number is not None and place is not None:
                if place != claim.place:
                    self.study.sampler = sampled_by(place)
                return self.writer.trial(number)
            time.sleep(random() * 0.1)  # those who met once shall not meet again

    def claim_many(self, most: int, draw: DrawParameters) -> list[int]:
        """Take up the next trials, with all their parameters; only where the `writer` writes many.

        Returns their numbers: none if nothing is left to start, or if the next one waits in a queue and is for `claim`.
        """
        with study_lock(self._where, self._storage):
            history = self.recover()
            claims = list(takewhile(lambda claim: claim.waiting is None, history.claims()[:most]))
            started = [(self._start(claim, history, draw), claim) for claim in claims]
        return [n for n, claim in started if n is not None and self._place_kept(n, claim) is not None]

    def recover(self) -> TrialHistory:
        """Fail the trials whose process is gone, without a reason: they are lost. Return the trials afterwards."""
        from optuna.storages import fail_stale_trials

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental; does nothing where the storage has no heartbeats
            fail_stale_trials(self.study)
        trials = self.study.get_trials(deepcopy=False)
        gone = [trial for trial in trials if trial.state.name == "RUNNING" and self._is_gone(trial)]
        for trial in gone:
            is_last = trial.user_attrs.get(ATTEMPT, 0) >= self._retries
            self.writer.fail(trial.number, f"killed {self._retries + 1} times" if is_last else "")
        return self.history() if gone else TrialHistory(trials, self._n_trials, self._retries)

    @contextmanager
    def heartbeats(self, *numbers: int) -> Iterator[None]:
        """Record in a thread of its own that trials of this process are alive, while they run."""
        ended = Event()

        def record() -> None:
            for beat in count(1):
                if ended.wait(HEARTBEAT_SECONDS):
                    return
                for number in numbers:
                    with suppress(Exception):  # the storage's trouble, and the trial will find out itself
                        self.writer.heartbeat(number, beat)

        thread = Thread(target=record, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _start(self, claim: Claim, history: TrialHistory, draw: DrawParameters | None = None) -> int | None:
        """Start a trial with the name of its owner on it; return None if another process was first."""
        attrs: dict[str, Any] = {OWNER: self._owner, PLACE: claim.place}
        if claim.waiting is not None:
            number: int | None = self.writer.start_waiting(claim.waiting.number, attrs)
        else:
            if claim.lost is not None:
                attrs |= {ORIGIN: history.origin(claim.place), ATTEMPT: claim.attempt}
            params, distributions = self._values(claim)
            if draw is not None and len(params) < len(self._space):
                params, distributions = draw(claim.place, params, distributions)
            number = self.writer.start(params, distributions, attrs)
        if number is not None:
            self.writer.heartbeat(number, 0)
        return number

    def _values(self, claim: Claim) -> tuple[dict[str, Any], dict[str, Any]]:
        if claim.lost is not None and claim.lost.params:
            return dict(claim.lost.params), dict(claim.lost.distributions)
        given = {name: value for name, value in self._given.get(claim.place, {}).items() if name in self._space}
        params = {self._space[name].key(name): self._space[name].store(value) for name, value in given.items()}
        return params, {self._space[name].key(name): self._space[name].distribution() for name in given}

    def _place_kept(self, number: int, claim: Claim) -> int | None:
        """Return the place of a trial: that of its claim, or another that nothing is given for; None if it has none.

        Only where another process was first, and no lock kept the two apart, is it another or none.
        """
        place = self.history().place_of(number)
        if place == claim.place:
            return place
        if place is None or claim.lost is not None or self._given.get(place) or self._given.get(claim.place):
            self.writer.fail(number)  # without a reason: what holds a place is tried again, surplus never counts
            return None
        self.writer.set_place(number, place)
        return place

    def _is_gone(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get(OWNER)
        if owner is not None and not is_elsewhere(owner):
            return is_gone(owner)
        # Of a trial of another machine: whether nothing was heard for long, by our own clock, as theirs may be wrong.
        sign = (trial.user_attrs.get(HEARTBEAT), len(trial.intermediate_values), len(trial.params))
        now = time.monotonic()
        last, since = self._last_signs.setdefault(trial.number, (sign, now))
        if last != sign:
            self._last_signs[trial.number] = (sign, now)
        if last != sign or now - since <= LOST_SECONDS:
            return False
        if self.writer.has_heartbeats:
            # They are the database's to judge; but it knows no trial that was killed before its first one: that one is
            # given here, once, and missed from then on.
            self.writer.heartbeat(trial.number, 0)
            self._last_signs[trial.number] = (sign, math.inf)
        return not self.writer.has_heartbeats and self._where is not None
