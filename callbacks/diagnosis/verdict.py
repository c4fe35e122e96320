"""The verdict on a run: underfit, good, overfit, diverged or unknown; how sure, why, and what to do next.

Rules settle what is plain (a loss that is no number, no validation, too few evaluations). Between underfit,
good and overfit two small ensembles of trees decide, fitted on labelled runs (`benchmarks/runs`, where the
table of results is); their numbers stand in `trees/`. Standard library only; a millisecond for 1 000 epochs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, islice
from math import exp, isfinite, sqrt

from callbacks.diagnosis.changes import expected_changes
from callbacks.diagnosis.curves import (
    Curve,
    ends_in_nan,
    ends_infinite,
    has_order,
    have_order,
    order_scores,
    read_curve,
    repeats,
)
from callbacks.diagnosis.evidence import Change, Evidence
from callbacks.diagnosis.features import (
    NAMES,
    STUCK_BELOW,
    fall_of_itself,
    features,
    middle_rise,
    shared_jumps,
    size_of,
)
from callbacks.diagnosis.fit_features import fit_features
from callbacks.diagnosis.trees import shipped, total
from callbacks.diagnosis.words.advice import Advice, Knobs, advice_for
from callbacks.diagnosis.words.wording import RunFacts, course_of, onset_of, reason_for

Values = Sequence[float | None]

FEWEST = 4  # finite evaluations; with three, a line and a bend cannot be told apart
STUCK = 0.018  # of the trivial loss: gained less, it never left it. The labels' 2 %, less some noise
CLEAR = 0.40  # the least probability a verdict is given with; a third is a guess among three
BLOWN_UP = 0.5  # both losses end this share of the trivial loss above it, and no lower than they began
FALLING = -2.1  # standard errors of a trend, of a training loss, which should fall: noise does it in 1 of 50
FLAT = 0.03  # of the training loss's own fall, over the second half: no longer moving
HELD = 0.10  # of its own rise may a metric have lost and still count as held

# A long curve's fresh turn: after at least so many of its (thinned) points, at most this share of them, most
# steps up. On OverfitGuard's 419 histories of 1 000 epochs three in four such turns went on to overfit, and
# waiting for the rise to be large costs a hundred epochs more.
TURN_POINTS, TURN_SHARE, TURN_RISING, TURN_ERRORS = 4, 0.12, 0.75, 4.5
LONG = 100  # evaluations
TURN_ODDS = 0.6
# What ends so much of its own size above its lowest is worse: TaskSet's labels say so. It counts where the trees lean
# to it, and the middle of three values says it; or where the weights jumped, so that the training loss jumped too.
WORSE, LEANING, SHARED = 0.05, 0.4, 0.6


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
            `overconfident` (good, in a fit overfit); `memorising` (overfit); `exploded` (diverged); `too_few_epochs`,
            `no_validation`, `no_signal`, `loss_is_no_fit`, `unclear` (unknown).
        probabilities: of each verdict; they add up to one.
        best_epoch: the epoch that a checkpoint keeps, counted from 0: the first with the lowest validation loss, as it
            was logged, unless `evidence` names another; None without one.
        onset_epoch: the epoch after it from which the smoothed validation loss stays above its lowest; None unless it
            clearly worsened.
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
    advise: bool = True,
) -> Diagnosis:
    """Say what became of a run, from its curves alone.

    The verdict does not change when both losses and `baseline_loss` are multiplied by a positive number,
    when the same number is added to all three (unless a loss then gained less than its own size: "does it learn
    at all?" has no other unit, nor has "did it blow up?", and a rise by a twentieth of the loss may be much of a
    small gain), or when every row is written several times; nor, except from `overfit` to `good` and back, when
    `val_metric` is left out. Adding a number to the losses but not to `baseline_loss` moves them away from the
    trivial loss, and that may change everything.

    Args:
        train_loss: training loss, one value an epoch, oldest first, epoch 0 the first; may be empty.
        val_loss: validation loss of the same epochs, in the order of the epochs.
        val_metric: what matters in the end, such as accuracy, of the same epochs. A validation loss that
            worsens while it holds is called `overconfident`: good by curves alone, overfit where evidence tells more.
        metric_mode: whether the metric is to be high ("max") or low ("min").
        baseline_loss: validation loss of the best constant prediction (or the loss before training, if that
            is all one has). Without it the first validation loss stands in, which after a fast first epoch
            is already low.
        flags: flags of a command line that the user has, such as `model.lr`, or a mapping with their values: the
            advice names these, and has words for the rest.
        framework: what trained it (`Lightning`, `Keras`, `Hugging Face`, `YOLO`): the advice has its words where there
            are no flags.
        evidence: what else is known of the fit; None where there are curves alone.
        advise: whether to look for changes that would gain; without, a verdict takes less than half the time.

    `None` and NaN are missing values, a baseline that is not finite counts as none. A loss that ends in infinity
    has exploded, and so has a training loss that ends in NaN, longer than any hole before; without one, a validation
    loss that does so at least twice.

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
    evidence = evidence or Evidence()
    train_loss, val_loss = train_loss[::times], val_loss[::times]
    train, val = read_curve(train_loss), read_curve(val_loss)
    val = val and val.keeping(None if evidence.kept_epoch is None else evidence.kept_epoch // times, val_loss)
    knobs = Knobs(flags, framework, evidence.settings)
    facts = RunFacts(train, val, baseline_loss, times, knobs, evidence.keeps_best, evidence.reference_loss)
    found = _diagnose(train_loss, val_loss, metric, facts, evidence, advise=advise)
    trivial = evidence.baseline_metric
    if found.best_epoch is not None and metric is not None and trivial is not None:
        reached = metric[found.best_epoch // times]
        sign = -1 if metric_mode == "min" else 1
        if reached is not None and reached <= sign * trivial:
            return _no_better(found, (sign * reached, trivial), evidence.val_rows, facts)
    return found


def _no_better(found: Diagnosis, metric: tuple[float, float], rows: int | None, facts: RunFacts) -> Diagnosis:
    """Say that the metric of the best epoch is no better than the trivial prediction's, and take back a good verdict.

    It is underfit; unknown if the difference may be one of the rows, as for shares such as an accuracy.
    """
    reached, trivial = metric
    at_best = f"in epoch {found.best_epoch} the metric, {reached:.4g}, is no better than the trivial {trivial:.4g}"
    reason = f"{found.reason[:-1]}; {at_best}."
    if found.fit is not Fit.GOOD:
        return replace(found, reason=reason)
    error = sqrt(trivial * (1 - trivial) / rows) if rows and 0 < trivial < 1 else 0.0
    fit, cause = (Fit.UNKNOWN, "unclear") if abs(reached - trivial) <= error else (Fit.UNDERFIT, "not_learning")
    probabilities = _raised(found.probabilities, fit, 0.5 if fit is Fit.UNKNOWN else 0.8)
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
    train_loss: Values, val_loss: Values, metric: Values | None, facts: RunFacts, evidence: Evidence, *, advise: bool
) -> Diagnosis:
    train, val, base = facts.train, facts.val, facts.base
    if _is_lost(train_loss, val_loss):
        return _sure(Fit.DIVERGED, "exploded", facts)
    if val is None:
        return _sure(Fit.UNKNOWN, "no_validation", facts)
    if val.count < FEWEST:
        return _sure(Fit.UNKNOWN, "too_few_epochs", facts)
    gained, is_noise = fall_of_itself(val, base), _has_no_signal(train, val)
    is_constant = min(val.points) == max(val.points)
    # At the trivial loss noise is a verdict, and where more is known than the curves it is weighed.
    if is_noise and (is_constant or not evidence.tells_more) and not (base and -STUCK_BELOW < gained < STUCK):
        return _sure(Fit.UNKNOWN, "no_signal", facts)
    if train is not None and _has_blown_up(train, val, base):
        return _sure(Fit.DIVERGED, "exploded", facts)
    row = features(train, val, base)
    known = fit_features(train, val, base, evidence) if advise or evidence.tells_more else row
    probabilities = _probabilities(known, "fits") if evidence.tells_more else _probabilities(row, "curves")
    stuck = gained < STUCK and (is_noise or probabilities[Fit.OVERFIT] < 0.5)
    if evidence.tells_more:  # what the rules go by is weighed already
        pass
    elif stuck:
        probabilities = _raised(probabilities, Fit.UNDERFIT, 0.8)
    elif train is not None and _rises(train):
        return _sure(Fit.UNKNOWN, "loss_is_no_fit", facts)
    elif _has_just_turned(train, val) or _ends_worse(train, val, base, probabilities[Fit.OVERFIT]):
        probabilities = _raised(probabilities, Fit.OVERFIT, TURN_ODDS)
    held = metric is not None and probabilities[Fit.OVERFIT] > 0.5 and _has_held(read_curve(metric))
    if held and not evidence.tells_more:
        probabilities[Fit.GOOD] += probabilities[Fit.OVERFIT] * 0.95
        probabilities[Fit.OVERFIT] *= 0.05
    fit = max(probabilities, key=lambda each: probabilities[each])
    if probabilities[fit] < CLEAR:
        return _verdict(Fit.UNKNOWN, "unclear", _raised(probabilities, Fit.UNKNOWN, 0.5), facts)
    if held:
        cause = "overconfident"
    else:
        cause = {Fit.OVERFIT: "memorising", Fit.GOOD: "healthy"}.get(fit) or _why_underfit(stuck, train, row)
    if not evidence.tells_more:
        probabilities = _less_sure(probabilities)
    changes = expected_changes(known, evidence.settings) if advise else ()
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


def _is_lost(train_loss: Values, val_loss: Values) -> bool:
    # A training loss comes of every epoch: where it is no number, the weights are none any more. A validation loss may
    # be missing; not where the epoch has no training loss either, or nothing but NaN came at all.
    if ends_infinite(train_loss) or ends_infinite(val_loss) or ends_in_nan(train_loss, least=1):
        return True
    is_all = not any(isfinite(v) for v in (*train_loss, *val_loss) if v is not None)
    is_alone = not train_loss or train_loss[-1] is None
    return is_alone and ends_in_nan(val_loss, least=1 if is_all or train_loss else 2)


def _has_no_signal(train: Curve | None, val: Curve) -> bool:
    """Whether the validation loss is a constant, or noise about one, and nothing else tells what that means.

    Beside a training loss that falls, noise is a plateau.
    """
    if min(val.points) == max(val.points):
        return True
    if train is None:
        return not has_order(val.points)
    is_noise = order_scores(train.points)[2] > FALLING and not has_order(train.points)
    return is_noise and not have_order(train.points, val.points)


def _has_blown_up(train: Curve, val: Curve, base: float | None) -> bool:
    trivial = train.start if base is None else base
    rise = min(train.end, val.end) - trivial
    return rise > BLOWN_UP * abs(trivial) and train.end > train.start + 3 * train.noise and val.end >= val.start


def _rises(train: Curve) -> bool:
    """Whether training loss rose on the whole; two or three values, of single batches perhaps, cannot say."""
    return train.count >= FEWEST and train.end > train.start + 3 * train.noise and train.change(1.0) > 0


def _has_just_turned(train: Curve | None, val: Curve) -> bool:
    """Whether a long validation curve rises steadily from a recent best while training loss falls."""
    steps = len(val.values) - 1 - val.best
    if train is None or val.count < LONG or not TURN_POINTS <= steps <= TURN_SHARE * len(val.values):
        return False
    steady = val.rising(val.best) >= TURN_RISING and val.end - val.lowest >= TURN_ERRORS * val.smooth_noise
    return steady and train.end < train.at_epoch(val.best_epoch)


def _ends_worse(train: Curve | None, val: Curve, base: float | None, odds: float) -> bool:
    worse = WORSE * size_of(val, base)
    if odds >= LEANING and middle_rise(val) > max(worse, 3 * val.noise):
        return True
    return train is not None and val.last - val.raw_lowest > worse and shared_jumps(train, val) >= SHARED


def _probabilities(row: Sequence[float], trees: str) -> dict[Fit, float]:
    over, under = (1 / (1 + exp(-total(shipped(trees)[question], row))) for question in ("overfit", "underfit"))
    return dict(zip(Fit, ((1 - over) * under, (1 - over) * (1 - under), over, 0.0, 0.0), strict=True))


def _raised(probabilities: dict[Fit, float], fit: Fit, least: float) -> dict[Fit, float]:
    if probabilities[fit] >= least:
        return probabilities
    scale = (1 - least) / (1 - probabilities[fit])
    return {each: least if each is fit else p * scale for each, p in probabilities.items()}


def _less_sure(probabilities: dict[Fit, float]) -> dict[Fit, float]:
    """Return what is left of a judgement of curves for what a change would gain, which curves alone do not show.

    The square roots were best calibrated among powers on the development runs of `benchmarks/interventions`.
    """
    roots = {each: sqrt(p) for each, p in probabilities.items()}
    return {each: root / sum(roots.values()) for each, root in roots.items()}


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
