"""Word a diagnosis: one reason with its numbers, the epoch it began in, and what the curves tell the advice."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from callbacks.diagnosis.curves import Curve
from callbacks.diagnosis.features import room_of
from callbacks.diagnosis.words.advice import Course, Knobs


@dataclass(frozen=True)
class RunFacts:
    """The curves, the trivial loss, how often each row was written, and what can be turned: what sentences speak of."""

    train: Curve | None
    val: Curve | None
    base: float | None
    times: int = 1
    knobs: Knobs = field(default_factory=Knobs)
    is_kept: bool = False  # the weights of the best epoch are in a checkpoint
    reference: float | None = None  # validation loss that can be had


def course_of(facts: RunFacts) -> Course:
    """Return what the curves tell the advice."""
    val = facts.val
    if val is None:
        return Course(epochs=0 if facts.train is None else (facts.train.epochs[-1] + 1) * facts.times)
    return Course(
        best=val.keep_epoch * facts.times,
        epochs=(val.epochs[-1] + 1) * facts.times,
        jumps=val.noise > 0.02 * abs(val.lowest),
        early=val.keep <= 0.1 * (len(val.smooth) - 1),  # passing the best epoch at once asks for smaller steps too
        is_kept=facts.is_kept,
    )


def reason_for(cause: str, facts: RunFacts) -> str:
    """Return the ground of a verdict in one sentence, with its numbers; none is below what was measured."""
    # The end of a line through a bent curve can be.
    train, val = (c and replace(c, end=max(c.end, c.raw_lowest)) for c in (facts.train, facts.val))
    if val is None:
        return "A loss ended as no number." if cause == "exploded" else "There is no validation loss to judge by."
    best = val.keep_epoch * facts.times
    last = val.epochs[-1] * facts.times
    now = f"validation loss went from {val.start:.4g} to {val.end:.4g} over {val.count} evaluations"
    lowest = f"was lowest in epoch {best} ({val.kept:.4g})"
    from_best = f"validation loss {lowest} and stands at {val.end:.4g} in epoch {last}"
    falls = ""
    if train is not None:
        falls = f", training loss went from {train.at_epoch(val.keep_epoch):.4g} to {train.end:.4g} meanwhile"
    trivial = f"the first, {val.start:.4g}" if facts.base is None else f"the trivial {facts.base:.4g}"
    sentence = {
        "still_improving": f"{now}, of which {val.at(0.5) - val.end:.3g} in the second half: it has not levelled off",
        "not_learning": f"the lowest validation loss, {val.lowest:.4g}, is {_beside(val.lowest, facts)} {trivial}",
        "cannot_fit": f"{now} and moves no more{falls}: it stays high without a gap",
        "memorising": from_best + falls,
        "overconfident": f"{from_best}, but the metric holds: only the probabilities got worse",
        "healthy": f"{now}, {lowest} and has levelled off",
        "exploded": f"the losses blew up or ended as no number; {now} before",
        "too_few_epochs": f"there are {val.count} evaluations of the validation loss; it takes 4",
        "loss_is_no_fit": f"the training loss rose, so it does not measure fit; {now}",
        "no_signal": _no_signal(val),
        "unclear": f"no verdict stands out; {now} with a noise of {val.noise:.2g}",
        "no_validation": "there is no validation loss to judge by",
    }[cause]
    if facts.reference is not None and cause in ("still_improving", "cannot_fit", "not_learning", "healthy"):
        sentence += f"; the reference reaches {facts.reference:.4g} on the same rows"
    return sentence[0].upper() + sentence[1:] + "."


def _beside(lowest: float, facts: RunFacts) -> str:
    return "above" if facts.base is not None and lowest > facts.base else "hardly below"


def _no_signal(val: Curve) -> str:
    low, high = min(val.points), max(val.points)
    if low == high:
        return f"the validation loss is {low:.4g} in all {val.count} evaluations"
    return f"the validation loss moves between {low:.4g} and {high:.4g} as noise does, without any order"


def onset_of(facts: RunFacts) -> int | None:
    """Return the first epoch after the best from which the smoothed validation loss stays clearly above its lowest."""
    val, last = facts.val, 0 if facts.val is None else len(facts.val.epochs) - 1
    if val is None or val.keep == last:
        return None
    line = min(val.smooth[val.keep :]) + max(2 * val.smooth_noise, 0.01 * room_of(val, facts.base))
    last_below = max((i for i, v in enumerate(val.smooth) if v <= line), default=0)
    return val.epochs[min(max(last_below, val.keep) + 1, last)] * facts.times
