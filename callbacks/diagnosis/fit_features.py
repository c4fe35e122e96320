"""Turn what is known of a fit beside its curves into numbers, by which the verdict and the changes are found.

Losses come as shares of the *room*, from the trivial loss down to the best that the run or its reference reached, or
over their standard errors; settings as logarithms. What is missing is NaN, which the trees know how to take. Unlike
the numbers of `features`, some compare a loss with its own size: cross-entropy and squared error have a zero.
"""

from __future__ import annotations

from itertools import pairwise
from math import copysign, isfinite, log1p, log2, log10, nan, prod

from callbacks.diagnosis.curves import Curve
from callbacks.diagnosis.evidence import Evidence, Settings
from callbacks.diagnosis.features import features

NAMES = (
    "best_beyond_reference",  # lowest validation loss above the reference's, over the room
    "end_beyond_reference",
    "beyond_reference_errors",  # the same at the end in standard errors of the validation loss
    "room_of_trivial",  # the room over the trivial loss: whether there is anything to learn
    "gained",  # share of the room that the best epoch reached
    "gap",  # validation minus fair training loss at the end, over the room
    "gap_errors",
    "fair_beyond_reference",  # fair training loss above the reference's validation loss, over the room
    "fair_of_trivial",  # fair training loss over the trivial loss
    "rise",  # last validation loss above the lowest, over the room
    "rise_errors",  # the same over the standard error of the difference on the same rows
    "error",  # standard error of the validation loss, over the room
    "val_rows",
    "lr",
    "pace",  # lr with what momentum adds to it, times steps: how far the weights may go
    "momentum",
    "weight_decay",
    "shrinking",  # lr times weight decay times steps
    "dropout",
    "width",
    "depth",
    "batch_size",
    "epochs",
    "steps",
    "cosine",
    "adam",
    "ema_epochs",
    "clip",
    "train_rows",
    "in_features",
    "weights_per_row",
    "classes",
    "is_classification",
)


def fit_features(train: Curve | None, val: Curve, baseline_loss: float | None, known: Evidence) -> list[float]:
    """Return the numbers of the curves and those named in `NAMES`, rounded; NaN for what is missing."""
    row = _levels(val, baseline_loss, known) + _settings(known)
    return [*features(train, val, baseline_loss), *(round(v, 6) for v in row)]


def _levels(val: Curve, base: float | None, known: Evidence) -> list[float]:
    reference, fair, error = _or_nan(known.reference_loss), _or_nan(known.fair_train_loss), _or_nan(known.val_error)
    top = val.start if base is None else base
    lowest = min(val.raw_lowest, reference) if reference == reference else val.raw_lowest
    room = max(top - lowest, 0.02 * abs(top), 1e-12)
    rise = val.last - val.raw_lowest
    return [
        _share(val.raw_lowest - reference, room),
        _share(val.end - reference, room),
        _errors(val.end - reference, error),
        _share(top - lowest, abs(top)),
        _share(top - val.raw_lowest, room),
        _share(val.end - fair, room),
        _errors(val.end - fair, error),
        _share(fair - reference, room),
        _share(fair, abs(top)),
        _share(rise, room),
        _errors(rise, _or_nan(known.rise_error)),
        _share(error, room),
        _log2(known.val_rows),
    ]


def _settings(known: Evidence) -> list[float]:
    s = known.settings
    steps = _steps(s)
    pace = _or_nan(s.lr) / (1 - (s.momentum or 0.0)) if s.momentum is None or s.momentum < 1 else nan
    decay, shape = _or_nan(s.weight_decay), s.hidden_sizes
    widths = () if shape is None else shape
    weights = nan
    if shape is not None and s.in_features is not None:
        sizes = (s.in_features, *shape, max(1, s.classes or 1))
        weights = float(sum(a * b for a, b in pairwise(sizes)))
    return [
        _log10(s.lr),
        _log10(pace * steps),
        _or_nan(s.momentum),
        log10(decay + 1e-6) if decay >= 0 else nan,
        _log10(_or_nan(s.lr) * decay * steps + 1e-6),
        _or_nan(s.dropout),
        log2(prod(widths) ** (1 / len(widths))) if widths else nan,
        nan if shape is None else float(len(shape)),
        _log2(s.batch_size),
        _log2(s.max_epochs),
        _log2(steps),
        nan if s.lr_schedule is None else float(s.lr_schedule == "cosine"),
        nan if s.optimizer is None else float(s.optimizer == "adam"),
        _or_nan(s.ema_epochs),
        _or_nan(s.clip),
        _log2(s.train_rows),
        _log2(s.in_features),
        _log2(weights / s.train_rows) if s.train_rows else nan,
        nan if s.classes is None else log2(max(1, s.classes)),
        nan if s.classes is None else float(s.classes > 0),
    ]


def _steps(s: Settings) -> float:
    if not (s.train_rows and s.batch_size and s.max_epochs):
        return nan
    return s.max_epochs * max(1.0, s.train_rows / s.batch_size)


def _or_nan(value: float | None) -> float:
    return nan if value is None or not isfinite(value) else float(value)


def _share(part: float, whole: float) -> float:
    return nan if not isfinite(part) or not whole > 0 else max(-20.0, min(20.0, part / whole))


def _errors(part: float, error: float) -> float:
    """In standard errors, and so that 300 and 3 000 of them look alike; nothing over nothing is nothing."""
    if not (isfinite(part) and isfinite(error)):
        return nan
    count = part / error if error > 0 else (0.0 if part == 0 else copysign(1e4, part))
    return copysign(log1p(min(abs(count), 1e4)), count)


def _log10(value: float | None) -> float:
    return log10(value) if value is not None and isfinite(value) and value > 0 else nan


def _log2(value: float | None) -> float:
    return log2(value) if value is not None and isfinite(value) and value > 0 else nan
