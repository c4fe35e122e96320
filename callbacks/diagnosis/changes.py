"""Say which single changes to a fit are expected to lower its loss, and how far that can be relied on.

For each change a small ensemble of trees expects the gain, as a share of the room; how often such an expectation came
true was counted on tables that it had not seen (`benchmarks/interventions`). Standard library only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from callbacks.diagnosis.evidence import Change, Settings
from callbacks.diagnosis.trees import shipped, total

LEAST_GAIN = 0.02  # of the room: less is not worth a fit
LEAST_LOWERS = 0.70  # of such runs must the change have lowered the loss
RARELY = 0.05  # of such runs, in which it raised the loss by more than 3 % of the room
LONGER, RATE, WIDTH, BATCH = 4, 3.0, 4, 4
MORE_DECAY, FIRST_DECAY, MORE_DROPOUT, MOST_DROPOUT = 10, 1e-3, 0.3, 0.9
AVERAGED_EPOCHS, MEMBERS = 2.0, 5

Value = float | int | str | tuple[int, ...] | None


def _widths(s: Settings, of: Callable[[int], int]) -> Value:
    return None if s.hidden_sizes is None else tuple(of(width) for width in s.hidden_sizes)


def _times(value: float | None, factor: float) -> Value:
    return None if value is None else float(f"{value * factor:.3g}")


def _batch(s: Settings, factor: float) -> Value:
    if s.batch_size is None:
        return None
    return max(1, min(int(s.batch_size * factor), s.train_rows or 10**9))


# A change's name: what it sets, whether it can be made at all, and the new value where the old one is known.
_Rule = tuple[str, Callable[[Settings], bool], Callable[[Settings], Value]]
RULES: dict[str, _Rule] = {
    "longer": ("max_epochs", lambda s: True, lambda s: s.max_epochs and LONGER * s.max_epochs),
    "shorter": ("max_epochs", lambda s: s.max_epochs != 1, lambda s: s.max_epochs and max(1, s.max_epochs // 2)),
    "lr_up": ("lr", lambda s: True, lambda s: _times(s.lr, RATE)),
    "lr_down": ("lr", lambda s: True, lambda s: _times(s.lr, 1 / RATE)),
    "wider": ("hidden_sizes", lambda s: s.hidden_sizes != (), lambda s: _widths(s, lambda w: WIDTH * w)),
    "narrower": (
        "hidden_sizes",
        lambda s: s.hidden_sizes is None or max(s.hidden_sizes, default=1) > 1,
        lambda s: _widths(s, lambda w: max(1, w // WIDTH)),
    ),
    "deeper": (
        "hidden_sizes",
        lambda s: s.hidden_sizes != (),
        lambda s: s.hidden_sizes and (*s.hidden_sizes, s.hidden_sizes[-1]),
    ),
    "decay_off": ("weight_decay", lambda s: bool(s.weight_decay), lambda s: 0.0),
    "decay_up": (
        "weight_decay",
        lambda s: True,
        lambda s: None if s.weight_decay is None else _times(s.weight_decay, MORE_DECAY) or FIRST_DECAY,
    ),
    "dropout_off": ("dropout", lambda s: bool(s.dropout), lambda s: 0.0),
    "dropout_up": (
        "dropout",
        lambda s: (s.dropout or 0) < MOST_DROPOUT,
        lambda s: None if s.dropout is None else round(min(MOST_DROPOUT, s.dropout + MORE_DROPOUT), 3),
    ),
    "batch_up": (
        "batch_size",
        lambda s: None in (s.batch_size, s.train_rows) or (s.batch_size or 0) < (s.train_rows or 0),
        lambda s: _batch(s, BATCH),
    ),
    "batch_down": (
        "batch_size",
        lambda s: s.batch_size is None or s.batch_size >= 2 * BATCH,
        lambda s: _batch(s, 1 / BATCH),
    ),
    # Not everybody has a schedule, an average or an ensemble to switch on: these need a module that tells of them.
    "cosine": ("lr_schedule", lambda s: s.lr_schedule in ("constant", "other"), lambda s: "cosine"),
    "averaged": ("ema_epochs", lambda s: s.ema_epochs == 0, lambda s: AVERAGED_EPOCHS),
    "ensemble": ("members", lambda s: s.members == 1, lambda s: MEMBERS),
}


def expected_changes(row: Sequence[float], settings: Settings) -> tuple[Change, ...]:
    """Return the changes that are expected to lower the loss of a run, those that rarely harm first.

    Of these, and of the others, the one with the largest gain comes first.
    `row` are the `fit_features` of the run. What is done already, or can't be done, is not among them.
    """
    found = []
    for name, ensemble in shipped("fits")["changes"].items():
        setting, can, value = RULES[name]
        if can(settings):
            gain, lowers, raises = _expectation(ensemble, row)
            if gain >= LEAST_GAIN and lowers >= LEAST_LOWERS:
                found.append(Change(name, lowers, raises, gain, setting, value(settings)))
    # What rarely harms comes first, whatever another might gain.
    return tuple(sorted(found, key=lambda change: (change.raises > RARELY, -change.gain * change.lowers, change.name)))


def _expectation(ensemble: dict[str, Any], row: Sequence[float]) -> tuple[float, float, float]:
    """Return the gain, and in which share of the runs with such an expectation the loss fell, and rose by 3 %."""
    steps = ensemble["kept"]  # [least sum of the trees, mean gain, share lowered, share raised], ascending
    at = bisect_right([step[0] for step in steps], total(ensemble, row)) - 1
    _, gain, lowers, raises = steps[max(0, at)]
    return gain, lowers, raises
