"""What to do about a verdict: one change a line, by what the user really has to turn, with what it gained in others.

Changes that were measured (`Change`, from `benchmarks/interventions`) come first; what no bench can measure, such as
a loss that is no number, has advice written by hand. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from callbacks.diagnosis.changes import LEAST_GAIN, RULES
from callbacks.diagnosis.evidence import Change, Settings

BEST_EPOCH = "best_epoch"  # what needs no other fit
MOST = 5  # changes that are told; a person tries one or two
HARMS = 0.05  # of such runs; from there on it is said


@dataclass(frozen=True)
class Advice:
    """One thing to do, in words and as flags."""

    text: str
    change: str = ""  # what it does, by the names of `Change`; empty where it is none of these
    flags: tuple[tuple[str, str], ...] = ()  # names without dashes, and values, that do it on a command line
    gain: float | None = None  # expected, as a share of the room; None where nothing was measured


# What is the other way round: never advised together.
OPPOSITES = {"longer": "shorter", "lr_up": "lr_down", "wider": "narrower", "decay_up": "decay_off"}
OPPOSITES |= {"dropout_up": "dropout_off", "batch_up": "batch_down"}
OPPOSITES |= {other: one for one, other in OPPOSITES.items()}

# The flags for a setting, of which the first that the user has is named.
_FLAGS = {
    "max_epochs": ("trainer.max_epochs",),
    "lr": ("optimizer.lr", "model.lr"),
    "weight_decay": ("optimizer.weight_decay", "model.weight_decay"),
    "batch_size": ("data.batch_size",),
    "dropout": ("model.dropout",),
    "hidden_sizes": ("model.hidden_sizes",),
    "lr_schedule": ("model.lr_schedule",),
    "ema_epochs": ("model.ema_epochs",),
    "members": ("ensemble",),
    "clip": ("trainer.gradient_clip_val",),
    "every": ("trainer.check_val_every_n_epoch",),
    "val_fraction": ("data.val_fraction",),
    "calibrate": ("calibrate",),
}

# What the argument is called in other frameworks, whose users have no flags.
_ARGUMENTS = {
    "Lightning": {
        "max_epochs": "max_epochs",
        "lr": "lr",
        "weight_decay": "weight_decay",
        "batch_size": "batch_size",
        "clip": "gradient_clip_val",
        "every": "check_val_every_n_epoch",
    },
    "Keras": {
        "max_epochs": "epochs",
        "lr": "learning_rate",
        "weight_decay": "weight_decay",
        "batch_size": "batch_size",
        "dropout": "rate",
        "hidden_sizes": "units",
        "clip": "clipnorm",
        "every": "validation_freq",
    },
    "Hugging Face": {
        "max_epochs": "num_train_epochs",
        "lr": "learning_rate",
        "weight_decay": "weight_decay",
        "batch_size": "per_device_train_batch_size",
        "lr_schedule": "lr_scheduler_type",
        "clip": "max_grad_norm",
    },
    "YOLO": {
        "max_epochs": "epochs",
        "lr": "lr0",
        "weight_decay": "weight_decay",
        "batch_size": "batch",
        "dropout": "dropout",
    },
}


@dataclass(frozen=True)
class Knobs:
    """What a user can turn: flags of a command line, or the words of a framework, and how it is set now."""

    flags: Collection[str] = ()  # as a mapping also with their values
    framework: str | None = None  # such as `Keras`; what begins with its name is of it
    settings: Settings = field(default_factory=Settings)

    def flag(self, setting: str) -> str | None:
        """Return the flag for a setting, None without one."""
        return next((flag for flag in _FLAGS[setting] if flag in self.flags), None)

    def now(self, setting: str) -> Any:
        """Return how a setting stands, None where nobody tells."""
        known = getattr(self.settings, setting, None)
        flag = self.flag(setting)
        if known is None and flag and isinstance(self.flags, Mapping):
            known = self.flags[flag]
            known = tuple(known) if isinstance(known, list) else known
            known = None if isinstance(known, str) and setting != "lr_schedule" else known  # such as `auto`
        return None if isinstance(known, float) and not math.isfinite(known) else known

    @property
    def known(self) -> Settings:
        """Return the settings, with what the flags tell where nobody else does."""
        ours = [each.name for each in fields(Settings) if each.name in _FLAGS]
        return replace(self.settings, **{name: self.now(name) for name in ours})

    def times(self, setting: str, factor: float) -> float | int | None:
        """Return a number, multiplied; None where it is not known, or is no number above zero."""
        now = self.now(setting)
        if isinstance(now, bool) or not isinstance(now, int | float) or now <= 0:
            return None
        return max(1, round(now * factor)) if isinstance(now, int) and setting != "lr" else now * factor

    def turn(self, text: str, setting: str, value: Any = None, change: str = "", said: str = ".") -> Advice:
        """Return advice to give a setting a value, None where the old one is not known, by its name."""
        flag, shown = self.flag(setting), "" if value is None else f"={_text(value)}"
        name = f"--{flag}" if flag else self._argument(setting)
        is_said = value is None or not change or change in _PLAIN or _text(value) in text
        if name is None and not is_said:
            name, shown = f"to {_text(value)}", ""
        flags = ((flag, _text(value)),) if flag and value is not None else ()
        return Advice(f"{text}{f' ({name}{shown})' if name else ''}{said}", change, flags)

    def _argument(self, setting: str) -> str | None:
        of = (names for framework, names in _ARGUMENTS.items() if (self.framework or "").startswith(framework))
        return next(of, {}).get(setting)


def _text(value: Any) -> str:
    """Return a value as a command line takes it; three digits are enough for what is only tried."""
    if isinstance(value, tuple | list):
        return f"[{','.join(map(_text, value))}]"
    return f"{float(f'{value:.3g}'):g}" if isinstance(value, float) else str(value)


# What a change does, in words; what it sets, and to what, stands in `RULES`.
_CHANGES = {
    "longer": "Train four times as long",
    "shorter": "Train half as long",
    "lr_up": "Raise the learning rate threefold",
    "lr_down": "Lower the learning rate to a third",
    "wider": "Make the layers four times as wide",
    "narrower": "Make the layers a quarter as wide",
    "deeper": "Add a layer",
    "decay_off": "Turn weight decay off",
    "decay_up": "Raise weight decay tenfold",
    "dropout_off": "Turn dropout off",
    "dropout_up": "Raise dropout by 0.3",
    "batch_up": "Make the batches four times as large",
    "batch_down": "Make the batches a quarter as large",
    "cosine": "Let the learning rate fall along a cosine",
    "averaged": "Average the weights over two epochs",
    "ensemble": "Train five networks and take the mean of their predictions",
}
_PLAIN = ("decay_off", "dropout_off", "cosine", "averaged", "ensemble")  # whose words say the value


def _text_of(name: str, knobs: Knobs) -> str:
    return "Set a weight decay" if name == "decay_up" and knobs.now("weight_decay") == 0 else _CHANGES[name]


def _measured(change: Change, knobs: Knobs) -> Advice | None:
    """Return a change that was measured as advice; None where it is done already, or cannot be."""
    setting, can, value = RULES[change.name]
    if not can(knobs.known):
        return None
    new = value(knobs.known) if change.value is None else change.value
    found = knobs.turn(_text_of(change.name, knobs), setting, new, change.name, said=f": {_promise(change)}.")
    return Advice(found.text, found.change, found.flags, change.gain)


def _promise(change: Change) -> str:
    harms = f", and raises it in {_of_ten(change.raises)}" if change.raises >= HARMS else ""
    lowers = f"lowers the loss in {_of_ten(change.lowers)} such runs{harms}"
    return f"{lowers}, by {round(100 * change.gain)} % of the room"


def _of_ten(share: float) -> str:
    return f"{round(10 * share)} of 10" if 0.05 <= share < 0.95 else f"{round(20 * share)} of 20"


def consistent(advice: Sequence[Advice]) -> list[Advice]:
    """Return advice without what contradicts, or repeats, an earlier piece."""
    kept: list[Advice] = []
    for each in advice:
        before = {one.change for one in kept if one.change}
        if each.change not in before and OPPOSITES.get(each.change) not in before:
            kept.append(each)
    return kept


@dataclass(frozen=True)
class Course:
    """What the curves tell the advice."""

    best: int = 0  # the best epoch
    epochs: int = 0  # that were trained
    jumps: bool = False  # the validation loss does so, instead of standing still
    early: bool = False  # the best epoch came almost at once
    is_kept: bool = False  # its weights are in a checkpoint


def advice_for(cause: str, knobs: Knobs, course: Course, changes: Sequence[Change] = ()) -> tuple[Advice, ...]:
    """Return what to do about a cause, the likeliest help first; what was measured before what was not."""
    found = (_measured(change, knobs) for change in changes if change.gain >= LEAST_GAIN)
    measured = consistent([advice for advice in found if advice is not None])[:MOST]
    by_hand = _BY_HAND[cause](knobs, course)
    # What costs nothing comes first; a rate at which nothing is learned is off by more than a change that was measured.
    first = [advice for advice in by_hand[:1] if advice.change == BEST_EPOCH or cause == "not_learning"]
    rest = by_hand[len(first) :]
    if changes:  # they know what can be turned better than a rule does
        rest = [advice for advice in rest if not advice.change]
    return tuple(consistent([*first, *measured, *rest]))


def _turned(name: str, knobs: Knobs, text: str | None = None) -> list[Advice]:
    """Return a change as advice that nothing was measured for; nothing where it is done already, or cannot be."""
    setting, can, value = RULES[name]
    return [knobs.turn(text or _text_of(name, knobs), setting, value(knobs.known), name)] if can(knobs.known) else []


def _weights(course: Course) -> list[Advice]:
    if course.is_kept:
        return []
    else_ = "else keep those of the best epoch in the next fit"
    return [Advice(f"Take the weights of epoch {course.best}, if they were kept; {else_}.", BEST_EPOCH)]


def _still_improving(knobs: Knobs, course: Course) -> list[Advice]:
    faster = _turned("lr_up", knobs, "Or learn faster: raise the learning rate threefold")
    last = Advice("If nothing of it helps, find better features or more rows.")
    return [*_turned("longer", knobs), *faster, *_turned("decay_off", knobs), *_turned("dropout_off", knobs), last]


def _not_learning(knobs: Knobs, course: Course) -> list[Advice]:
    up, down = knobs.times("lr", 10), knobs.times("lr", 0.1)
    rate = knobs.turn(
        "Raise the learning rate tenfold", "lr", up, "lr_up", ": the loss does not move. If it then jumps, go down."
    )
    if course.jumps:  # one that stands still wants a higher rate, one that jumps a lower one
        rate = knobs.turn("Lower the learning rate tenfold", "lr", down, "lr_down", ": the loss jumps without falling.")
    return [
        rate,
        Advice("Check that features are scaled and targets in the order of their rows."),
        *_turned("decay_off", knobs),
        *_turned("dropout_off", knobs),
        Advice("If it still stands at the trivial loss, the features may not tell the target."),
    ]


def _cannot_fit(knobs: Knobs, course: Course) -> list[Advice]:
    off = [*_turned("dropout_off", knobs), *_turned("decay_off", knobs)]
    last = Advice("If nothing moves the training loss, the features carry no more: add better ones.")
    return [*_turned("wider", knobs), *off, *_turned("lr_up", knobs), last]


def _memorising(knobs: Knobs, course: Course) -> list[Advice]:
    early = "Lower the learning rate to a third, for the best epoch came almost at once"
    return [
        *_weights(course),
        *_turned("decay_up", knobs),
        *_turned("dropout_up", knobs),
        *(_turned("lr_down", knobs, early) if course.early else []),
        *_turned("narrower", knobs),
        Advice("Add training data: nothing helps more where it can be had."),
    ]


def _overconfident(knobs: Knobs, course: Course) -> list[Advice]:
    best = f"For the metric, keep the last checkpoint; where probabilities matter, that of epoch {course.best}."
    rescale = "Its probabilities are too extreme to be read as they are: rescale them on held-out rows"
    flag = knobs.flag("calibrate")
    by_hand = [Advice(f"{rescale} (temperature scaling).")]
    scaled = [] if knobs.now("calibrate") else [knobs.turn(rescale, "calibrate", "true")] if flag else by_hand
    return [Advice(best), *scaled, *_turned("decay_up", knobs), *_turned("dropout_up", knobs)]


def _healthy(knobs: Knobs, course: Course) -> list[Advice]:
    return [*_weights(course), Advice("For a lower loss find more rows, or better features, before you train longer.")]


def _exploded(knobs: Knobs, course: Course) -> list[Advice]:
    clip = [] if knobs.now("clip") else [knobs.turn("Clip gradients to a norm of 1", "clip", 1.0)]
    jumps = "Make the batches four times as large, if single ones make it jump"
    return [
        knobs.turn("Lower the learning rate tenfold", "lr", knobs.times("lr", 0.1), "lr_down"),
        *clip,
        Advice("Look for infinite or huge values among features and targets; scale them."),
        *_turned("batch_up", knobs, jumps),
    ]


TEN = 10  # epochs, of which a curve can be told


def _too_few_epochs(knobs: Knobs, course: Course) -> list[Advice]:
    epochs = max(TEN, 4 * course.epochs)
    more = [knobs.turn(f"Train for {epochs} epochs", "max_epochs", epochs, "longer")]
    every = [] if knobs.now("every") == 1 else [knobs.turn("Evaluate after every epoch", "every", 1)]
    return [*more, *every] if course.epochs < TEN else [*every, *more]


def _no_validation(knobs: Knobs, course: Course) -> list[Advice]:
    text = "Hold out rows and log their loss every epoch: training loss alone cannot show overfitting"
    held = knobs.turn(text, "val_fraction", 0.15) if knobs.now("val_fraction") == 0 else Advice(f"{text}.")
    return [held, Advice("If it is logged under another name, pass that name.")]


def _loss_is_no_fit(knobs: Knobs, course: Course) -> list[Advice]:
    rate = "Otherwise lower the learning rate to a third, for a training loss should not rise"
    metric = "If the loss is no measure of fit (GAN, reinforcement learning, contrastive), judge by a metric."
    return [Advice(metric), *_turned("lr_down", knobs, rate)]


def _unclear(knobs: Knobs, course: Course) -> list[Advice]:
    larger = Advice("Enlarge the validation set, so that its loss is less noisy.")
    return [*_turned("longer", knobs, "Train on until the curves part or flatten: four times as long"), larger]


def _no_signal(knobs: Knobs, course: Course) -> list[Advice]:
    logged = (
        "Check what is logged: the loss that is trained, of the right rows, with targets in the order of their rows."
    )
    rate = "If that is so, raise the learning rate tenfold, for what the network learns does not show"
    trivial = "Compare it with the trivial loss (that of the best constant prediction): at it nothing is learnt."
    return [Advice(logged), knobs.turn(rate, "lr", knobs.times("lr", 10), "lr_up"), Advice(trivial)]


_BY_HAND = {
    "still_improving": _still_improving,
    "not_learning": _not_learning,
    "cannot_fit": _cannot_fit,
    "memorising": _memorising,
    "overconfident": _overconfident,
    "healthy": _healthy,
    "exploded": _exploded,
    "too_few_epochs": _too_few_epochs,
    "no_validation": _no_validation,
    "loss_is_no_fit": _loss_is_no_fit,
    "no_signal": _no_signal,
    "unclear": _unclear,
}
