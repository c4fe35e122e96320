"""The verdict on a fit that ended after a few epochs, as most trials of a search do: what up to three evaluations show.

They cannot tell noise from a turn, as `diagnose` has to; but whoever lies above the trivial loss, or still falls, can
be told from who does not. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from callbacks.diagnosis.curves import finite
from callbacks.diagnosis.verdict import BLOWN_UP, FLAT, STUCK, Fit

Values = Sequence[float | None]

WORSE = 0.10  # of the room: risen by more it overfits or, where training loss rises too, diverges; the labels' tenth


def diagnose_early(train_loss: Values, val_loss: Values, *, baseline_loss: float | None = None) -> tuple[Fit, str, str]:
    """Return verdict, cause and reason of a fit that was evaluated once, twice or three times.

    Verdict and cause are those of `diagnose`. `None` is missing, and so are NaN and infinity unless they come last:
    then it has diverged. Without a number, or with a single one and no trivial loss, it is unknown.
    """
    if baseline_loss is not None and not isfinite(baseline_loss):
        baseline_loss = None
    _, val = finite(val_loss)
    _, train = finite(train_loss)
    ends = [value for value in val_loss if value is not None][-1:]
    if ends and not finite(ends)[1]:
        return Fit.DIVERGED, "exploded", f"Validation loss ended in {ends[0]:.4g}."
    if not val or (len(val) == 1 and baseline_loss is None):
        return Fit.UNKNOWN, "too_few_epochs", "There is nothing to tell by."
    top = val[0] if baseline_loss is None else baseline_loss
    low, last, size = min(val), val[-1], max(abs(top), abs(min(val)))
    room, fall = top - low, (val[-2] if val[1:] else top) - last
    learns = len(train) > 1 and train[-1] < min(train[-2], top)
    rises = len(train) > 1 and train[-1] - train[-2] > WORSE * room
    went = f"{val[0]:.4g} to {last:.4g} in {len(val)} evaluations" if val[1:] else f"{last:.4g} in the first evaluation"
    trivial = f" (the trivial loss is {baseline_loss:.4g})" if baseline_loss is not None else ""
    loss = f"Validation loss {'went from ' if val[1:] else 'came to '}{went}{trivial}"
    if val[1:] and last >= val[0] and last - top > BLOWN_UP * abs(top) and not learns:
        return Fit.DIVERGED, "exploded", f"{loss}."
    if room < STUCK * size:
        return Fit.UNDERFIT, "not_learning", f"{loss}: it has gained next to nothing."
    if last == low and fall > FLAT * room:
        return Fit.UNDERFIT, "still_improving", f"{loss}; the fit ended while it still fell."
    if last - low > WORSE * room and rises:
        return Fit.DIVERGED, "exploded", f"{loss}; it was {low:.4g} before, and training loss rose with it."
    if last - low > WORSE * room and learns:
        return Fit.OVERFIT, "memorising", f"{loss}; it was {low:.4g} before, and training loss fell on."
    # Of 160 trials of five tables, with random rates and decays, 15 looked so after three of twenty epochs: 12 of them
    # ended good, 3 overfit.
    return Fit.GOOD, "healthy", f"{loss}, and has levelled off."
