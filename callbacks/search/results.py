"""Tell what a search came to: its trials as plain data, how far it is, what mattered, and the lines that say so."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb
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
    best: TrialRow, rows: Sequence[TrialRow], *, monitor: str, shares: Mapping[str, float], edge: str, where: str
) -> list[str]:
    """Return the lines that say what the search came to, from all trials that count; `edge` is what `beyond` said."""
    reached = f"{setting(best.params)} reached {monitor} {best.values[0]:.6g}"
    lines = [f"search: {reached}, the best of {len(rows)} trials ({counted(rows)})."]
    if len(shares) > 1:
        lines.append("  mattered  " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items()))
    told = corners(rows)
    lines += [f"  {'' if at else 'verdicts':<8}  {line}" for at, line in enumerate(told)]
    lines += [f"  edge      {edge}"] if edge else []
    return [*lines, f"  study     {without_passwords(where)}"]


def counted(rows: Sequence[TrialRow]) -> str:
    """Return how many trials ended in which way: `9 complete, 3 pruned`."""
    states, words = [row.state for row in rows], {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return ", ".join(f"{states.count(state)} {word}" for state, word in words.items() if state in states)


_DOES = {"underfit": "underfits", "overfit": "overfits", "diverged": "diverges"}
_SHARE = 0.7  # of the trials in a corner have the verdict
_FEW = 4  # trials below which a corner is none
# How often one of the corners that are tried might fit by chance, if none overlapped. They do: of studies of 12 to 100
# trials over two or four parameters whose verdicts were drawn at random, at most one in sixteen names a corner.
_BY_CHANCE = 0.3
_CUTS, _CUTS_OF_TWO = 64, 8  # of a parameter's range that are tried, alone and together with those of another


def corners(rows: Sequence[TrialRow]) -> list[str]:
    """Return lines that say which verdicts there are, and in which corners of the space they fall.

    A corner is a range from one end of a parameter up to some value, or one of its categories, or two of these at once
    where one alone does not tell: of at least four trials there seven in ten have the verdict, and half as many of
    those outside at most, and not by chance.
    """
    judged = [row for row in rows if row.attrs.get("verdict")]
    if not judged:
        return []
    words = [str(row.attrs["verdict"]) for row in judged]
    counts = [f"{words.count(word)} {word}" for word in ("underfit", "good", "overfit", "diverged", "unknown")]
    early = sum(row.state == "PRUNED" and row.attrs.get("cause") == "still_improving" for row in judged)
    counts[0] += f" ({early} pruned while the loss still fell)" if early else ""
    lines = [", ".join(count for count in counts if not count.startswith("0 "))]
    for verdict, does in _DOES.items():
        hits = sum(1 << at for at, word in enumerate(words) if word == verdict)
        if where := _corner(judged, hits):
            lines.append(f"{does}: {where}")
    return lines


def _corner(rows: Sequence[TrialRow], hits: int) -> str:
    """Return where some of the trials (bits of a number) lie apart from the others; empty if nowhere."""
    names = list(dict.fromkeys(name for row in rows for name in row.params))
    total, everyone = hits.bit_count(), len(rows)

    def gain(corner: int, tried: int) -> tuple[int, int] | None:
        size, inside = corner.bit_count(), (corner & hits).bit_count()
        outside, others = total - inside, everyone - size
        if size < _FEW or not others or inside < _SHARE * size or 2 * outside * size > inside * others:
            return None
        # Fisher's exact test: so many ways to draw the corner's trials hold as many with the verdict, of all ways.
        ways = sum(comb(total, k) * comb(everyone - total, size - k) for k in range(inside, min(size, total) + 1))
        return (2 * inside - size, -size) if tried * ways <= _BY_CHANCE * comb(everyone, size) else None

    def best(tried: Sequence[tuple[str, int]]) -> str:
        found = [(score, text, mask) for text, mask in tried if (score := gain(mask, len(tried)))]
        _, text, mask = max(found, key=lambda each: each[0], default=(None, "", 0))
        return f"{text} ({(mask & hits).bit_count()} of {mask.bit_count()} trials)" if text else ""

    if where := best([side for name in names for side in _sides(rows, name, _CUTS)]):
        return where
    few = [_sides(rows, name, _CUTS_OF_TWO) for name in names]
    pairs = [(a, b) for one, other in combinations(few, 2) for a in one for b in other]
    if where := best([(f"{a[0]} with {b[0]}", a[1] & b[1]) for a, b in pairs]):
        return where
    is_all = everyone >= _FEW and total >= _SHARE * everyone
    return f"nearly everywhere ({total} of {everyone} trials)" if is_all and total < everyone else ""


def _sides(rows: Sequence[TrialRow], name: str, cuts: int) -> list[tuple[str, int]]:
    """Return the ranges from either end of a parameter, or its categories, in words and with their trials as bits."""
    values = [row.params.get(name) for row in rows]
    numbers = [value for value in values if value is not None]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers):
        known = dict.fromkeys(map(str, numbers))
        masks = {text: sum(1 << at for at, value in enumerate(values) if str(value) == text) for text in known}
        return [(f"{name} {text}", mask) for text, mask in masks.items()]
    levels = sorted(set(numbers))
    steps = sorted({round(at * (len(levels) - 2) / max(cuts - 1, 1)) for at in range(cuts)}) if levels[1:] else []
    found = []
    for low, high in ((levels[at], levels[at + 1]) for at in steps):
        below = sum(1 << at for at, value in enumerate(values) if value is not None and value <= low)
        above = sum(1 << at for at, value in enumerate(values) if value is not None and value >= high)
        found.append((f"{name} {'' if low == levels[0] else 'up to '}{_number(low)}", below))
        found.append((f"{name} {'' if high == levels[-1] else 'from '}{_number(high)}", above))
    return found


_EDGE = 0.05  # of a range
_NEAR = 0.25  # of a range, in which the next best must lie too: what does not matter is at an edge by chance, too
_ENOUGH = 8  # trials


def beyond(
    best: TrialRow,
    rows: Sequence[TrialRow],
    space: Space,
    *,
    high: bool,  # whether a high value is good
    flags: Callable[[Mapping[str, str]], str],  # what to type for a wider space, by name
    shown: Mapping[str, str] = {},  # what to call a name of the space
) -> str:
    """Return a line that says where the best trial lies at the edge of the space, and what looks further.

    Empty where it does not, or only at a natural bound such as 0, and with few trials. The next two trials, pruned or
    not, must lie on the same side.
    """
    sign = -1.0 if high else 1.0
    ended = [row for row in rows if row.values and math.isfinite(row.values[0]) and row.number != best.number]
    next_best = sorted(ended, key=lambda row: sign * row.values[0])[:2]
    said, wider = [], {}
    for name, dimension in space.items():
        places = [dimension.place(row.params[name]) for row in (best, *next_best) if name in row.params]
        sure = [place for place in places if place is not None]
        if len(rows) < _ENOUGH or len(sure) < 3:
            continue
        for up, side in ((True, "upper"), (False, "lower")):
            far = [1 - place if up else place for place in sure]
            text = dimension.wider(up=up) if far[0] <= _EDGE and max(far) <= _NEAR else ""
            if text:
                said.append(f"{shown.get(name, name)} {_number(best.params[name])} ({side} end of {dimension})")
                wider[name] = text
    return (
        f"the best trial lies at the edge of the space, {', '.join(said)}: {flags(wider)} looks further" if said else ""
    )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _time(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
