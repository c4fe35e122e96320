"""The verdict on a run: underfit, good, overfit, diverged or unknown; how sure, why, and what to do next.

Rules settle what is plain (a loss that is no number, no validation, too few evaluations). Between underfit,
good and overfit two small ensembles of trees decide, fitted on labelled runs (`benchmarks/runs`, where the
table of results is); their numbers stand in `trees.json`. Standard library only; a millisecond for 1 000 epochs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, islice
from math import exp, isfinite, sqrt

from callbacks.diagnosis.changes import expected_changes
from callbacks.diagnosis.curves import Curve, ends_in_nan, ends_infinite, read_curve, repeats
from callbacks.diagnosis.evidence import Change, Evidence, Settings
from callbacks.diagnosis.features import NAMES, fall_of_itself, features
from callbacks.diagnosis.fit_features import fit_features
from callbacks.diagnosis.trees import shipped, total
from callbacks.diagnosis.words.advice import Advice, Knobs, advice_for
from callbacks.diagnosis.words.wording import RunFacts, course_of, onset_of, reason_for

Values = Sequence[float | None]

FEWEST = 4  # finite evaluations; with three, a line and a bend cannot be told apart
STUCK = 0.018  # of the trivial loss: gained less, it never left it. The labels' 2 %, less some noise
CLEAR = 0.40  # the least probability a verdict is given with; a third is a guess among three
BLOWN_UP = 0.5  # both losses end this share of the trivial loss above it, and no lower than they began
FLAT = 0.03  # of the training loss's own fall, over the second half: no longer moving
HELD = 0.10  # of its own rise may a metric have lost and still count as held

# A long curve's fresh turn: after at least so many of its (thinned) points, at most this share of them, most
# steps up. On OverfitGuard's 419 histories of 1 000 epochs three in four such turns went on to overfit, and
# waiting for the rise to be large costs a hundred epochs more.
TURN_POINTS, TURN_SHARE, TURN_RISING, TURN_ERRORS = 4, 0.12, 0.75, 4.5
LONG = 100  # evaluations
TURN_ODDS = 0.6


class Fit(StrEnum):
    """What became of a run."""

    UNDERFIT = "underfit"
    GOOD = "good"
    OVERFIT = "overfit"
    DIVERGED = "diverged"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Diagnosis:
    """A verdict with its grounds.

    Attributes:
        fit: the verdict; always the likeliest of `probabilities`.
        cause: why, in one word: `still_improving`, `not_learning`, `cannot_fit` (underfit); `healthy`,
            `overconfident` (good); `memorising` (overfit); `exploded` (diverged); `too_few_epochs`,
            `no_validation`, `loss_is_no_fit`, `unclear` (unknown).
        probabilities: of each verdict; they add up to one.
        best_epoch: the epoch of the lowest smoothed validation loss, counted from 0; no first value that a later one
            is below with its neighbours; None without one.
        onset_epoch: the epoch from which validation loss stays above its best; None unless it clearly
        worsened.
        reason: one sentence with the numbers.
        advice: what to do, the likeliest help first.
        changes: single changes that are expected to lower the loss, the one with the largest gain first.
        plan: the advice with the flags that do it and the gain it promises, in the order of `advice`.
    """

    fit: Fit
    cause: str
    probabilities: dict[Fit, float]
    best_epoch: int | None
    onset_epoch: int | None
    reason: str
    advice: tuple[str, ...]
    changes: tuple[Change, ...] = ()
    plan: tuple[Advice, ...] = ()


def diagnose(
    train_loss: Values,
    val_loss: Values,
    *,
    val_metric: Values | None = None,
    metric_mode: str = "max",
    baseline_loss: float | None = None,
    flags: Collection[str] = (),
    framework: str | None = None,
    evidence: Evidence | None = None,
) -> Diagnosis:
    """Say what became of a run, from its curves alone.

    The verdict does not change when both losses and `baseline_loss` are multiplied by a positive number,
    when the same number is added to all three (unless a loss then gained less than a tenth of its own size:
    "does it learn at all?" has no other unit, nor has "did it blow up?"), or when every row is written
    several times; nor, except from `overfit` to `good` and back, when `val_metric` is left out. Adding a
    number to the losses but not to `baseline_loss` moves them away from the trivial loss, and that may
    change everything.

    Args:
        train_loss: training loss, one value an epoch, oldest first, epoch 0 the first; may be empty.
        val_loss: validation loss of the same epochs, in the order of the epochs.
        val_metric: what matters in the end, such as accuracy, of the same epochs. A validation loss that
            worsens while it holds is called good, `overconfident`.
        metric_mode: whether the metric is to be high ("max") or low ("min").
        baseline_loss: validation loss of the best constant prediction (or the loss before training, if that
            is all one has). Without it the first validation loss stands in, which after a fast first epoch
            is already low.
        flags: flags of a command line that the user has, such as `model.lr`, or a mapping with their values: the
            advice names these, and has words for the rest.
        framework: what trained it (`Lightning`, `Keras`, `Hugging Face`, `YOLO`): the advice has its words where there
            are no flags.
        evidence: what else is known of the fit; None where there are curves alone.

    `None` and NaN are missing values, a baseline that is not finite counts as none. A loss that ends in infinity
    has exploded, and so have losses that both end in NaN, twice or more and longer than any hole before.

    Raises:
        ValueError: if `metric_mode` is neither "max" nor "min".
    """
    if metric_mode not in ("max", "min"):
        raise ValueError(f'metric_mode needs to be "max" or "min"; got {metric_mode!r}.')
    if baseline_loss is not None and not isfinite(baseline_loss):
        baseline_loss = None
    train_loss, val_loss = list(train_loss), list(val_loss)  # whatever sequence came, arrays too
    times = _times_written(train_loss, val_loss)
    metric = None if val_metric is None else list(val_metric)[::times]
    if metric is not None and metric_mode == "min":
        metric = [None if v is None else -v for v in metric]
    knobs = Knobs(flags, framework, Settings() if evidence is None else evidence.settings)
    is_kept = evidence is not None and evidence.keeps_best
    train, val = read_curve(train_loss[::times]), read_curve(val_loss[::times])
    facts = RunFacts(train, val, baseline_loss, times, knobs, is_kept)
    found = _diagnose(train_loss[::times], val_loss[::times], metric, facts, evidence)
    trivial = None if evidence is None else evidence.baseline_metric
    if found.fit is Fit.GOOD and found.best_epoch is not None and metric is not None and trivial is not None:
        reached = metric[found.best_epoch // times]
        sign = -1 if metric_mode == "min" else 1
        if reached is not None and reached <= sign * trivial:
            rows = evidence.val_rows if evidence is not None else None
            return _no_better(found, (sign * reached, trivial), rows, facts)
    return found


def _no_better(found: Diagnosis, metric: tuple[float, float], rows: int | None, facts: RunFacts) -> Diagnosis:
    """Take back a good verdict where the metric of the best epoch is no better than the trivial prediction's.

    It is underfit; unknown if the difference may be one of the rows, as for shares such as an accuracy.
    """
    reached, trivial = metric
    error = sqrt(trivial * (1 - trivial) / rows) if rows and 0 < trivial < 1 else 0.0
    fit, cause = (Fit.UNKNOWN, "unclear") if abs(reached - trivial) <= error else (Fit.UNDERFIT, "not_learning")
    probabilities = _raised(found.probabilities, fit, 0.5 if fit is Fit.UNKNOWN else 0.8)
    at_best = f"in epoch {found.best_epoch} the metric, {reached:.4g}, is no better than the trivial {trivial:.4g}"
    reason = f"{found.reason[:-1]}; {at_best}."
    rare = Advice("Where one class is rare, judge by F1 or AUROC, or let every class weigh the same in the loss.")
    by_cause = advice_for("cannot_fit", facts.knobs, course_of(facts), found.changes)
    plan = (*([rare] if 0 < trivial < 1 else []), *by_cause)
    texts = tuple(advice.text for advice in plan)
    return replace(
        found,
        fit=fit,
        cause=cause,
        probabilities=probabilities,
        onset_epoch=None,
        reason=reason,
        advice=texts,
        plan=plan,
    )


def _diagnose(
    train_loss: Values, val_loss: Values, metric: Values | None, facts: RunFacts, evidence: Evidence | None
) -> Diagnosis:
    train, val, base = facts.train, facts.val, facts.base
    if _is_lost(train_loss, val_loss, train):
        return _sure(Fit.DIVERGED, "exploded", facts)
    if val is None:
        return _sure(Fit.UNKNOWN, "no_validation", facts)
    if val.count < FEWEST:
        return _sure(Fit.UNKNOWN, "too_few_epochs", facts)
    if train is not None and _has_blown_up(train, val, base):
        return _sure(Fit.DIVERGED, "exploded", facts)
    row = features(train, val, base)
    known = fit_features(train, val, base, evidence or Evidence())
    probabilities = _probabilities(row) if evidence is None else _probabilities(known, "fit_trees")
    stuck = fall_of_itself(val, base) < STUCK and probabilities[Fit.OVERFIT] < 0.5
    if evidence is None or evidence.reference_loss is None:  # else what can be had is known, and weighed already
        if stuck:
            probabilities = _raised(probabilities, Fit.UNDERFIT, 0.8)
        elif train is not None and _rises(train):
            return _sure(Fit.UNKNOWN, "loss_is_no_fit", facts)
        elif train is not None and _has_just_turned(train, val):
            probabilities = _raised(probabilities, Fit.OVERFIT, TURN_ODDS)
    held = metric is not None and probabilities[Fit.OVERFIT] > 0.5 and _has_held(read_curve(metric))
    if held and evidence is None:
        probabilities[Fit.GOOD] += probabilities[Fit.OVERFIT] * 0.95
        probabilities[Fit.OVERFIT] *= 0.05
    fit = max(probabilities, key=lambda each: probabilities[each])
    if probabilities[fit] < CLEAR:
        return _verdict(Fit.UNKNOWN, "unclear", _raised(probabilities, Fit.UNKNOWN, 0.5), facts)
    if held:
        cause = "overconfident"
    else:
        cause = {Fit.OVERFIT: "memorising", Fit.GOOD: "healthy"}.get(fit) or _why_underfit(stuck, train, row)
    changes = expected_changes(known, (evidence or Evidence()).settings)
    return _verdict(fit, cause, probabilities, facts, changes)


def _times_written(train_loss: Values, val_loss: Values) -> int:
    # A plateau is not a repetition: then some rows stand alone.
    if train_loss and len(train_loss) != len(val_loss):
        return 1
    rows = zip(train_loss or val_loss, val_loss, strict=True)
    keys = (tuple(v if v == v else None for v in row) for row in rows)  # NaN does not equal itself
    first = list(islice(keys, 2))
    if len(first) < 2 or first[0] != first[1]:  # nearly always, and it saves the rest
        return 1
    return repeats(chain(first, keys))


def _is_lost(train_loss: Values, val_loss: Values, train: Curve | None) -> bool:
    # NaN must end both: one alone may be missing.
    if ends_infinite(train_loss) or ends_infinite(val_loss):
        return True
    both = ends_in_nan(val_loss) and ends_in_nan(train_loss)
    return both or (train is None and not train_loss and ends_in_nan(val_loss) and any(v == v for v in val_loss))


def _has_blown_up(train: Curve, val: Curve, base: float | None) -> bool:
    trivial = train.start if base is None else base
    rise = min(train.end, val.end) - trivial
    return rise > BLOWN_UP * abs(trivial) and train.end > train.start + 3 * train.noise and val.end >= val.start


def _rises(train: Curve) -> bool:
    """Whether training loss rose on the whole; two or three values, of single batches perhaps, cannot say."""
    return train.count >= FEWEST and train.end > train.start + 3 * train.noise and train.change(1.0) > 0


def _has_just_turned(train: Curve, val: Curve) -> bool:
    """Whether a long validation curve rises steadily from a recent best while training loss falls."""
    steps = len(val.values) - 1 - val.best
    if val.count < LONG or not TURN_POINTS <= steps <= TURN_SHARE * len(val.values):
        return False
    steady = val.rising(val.best) >= TURN_RISING and val.end - val.lowest >= TURN_ERRORS * val.smooth_noise
    return steady and train.end < train.at_epoch(val.best_epoch)


def _probabilities(row: Sequence[float], trees: str = "trees") -> dict[Fit, float]:
    over, under = (1 / (1 + exp(-total(shipped(trees)[question], row))) for question in ("overfit", "underfit"))
    return dict(zip(Fit, ((1 - over) * under, (1 - over) * (1 - under), over, 0.0, 0.0), strict=True))


def _raised(probabilities: dict[Fit, float], fit: Fit, least: float) -> dict[Fit, float]:
    if probabilities[fit] >= least:
        return probabilities
    scale = (1 - least) / (1 - probabilities[fit])
    return {each: least if each is fit else p * scale for each, p in probabilities.items()}


def _has_held(metric: Curve | None) -> bool:
    """Whether the metric (high is good) still stands where it stood at its best, while the loss worsened."""
    if metric is None or metric.count < FEWEST:
        return False
    top = max(metric.smooth)
    return top - metric.end <= max(HELD * (top - min(metric.smooth)), 1.5 * metric.smooth_noise)


def _why_underfit(stuck: bool, train: Curve | None, row: Sequence[float]) -> str:
    if stuck:
        return "not_learning"
    seen = dict(zip(NAMES, row, strict=True))
    still = max(seen["train_gain"], seen["val_gain"]) if train is not None else seen["val_gain"]
    return "cannot_fit" if still < FLAT else "still_improving"


def _sure(fit: Fit, cause: str, facts: RunFacts) -> Diagnosis:
    return _verdict(fit, cause, {each: float(each is fit) for each in Fit}, facts)


def _verdict(
    fit: Fit, cause: str, probabilities: dict[Fit, float], facts: RunFacts, changes: tuple[Change, ...] = ()
) -> Diagnosis:
    onset = onset_of(facts) if cause in ("memorising", "overconfident") else None
    best = None if facts.val is None else facts.val.keep_epoch * facts.times
    plan = advice_for(cause, facts.knobs, course_of(facts), changes)
    texts = tuple(advice.text for advice in plan)
    return Diagnosis(fit, cause, probabilities, best, onset, reason_for(cause, facts), texts, changes, plan)
