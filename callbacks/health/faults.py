"""Name faults, say which explains which, and write findings as text and as plain data."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from callbacks.diagnosis.report import HealthPart
from callbacks.host import few


class Fault(StrEnum):
    """What is wrong, named after its cause."""

    # gradients and units
    VANISHING_GRADIENT = "vanishing_gradient"
    EXPLODING_GRADIENT = "exploding_gradient"
    NON_FINITE = "non_finite"
    DEAD_UNITS = "dead_units"
    SATURATED_UNITS = "saturated_units"
    NOT_UPDATING = "not_updating"
    GRADIENTS_NOT_ZEROED = "gradients_not_zeroed"
    # the network
    CONSTANT_INITIALISATION = "constant_initialisation"
    WRONG_INITIALISATION = "wrong_initialisation"
    WRONG_ACTIVATION = "wrong_activation"
    MISSING_NORMALISATION = "missing_normalisation"
    BATCH_NORM_MODE = "batch_norm_mode"
    # the optimizer
    LEARNING_RATE_TOO_HIGH = "learning_rate_too_high"
    LEARNING_RATE_TOO_LOW = "learning_rate_too_low"
    OPTIMIZER_EPSILON = "optimizer_epsilon"
    OVER_REGULARISED = "over_regularised"
    UNDER_REGULARISED = "under_regularised"
    # the loss and the head
    LOSS_SIGN = "loss_sign"
    WRONG_LOSS = "wrong_loss"
    OUTPUTS_OVERSCALED = "outputs_overscaled"
    MISSING_SOFTMAX = "missing_softmax"
    REDUNDANT_SOFTMAX = "redundant_softmax"
    WRONG_SOFTMAX = "wrong_softmax"
    WRONG_OUTPUT_ACTIVATION = "wrong_output_activation"
    # the data
    INPUTS_UNSCALED = "inputs_unscaled"
    INPUTS_TOO_SMALL = "inputs_too_small"
    INPUTS_CONSTANT = "inputs_constant"
    LABELS_OUT_OF_RANGE = "labels_out_of_range"
    LABELS_ONE_CLASS = "labels_one_class"
    LABELS_UNBALANCED = "labels_unbalanced"
    LABELS_WRONG = "labels_wrong"
    WRONG_AUGMENTATION = "wrong_augmentation"
    UNSHUFFLED = "unshuffled"


@dataclass(frozen=True)
class Finding:
    """One fault that the evidence supports."""

    fault: Fault  # what is wrong
    where: str  # the layer, parameter, column or loader it shows in; empty if it is the whole run
    step: int  # the optimizer step at which it was established
    why: str  # what was seen, with the numbers
    advice: str  # what to change, most promising first


_NETWORK = frozenset({Fault.CONSTANT_INITIALISATION, Fault.WRONG_INITIALISATION, Fault.WRONG_ACTIVATION})
_NETWORK |= {Fault.MISSING_NORMALISATION}
_SCALE = frozenset({Fault.INPUTS_UNSCALED, Fault.INPUTS_TOO_SMALL, Fault.INPUTS_CONSTANT, Fault.LOSS_SIGN})
_HEAD = frozenset({Fault.MISSING_SOFTMAX, Fault.REDUNDANT_SOFTMAX, Fault.WRONG_SOFTMAX, Fault.WRONG_LOSS})
_HEAD |= {Fault.WRONG_OUTPUT_ACTIVATION, Fault.OUTPUTS_OVERSCALED}
_LABELS = frozenset({Fault.LABELS_OUT_OF_RANGE, Fault.LABELS_ONE_CLASS, Fault.LABELS_WRONG})
_ROWS = frozenset({Fault.WRONG_AUGMENTATION, Fault.LABELS_UNBALANCED, Fault.UNSHUFFLED})
_DECAY = frozenset({Fault.OVER_REGULARISED})
_ZEROING = frozenset({Fault.GRADIENTS_NOT_ZEROED})
_RATE = frozenset({Fault.LEARNING_RATE_TOO_HIGH, Fault.OPTIMIZER_EPSILON})
_STILL = frozenset({Fault.NOT_UPDATING})

# A fault on the left goes unsaid when one on the right was found: the right one is why it shows.
CAUSES: dict[Fault, frozenset[Fault]] = {
    Fault.VANISHING_GRADIENT: _NETWORK | _SCALE | _HEAD | _DECAY | {Fault.DEAD_UNITS, Fault.SATURATED_UNITS},
    Fault.EXPLODING_GRADIENT: _NETWORK | _SCALE | _HEAD | _RATE | _ZEROING,
    Fault.DEAD_UNITS: _NETWORK | _SCALE | _HEAD | _RATE | _DECAY | _ZEROING,
    Fault.SATURATED_UNITS: _NETWORK | _SCALE | _RATE | _ZEROING,
    Fault.NOT_UPDATING: frozenset({Fault.DEAD_UNITS, Fault.CONSTANT_INITIALISATION, Fault.LABELS_ONE_CLASS}),
    Fault.LEARNING_RATE_TOO_HIGH: _NETWORK | _SCALE | _HEAD | _ZEROING | _LABELS | {Fault.OPTIMIZER_EPSILON},
    Fault.LEARNING_RATE_TOO_LOW: _NETWORK | _SCALE | _HEAD | _DECAY | _LABELS | _STILL | {Fault.DEAD_UNITS},
    Fault.OUTPUTS_OVERSCALED: _NETWORK | _SCALE | {Fault.WRONG_LOSS, Fault.WRONG_SOFTMAX},
    Fault.OVER_REGULARISED: frozenset({Fault.LOSS_SIGN, Fault.CONSTANT_INITIALISATION}),
    Fault.UNDER_REGULARISED: _SCALE | _LABELS | _ROWS | {Fault.BATCH_NORM_MODE},
}

# Symptoms are said only after so many batches, or at the end: what causes them may take that long to establish.
PATIENCE = 128
PATIENT = frozenset({Fault.VANISHING_GRADIENT, Fault.EXPLODING_GRADIENT, Fault.DEAD_UNITS, Fault.SATURATED_UNITS})


def explained(fault: Fault, established: Iterable[Fault]) -> bool:
    """Return whether a fault that was established already is the cause of this one."""
    return bool(CAUSES.get(fault, frozenset()) & frozenset(established))


Said = Iterator[tuple[Fault, str, str]]  # what, where, why

ADVICE: dict[Fault, str] = {
    Fault.VANISHING_GRADIENT: "use ReLU-like activations with He initialisation, normalisation or skip connections",
    Fault.EXPLODING_GRADIENT: "clip gradients (Trainer(gradient_clip_val=1.0)), scale initial weights to their fan-in",
    Fault.DEAD_UNITS: "lower the learning rate, start biases at 0, or use a leaky activation",
    Fault.SATURATED_UNITS: "use smaller initial weights, scaled inputs, a normalisation or a ReLU-like activation",
    Fault.NOT_UPDATING: "give it to the optimizer, or take the detach away; if it is meant to stand still, say so by "
    "requires_grad_(False) or torch.no_grad()",
    Fault.GRADIENTS_NOT_ZEROED: "call optimizer.zero_grad() before each backward pass that begins a new step",
    Fault.CONSTANT_INITIALISATION: "draw the weights at random (torch's default, nn.init.kaiming_normal_)",
    Fault.WRONG_INITIALISATION: "use torch's default or nn.init.kaiming_normal_, about 1/sqrt(fan_in)",
    Fault.LEARNING_RATE_TOO_HIGH: "lower the learning rate tenfold, and warm it up",
    Fault.LEARNING_RATE_TOO_LOW: "raise the learning rate tenfold until the loss moves",
    Fault.OPTIMIZER_EPSILON: "leave eps at the optimizer's default",
    Fault.OVER_REGULARISED: "lower weight decay, penalties or dropout tenfold",
    Fault.UNDER_REGULARISED: "add dropout, weight decay or augmentation, stop earlier, or find more rows",
    Fault.OUTPUTS_OVERSCALED: "take the factor off the outputs, or start the last layer with smaller weights",
}


def named(names: Sequence[str]) -> str:
    """Return some names as words, the rest as a number."""
    return few([f"`{name}`" for name in names])


def line(found: Finding) -> str:
    """Return one finding as one line: what, where, when, why, and what to do."""
    return f"{_seen(found)} → {found.advice}"


def _seen(found: Finding) -> str:
    where = f" in `{found.where}`" if found.where else ""
    return f"{found.fault.replace('_', ' ')}{where} at step {found.step}: {found.why}"


def part_of(findings: Sequence[Finding], skipped: int, *, steps: int, batches: int) -> HealthPart:
    """Return what a run's end says: one line if nothing was found, else a block with the faults in the order they came.

    Steps of optimizers were watched, `skipped` of them left out; batches are said where they are another number.
    """
    watched = f"{steps} steps" if steps == batches else f"{steps} steps ({batches} batches)"
    left_out = f" {skipped} of them were left out, their loss or gradient not finite." if skipped else ""
    found = f"{len(findings)} found" if findings else "nothing wrong"
    return HealthPart(f"{found} over {watched}.{left_out}", tuple(findings), tuple(map(_seen, findings)))


def to_plain(found: Finding) -> dict[str, Any]:
    """Return a finding as a checkpoint holds it."""
    return {**asdict(found), "fault": str(found.fault)}


def from_plain(values: dict[str, Any]) -> Finding:
    """Return a finding from a checkpoint."""
    return Finding(**{**values, "fault": Fault(values["fault"])})
