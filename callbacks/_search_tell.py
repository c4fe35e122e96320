"""Tells a storage what became of trials that were trained together: seldom, as each write costs a disk's time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from callbacks._search_halving import rungs
from callbacks._search_journal import at_once
from callbacks._search_ledger import REASON

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


@dataclass(frozen=True)
class Told:
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


def tell(storage: BaseStorage, ended: Sequence[tuple[int, Told]]) -> None:
    """Write the ends of some trials, given by their ids; in one go to a journal."""
    from optuna.exceptions import UpdateFinishedTrialError

    with at_once(storage):
        for trial_id, told in ended:
            # Taken for lost while this machine slept: another process tries it again, so this one must not count.
            with suppress(UpdateFinishedTrialError):
                _tell(storage, trial_id, told)


def _tell(storage: BaseStorage, trial_id: int, told: Told) -> None:
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
