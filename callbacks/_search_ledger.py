"""The books of a study: which trials count, which were lost with their process, and what is to be run next.

A study of `n` trials is `n` *places*. A place is taken by the first trial of it, an original, in the order of trial
numbers, which every storage gives out one by one; should that trial be lost, another attempt at the same place follows,
with the same parameters. So what counts is a matter of the trials alone, and every process comes to the same answer
whatever was killed when: nothing is counted by adding one to something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

ORIGIN = "origin"  # user attribute: number of the original that this trial tries again
ATTEMPT = "attempt"  # user attribute: 1 for the first attempt after the original, 2 for the next, …
REASON = "reason"  # user attribute: why a trial failed by itself or was pruned; a lost trial has none


class _State(Protocol):
    @property
    def name(self) -> str: ...


class TrialLike(Protocol):
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
    lost: TrialLike | None = None
    waiting: TrialLike | None = None


class Ledger:
    """What the trials of a study amount to.

    Args:
        trials: All trials of the study, in any order.
        n_trials: Places in the study. Originals beyond it are surplus.
        retries: Attempts after the original; a place whose last one is lost too counts as failed.
    """

    def __init__(self, trials: Sequence[TrialLike], n_trials: int, retries: int) -> None:
        self._total, self._retries = n_trials, retries
        chains: dict[object, list[TrialLike]] = {}
        for trial in sorted(trials, key=lambda trial: trial.number):
            origin = trial.user_attrs.get(ORIGIN)
            chain = chains.setdefault(trial.number if origin is None else origin, [])
            # Of two attempts of the same rank, started at the same moment, the lower number counts.
            if trial.user_attrs.get(ATTEMPT, 0) == len(chain):
                chain.append(trial)
        self._places = [chain for chain in chains.values() if chain]

    @property
    def places(self) -> list[TrialLike]:
        """The latest attempt at every place that counts, in order."""
        return [chain[-1] for chain in self._places[: self._total]]

    @property
    def settled(self) -> list[TrialLike]:
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

    def _is_lost(self, chain: list[TrialLike]) -> bool:
        last = chain[-1]
        return last.state.name == "FAIL" and REASON not in last.user_attrs and len(chain) <= self._retries


def _ended(trial: TrialLike) -> bool:
    return trial.state.name in ("COMPLETE", "PRUNED", "FAIL")
