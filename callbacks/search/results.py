"""Tell what a search came to: its trials as plain data, how far it is, what mattered, and the lines that say so."""

from __future__ import annotations

import math
import sys
import time
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from callbacks.host.secrets import without_passwords
from callbacks.search.claims import TrialHistory
from callbacks.search.optuna_internals import REASON
from callbacks.search.space import Space, decode
from callbacks.search.storage import quiet

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
    def of(
        cls, study: Study, space: Space, history: TrialHistory, total: int, at_start: int, elapsed: float
    ) -> Progress:
        """Make it of the trials of a study; `at_start` is how many were done when this process began."""
        settled = history.settled
        states, done = [trial.state.name for trial in settled], len(settled)
        complete, pruned, failed = (states.count(state) for state in ("COMPLETE", "PRUNED", "FAIL"))
        running = sum(trial.state.name == "RUNNING" for trial in history.places)
        best = _best(study, space, settled)
        left = elapsed / (done - at_start) * (total - done) if done != at_start else None
        return cls(done, total, complete, pruned, failed, running, best, elapsed, left)


def best(study: Study, space: Space) -> TrialRow | None:
    """Return the best complete trial; None before the first, and with several directions (see `best_trials`)."""
    return _best(study, space, study.get_trials(deepcopy=False))


def _best(study: Study, space: Space, trials: Sequence[Any]) -> TrialRow | None:
    whole = [] if len(study.directions) > 1 else _in_order(study, trials)
    return row_of(whole[0], space) if whole else None


def _in_order(study: Study, trials: Sequence[Any]) -> list[FrozenTrial]:
    sign = -1.0 if study.direction.name == "MAXIMIZE" else 1.0
    whole = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return sorted(whole, key=lambda trial: (sign * trial.values[0], trial.number))


def best_trials(study: Study, space: Space, count: int = 10) -> list[TrialRow]:
    """Return the best complete trials, best first, equal ones by number; with several directions the Pareto front.

    Args:
        study: The study.
        space: What it searched.
        count: How many at most.
    """
    if len(study.directions) > 1:
        return [row_of(trial, space) for trial in study.best_trials[:count]]
    return [row_of(trial, space) for trial in _in_order(study, study.get_trials(deepcopy=False))[:count]]


def row_of(trial: FrozenTrial, space: Space) -> TrialRow:
    """Return a trial as plain data."""
    params, values, attrs = decode(space, trial.params), tuple(trial.values or ()), dict(trial.user_attrs)
    seconds = trial.duration.total_seconds() if trial.duration else None
    return TrialRow(trial.number, trial.state.name, params, values, seconds, str(attrs.get(REASON, "")), attrs)


