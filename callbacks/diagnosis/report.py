"""The last word of a fit, one for all monitors: the verdict, what was broken, and what to do, without contradictions.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from callbacks.diagnosis.verdict import Diagnosis
from callbacks.diagnosis.words.advice import Advice, Knobs, consistent


class Found(Protocol):
    """A fault that was found in a run."""

    @property
    def fault(self) -> str:
        """Its name, such as `dead_units`."""

    @property
    def why(self) -> str:
        """What was seen, with the numbers."""

    @property
    def advice(self) -> str:
        """What to change."""


@dataclass(frozen=True)
class FitPart:
    """What is to be said of the losses; without a diagnosis nothing."""

    diagnosis: Diagnosis | None = None
    headline: str = ""  # the verdict in a few words
    keep: str | None = None  # which checkpoint to keep, where that is a question
    knobs: Knobs = field(default_factory=Knobs)


@dataclass(frozen=True)
class HealthPart:
    """What is to be said of faults."""

    watched: str  # how many were found, over how many steps
    findings: tuple[Found, ...] = ()
    lines: tuple[str, ...] = ()  # each finding in one line, without its advice

    def __str__(self) -> str:
        """Say it where there is no verdict beside it."""
        rows = (f"  {line} → {found.advice}" for line, found in zip(self.lines, self.findings, strict=True))
        return "\n".join([self.watched, *rows])


_MISTAKEN = {"constant_initialisation", "wrong_initialisation", "outputs_overscaled", "loss_sign", "optimizer_epsilon"}
_MISTAKEN |= {"gradients_not_zeroed", "inputs_unscaled", "labels_out_of_range", "learning_rate_too_high"}
_NOT_LEARNT = {"vanishing_gradient", "dead_units", "saturated_units", "not_updating", "learning_rate_too_low"}
_NOT_LEARNT |= {"wrong_activation", "missing_normalisation", "batch_norm_mode", "over_regularised", "wrong_loss"}
_NOT_LEARNT |= {"missing_softmax", "redundant_softmax", "wrong_softmax", "wrong_output_activation", "inputs_too_small"}
_NOT_LEARNT |= {"inputs_constant", "labels_one_class", "labels_wrong", "unshuffled"}
_NO_NUMBER = _MISTAKEN | {"non_finite", "exploding_gradient"}
_UNDERFIT = _MISTAKEN | _NOT_LEARNT | {"exploding_gradient"}
_OVERFIT = {"under_regularised", "labels_wrong", "wrong_augmentation", "batch_norm_mode", "unshuffled"}

# The faults of which a verdict is the consequence, by its cause.
EXPLAINS: dict[str, set[str]] = {
    "exploded": _NO_NUMBER,
    "loss_is_no_fit": _MISTAKEN,
    "not_learning": _UNDERFIT,
    "cannot_fit": _UNDERFIT,
    "still_improving": _UNDERFIT,
    "memorising": _OVERFIT,
    "overconfident": _OVERFIT,
}

_CUT_SHORT = ("no_validation", "too_few_epochs")  # perhaps by a number that is none

# What speaks against a fault's advice, beside the opposite of the change that it is.
_AGAINST = {
    "over_regularised": {"decay_up", "dropout_up"},
    "under_regularised": {"decay_off", "dropout_off"},
    "learning_rate_too_high": {"lr_up"},
    "learning_rate_too_low": {"lr_down"},
    "exploding_gradient": {"lr_up"},
    "non_finite": {"lr_up"},
    "dead_units": {"lr_up"},
    "vanishing_gradient": {"deeper"},
}


Flags = tuple[tuple[str, str], ...]  # names and values


def report(
    parts: Iterable[object], command: Callable[[Flags], str] | None = None, tried: Mapping[Flags, str] | None = None
) -> str:
    """Return the last word of a fit, out of the parts of its monitors.

    A fault that explains the verdict leads it, and its advice comes first. What is advised contradicts nothing else
    that is; where a fault and a measured change do, the fault has it if it explains the verdict, else the change.

    Args:
        parts: of type `FitPart` and `HealthPart`; others are passed by.
        command: writes the command line that sets some flags, to be run next; none where there is no such.
        tried: what became of the flags of an advice that was followed already.
    """
    given = [*parts]
    fits = [part for part in given if isinstance(part, FitPart) and part.diagnosis is not None]
    health = [part for part in given if isinstance(part, HealthPart)]
    if not fits:
        return "\n".join(f"health       {part}" for part in health)
    told = [_told(fit, health if at == 0 else [], command, tried or {}) for at, fit in enumerate(fits)]
    return "\n\n".join(told)


def _told(
    fit: FitPart, health: Sequence[HealthPart], command: Callable[[Flags], str] | None, tried: Mapping[Flags, str]
) -> str:
    diagnosis = fit.diagnosis
    assert diagnosis is not None
    findings = [found for part in health for found in part.findings]
    lines = {id(found): line for part in health for found, line in zip(part.findings, part.lines, strict=True)}
    reasons = explaining(diagnosis.cause, findings)
    because = [f"because      {lines[id(found)]}" for found in reasons[:1]]
    broken = [f"broken       {lines[id(found)]}" for found in findings if found not in reasons[:1]]
    advice = merged(diagnosis, findings, fit.knobs)
    texts = [f"{each.text} {tried[each.flags]}" if each.flags in tried else each.text for each in advice]
    numbered = [f"  {number}. {text}" for number, text in enumerate(texts, 1)]
    kept = [f"keep         {fit.keep}"] if fit.keep else []
    flags = next((each.flags for each in advice if each.flags and each.flags not in tried), ())
    following = [f"next         {command(flags)}"] if command is not None and flags else []
    watched = [f"health       {part.watched}" for part in health]
    return "\n".join(
        [f"verdict      {fit.headline}", *because, diagnosis.reason, *watched, *broken, *numbered, *kept, *following]
    )


# The changes that do what a fault asks for.
_AGREES = {"under_regularised": {"decay_up", "dropout_up"}, "over_regularised": {"decay_off", "dropout_off"}}


def explaining(cause: str, findings: Sequence[Found]) -> list[Found]:
    """Return the faults that explain a verdict, the first that was found first."""
    if cause in _CUT_SHORT and any(str(found.fault) == "non_finite" for found in findings):
        cause = "exploded"
    return [found for found in findings if str(found.fault) in EXPLAINS.get(cause, set())]


def merged(diagnosis: Diagnosis, findings: Sequence[Found], knobs: Knobs) -> list[Advice]:
    """Return the advice of a verdict and of faults as one list, the most promising first, without contradictions."""
    first = explaining(diagnosis.cause, findings)
    against = {change for found in first for change in _AGAINST.get(str(found.fault), set())}
    is_cut_short = first and diagnosis.cause in _CUT_SHORT  # then there is nothing else to mend
    kept = [advice for advice in diagnosis.plan if advice.change not in against and not is_cut_short]
    told = consistent([*(advice for found in first for advice in _leading(found, kept, knobs)), *kept])
    for found in findings:
        said = {each.change for each in told}
        if found not in first and not said & _AGAINST.get(str(found.fault), set()):
            told = consistent([*told, _of_fault(found, knobs)])
    return [each for at, each in enumerate(told) if each.text not in {one.text for one in told[:at]}]


def _leading(found: Found, plan: Sequence[Advice], knobs: Knobs) -> list[Advice]:
    """Return what to do about a fault that explains the verdict: what the verdict's own plan has for it, if it has."""
    fault = str(found.fault)
    meant = [advice for advice in plan if advice.change in _AGREES.get(fault, set())]
    # A fault says less than what was measured; and of too little regularisation not even which kind.
    better = meant if fault == "under_regularised" else [advice for advice in meant if advice.gain is not None]
    return better or [_of_fault(found, knobs)]


