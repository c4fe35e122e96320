"""Turn two curves into a row of numbers without a unit, by which the verdict is found.

Every number is a difference of losses over the *room* (from the trivial loss, or the first one, down to the
best), or over the noise, or a share of the epochs: so none changes when both losses are scaled, or shifted
together with `baseline_loss`. The one exception is `stuck`, which sees the loss's own size, and only where
next to nothing was gained.
"""

from __future__ import annotations

from math import copysign, log1p, log2, sqrt
from statistics import fmean

from callbacks.diagnosis.curves import Curve, slope

NAMES = (
    "worsening",  # of the smoothed validation loss since its best, over the room
    "worsening_noise",  # the same in standard errors
    "best_at",  # where the best epoch lies, 0 to 1
    "val_half",  # change over the last half, over the room
    "val_quarter",
    "val_eighth",
    "val_half_noise",  # change over the last half in standard errors
    "val_gain",  # smoothed fall from the half to the end, over the room
    "val_gain_before",  # smoothed fall from the quarter to the half
    "val_room_end",  # fall from the first value to the end, over the room
    "val_noise",  # noise over the room
    "rising",  # share of the rises among the last half's steps
    "start_excess",  # first value above the baseline, over the room; 0 without a baseline
    "room_noise",  # the room in units of noise
    "raw_worsening",  # last value above the lowest, as they are, over the room
    "has_baseline",
    "has_train",
    "train_half",  # the same of the training loss, over its own room
    "train_quarter",
    "train_gain",
    "train_gain_before",
    "train_since_best",  # fall of the training loss since validation's best epoch, over validation's room
    "train_noise",
    "train_raw_worsening",
    "train_room",  # training's room over validation's
    "gap_growth",  # of validation minus training over the last half, over the room
    "log_count",  # log2 of the number of evaluations
    "stuck",  # 1 where the loss fell by nothing, 0 where by `STUCK_BELOW` of itself or more
)


STUCK_BELOW = 0.10  # within a tenth of the trivial loss that loss is the measure, as in the labels
FEWEST_BENDS, BEND_ERRORS = 16, 2.5  # fewer, or a correlation of fewer standard errors, may be chance


def room_of(val: Curve, baseline_loss: float | None) -> float:
    """Return how far the loss has come: from the trivial loss, or else the first, to the best."""
    return max(val.start if baseline_loss is None else baseline_loss, val.lowest) - val.lowest


def fall_of_itself(val: Curve, baseline_loss: float | None) -> float:
    """Return by how much the best loss is below the trivial one (or else the first), as a share of that one's size."""
    above = val.start if baseline_loss is None else baseline_loss
    size = max(abs(above), abs(val.lowest))
    return (above - val.lowest) / size if size > 0 else 0.0


def features(train: Curve | None, val: Curve, baseline_loss: float | None) -> list[float]:
    """Return the numbers named in `NAMES`, rounded so that a change of unit cannot move one across a threshold."""
    # Where nothing was gained the room is no measure; the noise and what the curve spans still are.
    span = max(val.values) - min(val.values)
    rounding = 1e-7 * max(abs(val.lowest), abs(val.end))
    room = max(room_of(val, baseline_loss), 2 * val.smooth_noise, 0.05 * span, rounding)
    stuck = 1 - fall_of_itself(val, baseline_loss) / STUCK_BELOW
    row = _validation(val, room, baseline_loss) + _training(train, val, room)
    row += [log2(val.count), max(0.0, min(1.0, stuck))]
    return [round(v, 6) for v in row]


def size_of(val: Curve, baseline_loss: float | None) -> float:
    """Return the loss's own size or the room, whichever is more: a rise by a third of a small room may be nothing."""
    return max(room_of(val, baseline_loss), 2 * val.smooth_noise, abs(val.raw_lowest))


def middle_rise(val: Curve) -> float:
    """Return the middle of the last three values above the lowest."""
    return sorted(val.points[-3:])[1] - val.raw_lowest


def shared_jumps(train: Curve, val: Curve) -> float:
    """Return the correlation of both losses' bends over the second half, 0 where it may be chance.

    The validation rows' own noise is none of the training loss's: what both share are jumps of the weights, and after
    one of these the last epoch is as bad as it looks.
    """
    trained = dict(zip(train.epochs, train.points, strict=True))
    pairs = [(trained[e], v) for e, v in zip(val.epochs, val.points, strict=True) if e in trained]
    pairs = pairs[-max(FEWEST_BENDS, len(val.points) // 2) :]
    if len(pairs) < FEWEST_BENDS:
        return 0.0
    a, b = ([x - 2 * y + z for x, y, z in zip(c, c[1:], c[2:], strict=False)] for c in zip(*pairs, strict=True))
    return found if (found := _correlation(a, b)) >= BEND_ERRORS / sqrt(len(pairs)) else 0.0


def _correlation(a: list[float], b: list[float]) -> float:
    a, b = ([v - mean for v in c] for c, mean in ((a, fmean(a)), (b, fmean(b))))
    sizes = sqrt(sum(v * v for v in a)) * sqrt(sum(v * v for v in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / sizes if sizes > 0 else 0.0


def _validation(val: Curve, room: float, baseline_loss: float | None) -> list[float]:
    tail = val.values[-max(3, len(val.values) // 2) :]
    worsening = val.end - val.lowest
    return [
        _over(worsening, room),
        _squash(_over(worsening, val.smooth_noise + 1e-4 * room)),
        val.best / max(1, len(val.smooth) - 1),
        _over(val.change(0.5), room),
        _over(val.change(0.25), room),
        _over(val.change(0.125), room),
        _squash(_over(slope(tail) * (len(tail) - 1), val.smooth_noise + 1e-4 * room)),
        _over(val.at(0.5) - val.end, room),
        _over(val.at(0.25) - val.at(0.5), room),
        _over(val.start - val.end, room),
        _over(val.noise, room),
        val.rising(-len(tail)),
        0.0 if baseline_loss is None else _over(val.start - baseline_loss, room),
        _squash(_over(room, val.noise + 1e-4 * room)),
        _over(val.last - val.raw_lowest, room),
        float(baseline_loss is not None),
    ]


def _training(train: Curve | None, val: Curve, room: float) -> list[float]:
    if train is None:
        return [0.0] * 10
    own = max(train.start - train.lowest, 2 * train.smooth_noise, 1e-3 * room)
    half = train.at(0.5) - train.end
    return [
        1.0,
        _over(train.change(0.5), own),
        _over(train.change(0.25), own),
        _over(half, own),
        _over(train.at(0.25) - train.at(0.5), own),
        _over(train.at_epoch(val.best_epoch) - train.end, room),
        _over(train.noise, own),
        _over(train.last - train.raw_lowest, room),
        _over(own, room),
        _over(half - (val.at(0.5) - val.end), room),
    ]


def _over(part: float, whole: float) -> float:
    # Held within -20 and 20; nothing over nothing is nothing.
    if whole <= 0:
        return 0.0 if part == 0 else copysign(20.0, part)
    return max(-20.0, min(20.0, part / whole)) if abs(part) < 1e6 * whole else copysign(20.0, part)


def _squash(value: float) -> float:
    # So that 300 and 3 000 standard errors look alike.
    return copysign(log1p(abs(value)), value)
