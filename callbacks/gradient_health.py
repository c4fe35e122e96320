"""What can be wrong with a training run, as arithmetic over plain numbers: no tensor comes here."""

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