def importances(study: Study, space: Space, objective: int = 0, least: int = 8) -> dict[str, float]:
    """Return how much of an objective's spread each name explains (fANOVA, Hutter et al. 2014), largest first, sum 1.

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
            params, distributions = trial.params, trial.distributions
            ranked.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=rank))
        # Half of the usual number of trees, in half the time.
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=0)
        shares = optuna.importance.get_param_importances(ranked, evaluator=evaluator)
    return {names[key]: float(share) for key, share in shares.items() if key in names}


EVERY = 5.0  # seconds between two lines where there is no terminal, unless there is a new best


def setting(params: Mapping[str, Any]) -> str:
    """Return values as text: `lr=0.0123, batch_size=64`."""
    return ", ".join(f"{name}={_number(value)}" for name, value in params.items())


class ProgressLine:
    """Shows the progress: on a terminal in one line that is written over, elsewhere a line now and then.

    In place of a name of the space stands what `shown` has for it.
    """

    def __init__(
        self, monitor: str, stream: TextIO | None = None, *, name: str = "search", shown: Mapping[str, str] = {}
    ) -> None:
        self._monitor, self._name, self._shown = monitor, name, shown
        self._stream = stream or sys.stderr
        self._live, self._open = self._stream.isatty(), False
        self._last, self._done = time.monotonic(), 0
        self._best: tuple[float, ...] | None = None

    def show(self, at: Progress) -> None:
        """Show the progress, if it is time; not what is older than what stands there."""
        best = at.best.values if at.best else None
        is_due = time.monotonic() - self._last >= EVERY or best != self._best or at.done == at.total
        if not (at.done >= self._done if self._live else at.done > self._done and is_due):
            return
        self._last, self._done, self._best = time.monotonic(), at.done, best
        line = self._text(at)
        self._stream.write(f"\r{line}\x1b[K" if self._live else f"{line}\n")
        self._stream.flush()
        self._open = self._live

    def _text(self, at: Progress) -> str:
        said = [f"{at.done}/{at.total} trials"]
        if at.best is not None:
            params = {self._shown.get(name, name): value for name, value in at.best.params.items()}
            said.append(f"best {self._monitor} {at.best.values[0]:.4g} with {setting(params)}")
        said += [f"{count} {what}" for count, what in ((at.pruned, "pruned"), (at.failed, "failed")) if count]
        if at.left is not None and at.done < at.total:
            said.append(f"{_time(at.left)} left")
        return f"{self._name}: {', '.join(said)}"

    def end(self) -> None:
        """End the line that is written over."""
        if self._open:
            self._stream.write("\n")
            self._open = False


def closing(
    best: TrialRow, rows: Sequence[TrialRow], *, monitor: str, shares: Mapping[str, float], where: str
) -> list[str]:
    """Return the lines that say what the search came to, from all trials that count."""
    reached = f"{setting(best.params)} reached {monitor} {best.values[0]:.6g}"
    lines = [f"search: {reached}, the best of {len(rows)} trials ({counted(rows)})."]
    if len(shares) > 1:
        lines.append("  mattered  " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items()))
    if corner := corners(rows):
        lines.append(f"  verdicts  {corner}")
    return [*lines, f"  study     {without_passwords(where)}"]


def counted(rows: Sequence[TrialRow]) -> str:
    """Return how many trials ended in which way: `9 complete, 3 pruned`."""
    states, words = [row.state for row in rows], {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return ", ".join(f"{states.count(state)} {word}" for state, word in words.items() if state in states)


def corners(rows: Sequence[TrialRow]) -> str:
    """Return where the verdicts fall: `9 underfit at low lr (0.0001 to 0.002); 3 diverged at high lr (0.4 to 0.9)`.

    Low and high mean that the middle one of them lies in the lowest or highest third of all trials, and none in the
    third at the other end.
    """
    judged = [row for row in rows if row.attrs.get("verdict")]
    numeric = {name: None for row in judged for name, value in row.params.items() if isinstance(value, int | float)}
    said = []
    for verdict in ("underfit", "good", "overfit", "diverged", "unknown"):
        if group := [row for row in judged if row.attrs["verdict"] == verdict]:
            at = " and ".join(filter(None, (_side(name, group, judged) for name in numeric)))
            word = "too short to tell" if verdict == "unknown" else verdict
            said.append(f"{len(group)} {word}" + (f" at {at}" if at else ""))
    return "; ".join(said)


def _side(name: str, group: Sequence[TrialRow], rows: Sequence[TrialRow]) -> str:
    mine = sorted(row.params[name] for row in group if name in row.params)
    everyone = sorted(row.params[name] for row in rows if name in row.params)
    if not mine or len(mine) == len(everyone) or len(set(everyone)) < 3:
        return ""
    first, middle, last = (_rank(value, everyone) for value in (mine[0], mine[len(mine) // 2], mine[-1]))
    low, high = middle < 1 / 3 and last <= 2 / 3, middle > 2 / 3 and first >= 1 / 3
    if not low and not high:
        return ""
    span = _number(mine[0]) if mine[0] == mine[-1] else f"{_number(mine[0])} to {_number(mine[-1])}"
    return f"{'low' if low else 'high'} {name} ({span})"


def _rank(value: Any, values: Sequence[Any]) -> float:
    """Return the share of values that are lower, equal ones counted by half."""
    return (bisect_left(values, value) + bisect_right(values, value)) / 2 / len(values)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _time(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
