"""The faults by name, what one finding holds, and which fault explains which symptom."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


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
    """One fault that the evidence supports.

    Args:
        fault: What is wrong.
        where: The layer, parameter, column or loader it shows in; empty if it is the whole run.
        step: The optimizer step at which it was established.
        why: What was seen, with the numbers.
        advice: What to change, most promising first.
    """

    fault: Fault
    where: str
    step: int
    why: str
    advice: str


_NETWORK = frozenset(
    {
        Fault.CONSTANT_INITIALISATION,
        Fault.WRONG_INITIALISATION,
        Fault.WRONG_ACTIVATION,
        Fault.MISSING_NORMALISATION,
    }
)
_SCALE = frozenset({Fault.INPUTS_UNSCALED, Fault.INPUTS_TOO_SMALL, Fault.INPUTS_CONSTANT, Fault.LOSS_SIGN})
_HEAD = frozenset(
    {
        Fault.WRONG_LOSS,
        Fault.MISSING_SOFTMAX,
        Fault.REDUNDANT_SOFTMAX,
        Fault.WRONG_SOFTMAX,
        Fault.WRONG_OUTPUT_ACTIVATION,
        Fault.OUTPUTS_OVERSCALED,
    }
)
_LABELS = frozenset({Fault.LABELS_OUT_OF_RANGE, Fault.LABELS_ONE_CLASS, Fault.LABELS_WRONG})
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
    Fault.UNDER_REGULARISED: _SCALE
    | _LABELS
    | {Fault.BATCH_NORM_MODE, Fault.WRONG_AUGMENTATION, Fault.LABELS_UNBALANCED, Fault.UNSHUFFLED},
}

# Symptoms are said only after so many batches, or at the end: what causes them may take that long to establish.
PATIENCE = 128
PATIENT = frozenset({Fault.VANISHING_GRADIENT, Fault.EXPLODING_GRADIENT, Fault.DEAD_UNITS, Fault.SATURATED_UNITS})


def explained(fault: Fault, established: Iterable[Fault]) -> bool:
    """Whether a fault that was established already is the cause of this one."""
    return bool(CAUSES.get(fault, frozenset()) & frozenset(established))