def _of_fault(found: Found, knobs: Knobs) -> Advice:
    """Return what to do about a fault, by the user's own flag where it has one."""
    fault, text = str(found.fault), found.advice.rstrip(".")
    text = text[:1].upper() + text[1:]
    if fault == "learning_rate_too_high":
        return knobs.turn(text, "lr", knobs.times("lr", 0.1), "lr_down")
    if fault == "learning_rate_too_low":
        return knobs.turn(text, "lr", knobs.times("lr", 10), "lr_up")
    if fault == "over_regularised":
        if "dropout takes" in found.why:
            return knobs.turn(text, "dropout", knobs.times("dropout", 0.1), "dropout_off")
        return knobs.turn(text, "weight_decay", knobs.times("weight_decay", 0.1), "decay_off")
    if fault == "exploding_gradient" and not knobs.now("clip"):
        return knobs.turn("Clip gradients to a norm of 1, or scale initial weights to their fan-in", "clip", 1.0)
    if fault == "dead_units":
        return knobs.turn(text, "lr", knobs.times("lr", 1 / 3), "lr_down")
    return Advice(f"{text}.", "dropout_up" if fault == "under_regularised" else "")


def advised(parts: Iterable[object]) -> list[Advice]:
    """Return what a report of these parts advises, in its order."""
    given = [*parts]
    findings = [found for part in given if isinstance(part, HealthPart) for found in part.findings]
    fits = (part for part in given if isinstance(part, FitPart))
    return next((merged(part.diagnosis, findings, part.knobs) for part in fits if part.diagnosis is not None), [])


def last_word(callbacks: Iterable[object]) -> str:
    """Return the report of the monitors among callbacks that close a fit; nothing while one of them has not ended.

    Each keeps its `closing_part` when it ends, and asks: the one that ends last speaks for all.
    """
    closing = [each for each in callbacks if getattr(each, "closing", False) and hasattr(each, "closing_part")]
    parts = [getattr(each, "closing_part", None) for each in closing]
    if any(part is None for part in parts):
        return ""
    if any(isinstance(part, FitPart) and part.diagnosis is not None for part in parts):
        return report(parts)
    return "\n".join(f"GradientMonitor: {part}" for part in parts if isinstance(part, HealthPart))
