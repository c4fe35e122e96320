"""What to do about each fault that the dynamics of training show, most promising first."""

from collections.abc import Iterator, Sequence

from callbacks._faults import Fault

Said = Iterator[tuple[Fault, str, str]]  # what, where, why

ADVICE: dict[Fault, str] = {
    Fault.VANISHING_GRADIENT: "use ReLU-like activations with He initialisation, normalisation or skip connections",
    Fault.EXPLODING_GRADIENT: "clip gradients (gradient_clip_val=1.0), and scale the initial weights to their fan-in",
    Fault.DEAD_UNITS: "lower the learning rate, start biases at 0, or use a leaky activation",
    Fault.SATURATED_UNITS: "use smaller initial weights, scaled inputs, a normalisation or a ReLU-like activation",
    Fault.NOT_UPDATING: "give it to the optimizer, with requires_grad=True and no detach(); if it is meant to stand "
    "still, set requires_grad=False or ignore=['not_updating']",
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
    """Some names as words, the rest as a number."""
    return ", ".join(f"`{n}`" for n in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
