"""What a study has come to, as plain data: progress, the best trials, what mattered."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from callbacks._search_ledger import REASON, Ledger
from callbacks._search_space import Space, decode
from callbacks._search_storage import quiet

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class TrialRow:
    """One trial.

    Args:
        number: Its number in the study.
        state: COMPLETE, PRUNED, FAIL, RUNNING or WAITING.
        params: Its values by name, as `train` got them.
        values: What it came to, one for each direction; empty if to nothing. Of a pruned trial the last report.
        seconds: How long it took; None if it did not end.
        reason: Why it failed or was pruned.
        attrs: All its user attributes.
    """

    number: int
    state: str
    params: Mapping[str, Any]
    values: tuple[float, ...] = ()
    seconds: float | None = None
    reason: str = ""
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Args:
        done: Trials that count and ended, over all processes.
        total: Trials planned.
        complete: Of those done, how many came to a value.
        pruned: How many were pruned.
        failed: How many failed by themselves.
        running: Trials that run now, over all processes.
        best: The best complete trial; None before the first, and with several directions.
        elapsed: Seconds since this process began.
        left: Seconds until all are done at the pace since then; None before this is known.
    """

    done: int
    total: int
    complete: int
    pruned: int
    failed: int
    running: int
    best: TrialRow | None
    elapsed: float
    left: float | None

    @classmethod
    def of(cls, study: Study, space: Space, books: Ledger, total: int, at_start: int, elapsed: float) -> Progress:
        """Read it from the books; `at_start` is how many were done when this process began."""
        states = [trial.state.name for trial in books.settled]
        done = len(states)
        since = done - at_start
        return cls(
            done=done,
            total=total,
            complete=states.count("COMPLETE"),
            pruned=states.count("PRUNED"),
            failed=states.count("FAIL"),
            running=sum(trial.state.name == "RUNNING" for trial in books.places),
            best=_best(study, space, list(books.settled)),
            elapsed=elapsed,
            left=elapsed / since * (total - done) if since else None,
        )


def best(study: Study, space: Space) -> TrialRow | None:
    """The best complete trial; None if there is none yet, or there are several directions (see `best_trials`)."""
    return _best(study, space, study.get_trials(deepcopy=False))


def _best(study: Study, space: Space, trials: Sequence[Any]) -> TrialRow | None:
    if len(study.directions) > 1:
        return None
    whole = _in_order(study, trials)
    return row_of(whole[0], space) if whole else None


def _in_order(study: Study, trials: Sequence[Any]) -> list[FrozenTrial]:
    sign = -1.0 if study.direction.name == "MAXIMIZE" else 1.0
    whole = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return sorted(whole, key=lambda trial: (sign * trial.values[0], trial.number))


def best_trials(study: Study, space: Space, count: int = 10) -> list[TrialRow]:
    """The best complete trials, best first, equal ones by number; with several directions the Pareto front.

    Args:
        study: The study.
        space: What it searched.
        count: How many at most.
    """
    if len(study.directions) > 1:
        return [row_of(trial, space) for trial in study.best_trials[:count]]
    return [row_of(trial, space) for trial in _in_order(study, study.get_trials(deepcopy=False))[:count]]


def row_of(trial: FrozenTrial, space: Space) -> TrialRow:
    """A trial as plain data."""
    return TrialRow(
        number=trial.number,
        state=trial.state.name,
        params=decode(space, trial.params),
        values=tuple(trial.values or ()),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        reason=str(trial.user_attrs.get(REASON, "")),
        attrs=dict(trial.user_attrs),
    )


def importances(study: Study, space: Space, objective: int = 0, least: int = 8) -> dict[str, float]:
    """How much of the spread of an objective each name explains (fANOVA, Hutter et al. 2014), largest first, sum 1.

    Pruned trials count with their last report, since those that were left to the end say little of what was bad; and
    all by their rank, so that one which grew beyond all bounds does not hide the others.

    Args:
        study: The study.
        space: What it searched.
        objective: Index of the direction.
        least: Trials with a finite value below which nothing can be said.

    Returns:
        Name to share; empty with too few trials, or if all came to the same value.
    """
    import optuna

    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in ("COMPLETE", "PRUNED")]
    whole = [trial for trial in ended if trial.values and math.isfinite(trial.values[objective])]
    order = sorted({trial.values[objective] for trial in whole})
    if len(whole) < least or len(order) < 2:
        return {}
    names = {dimension.key(name): name for name, dimension in space.items()}
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # experimental
        ranked = optuna.create_study()
        for trial in whole:
            rank = float(order.index(trial.values[objective]))
            ranked.add_trial(
                optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=rank)
            )
        evaluator = optuna.importance.FanovaImportanceEvaluator(
            n_trees=32, seed=0
        )  # half of the usual, in half the time
        shares = optuna.importance.get_param_importances(ranked, evaluator=evaluator)
    return {names[key]: float(share) for key, share in shares.items() if key in names}
