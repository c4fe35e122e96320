"""What can be wrong with the layers of a network, as arithmetic over plain facts."""

from collections.abc import Iterator, Sequence

from callbacks._head_facts import BatchNorm, Structure
from callbacks.gradient_health import Fault, Finding

DEEP = 7  # layers that a signal passes without a norm; six keep a 200th of it, as torch initialises them
FADED = 0.005
STUCK = 0.9  # of the first losses


def structure_findings(structure: Structure, step: int) -> list[Finding]:
    """Whether the hidden activations can do their work."""
    cases = list(_activations(structure))[:1]
    return [Finding(Fault.WRONG_ACTIVATION, "network", step, why, advice) for why, advice in cases]


def _activations(net: Structure) -> Iterator[tuple[str, str]]:
    layers = net.layers
    fed = [layer.fed_by for layer in layers]
    sigmoids = [layer for layer in layers if layer.fed_by == "Sigmoid"]
    convolutions = sum(layer.convolution for layer in layers)
    few = 5 if any(layer.normed for layer in sigmoids) else 2 if convolutions >= 2 else 3
    if len(sigmoids) >= few:
        why = f"{len(sigmoids)} layers one after the other are fed by a sigmoid, which passes at most 1/4 of a gradient"
        yield why, "Use ReLU, GELU or ELU between layers; keep sigmoid for probabilities and gates."
    inner = [name for name in fed if name not in ("input", "affine")]
    if inner and set(inner) == {"Softmax"} and len(layers) >= 2:
        why = "a softmax stands between the layers: what one unit gets, all others lose"
        yield why, "Use ReLU, GELU or ELU between layers; keep softmax for the classes."
    enough = len(layers) >= (3 if any(layer.normed for layer in layers) else 2)
    if net.linear and enough and "affine" in fed and set(fed) <= {"input", "affine"} and not _bottleneck(net):
        why = f"nothing stands between {len(layers)} linear layers: together they can do no more than one"
        yield why, "Put an activation such as ReLU after each hidden layer."


def _bottleneck(net: Structure) -> bool:
    """Whether a hidden layer is narrower than what goes in and comes out: then two linear layers mean something."""
    ends = min(net.layers[-1].inputs, net.layers[0].outputs)
    return any(0 < layer.outputs < ends for layer in net.layers[1:])


def fades(structure: Structure, signals: Sequence[tuple[str, float]]) -> bool:
    """Whether a deep network without norms and skips starts with next to no signal at its end."""
    if structure.normed or structure.skips or len(signals) < DEEP or len(structure.layers) != len(signals):
        return False
    return 0 < signals[-1][1] < FADED * signals[0][1]


def signal_findings(
    structure: Structure, signals: Sequence[tuple[str, float]], losses: tuple[float, float], step: int
) -> list[Finding]:
    """Whether a deep network without a norm loses its signal on the way.

    Args:
        structure: The network.
        signals: Names of layers in their order, and how much their inputs differ from row to row.
        losses: The mean of the first training losses and of those just now.
        step: Now.
    """
    if not fades(structure, signals) or not losses[1] > STUCK * losses[0] > 0:
        return []
    (_, first), (name, last) = signals[0], signals[-1]
    why = (
        f"what tells rows apart falls from {first:.2g} at `{signals[0][0]}` to {last:.2g} at `{name}`, "
        f"{len(signals)} layers on, without a norm between; the loss went from {losses[0]:.4g} to {losses[1]:.4g}"
    )
    advice = "Put a BatchNorm, LayerNorm or GroupNorm between the layers, or initialise them for their activation (He)."
    return [Finding(Fault.MISSING_NORMALISATION, "network", step, why, advice)]


def start_findings(norms: Sequence[BatchNorm], step: int) -> list[Finding]:
    """Batch norms that can never learn what to use in evaluation."""
    stiff = [n.name for n in norms if n.tracked and n.momentum == 0 and n.fresh]
    why = f"momentum=0 of {_names(stiff)}: running statistics stay 0 and 1 for ever, evaluation does not normalise"
    return [_mode(stiff[0], step, why, "Use the default momentum, 0.1.")] if stiff else []


def training_findings(
    norms: Sequence[BatchNorm], step: int, *, root_training: bool, were_training: bool
) -> list[Finding]:
    """Batch norms in the wrong mode in a training step.

    Args:
        norms: As they are in the step.
        step: Now.
        root_training: Whether the whole module is in training mode.
        were_training: Whether they were in an earlier step.
    """
    asleep = [n.name for n in norms if not n.training and n.tracked and n.trainable and n.fresh]
    if asleep:
        why = f"{_names(asleep)} trains in evaluation mode with running statistics that nobody ever computed"
        return [_mode(asleep[0], step, why, "Call train() on the module before training.")]
    left = [n.name for n in norms if not n.training and n.tracked]
    if left and were_training and not root_training:
        why = f"{_names(left)} was left in evaluation mode with the module around it: training uses fixed statistics"
        return [_mode(left[0], step, why, "Call train() again after an evaluation in the middle of training.")]
    return []


def validation_findings(norms: Sequence[BatchNorm], step: int) -> list[Finding]:
    """Batch norms that normalise validation rows by each other, and learn from them."""
    awake = [n.name for n in norms if n.training and n.tracked and n.momentum != 0]
    why = f"{_names(awake)} is in training mode during validation: it learns from its rows, each depends on its batch"
    advice = "Don't call train() in validation; Lightning calls eval() before it and train() after it."
    return [_mode(awake[0], step, why, advice)] if awake else []


def _mode(name: str, step: int, why: str, advice: str) -> Finding:
    return Finding(Fault.BATCH_NORM_MODE, name, step, why, advice)


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
