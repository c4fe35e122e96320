"""Judge the head, the activations, the depth and the batch norms of a network: arithmetic over plain facts."""

from collections.abc import Iterator, Sequence
from math import prod

from callbacks.health.facts import AFFINE, MOVES, BatchNorm, Loss, OperationFacts, Structure, Term
from callbacks.health.faults import Fault, Finding, named

BOUNDED = frozenset({"Sigmoid", "Tanh", "Relu", "Softplus"})
CLIPPED = BOUNDED | {"Softmax", "Hardtanh", "Elu", "Gelu"}
FEW = 16  # target values that make no statement about a range
BEYOND = 0.05  # share of targets out of an activation's range that is no accident
NAMES = {"nll": "cross-entropy", "soft": "cross-entropy", "picked": "negative log-likelihood"}
NAMES |= dict.fromkeys(("bce", "bce_logits"), "binary cross-entropy") | {"regression": "distance to the target"}

Case = tuple[Fault, str, str]


def head_findings(loss: Loss, step: int) -> list[Finding]:
    """Find faults of the head and the loss; none of a loss of no known make."""
    cases = list(_sign(loss))
    for term in loss.terms:
        cases += [case for check in CHECKS for case in check(term)][:1]
    return [Finding(fault, "loss", step, why, advice) for fault, why, advice in dict.fromkeys(cases)]


def _sign(loss: Loss) -> Iterator[Case]:
    signs = {term.sign for term in loss.terms}
    known = all(term.kind != "unknown" for term in loss.terms)
    if loss.alone and not loss.maximised and known and signs == {-1}:
        kinds = " and ".join(sorted({NAMES[term.kind] for term in loss.terms}))
        why = f"the optimizer minimises the negative of the {kinds} (now {loss.value:.4g}), so it makes errors larger"
        yield Fault.LOSS_SIGN, why, "Return the loss itself from training_step, without the minus sign."


def _shapes(term: Term) -> Iterator[Case]:
    over = next((op.shape[op.dim] for op in term.real[:1] if op.dim is not None and op.shape), 1)
    if term.kind in ("nll", "soft") and _classes(term) == 1 == over:  # rows may be what is chosen from
        why = "cross-entropy over 1 output: the softmax of one number is 1, the loss is always 0"
        advice = "Use MSELoss for a regression, BCEWithLogitsLoss for two classes, or one output a class."
        yield Fault.WRONG_LOSS, why, advice
    if term.kind == "regression" and term.stretched:
        why = f"prediction and target have shapes that broadcast to {term.shape}: every row is compared with all others"
        yield Fault.WRONG_LOSS, why, "Give both the same shape, e.g. prediction.squeeze(1) or target.unsqueeze(1)."


def _dimension(term: Term) -> Iterator[Case]:
    soft = next((op for op in term.real[:4] if op.name in ("LogSoftmax", "Softmax")), None)
    if soft is None or soft.dim is None or len(soft.shape) < 2 or term.kind in ("unknown", "regression"):
        return
    if len(set(soft.shape)) == 1:  # rows told apart by columns, and columns by rows, as contrastive losses do
        return
    moved = any(op.name in MOVES for op in term.chain[: term.chain.index(soft)])
    classes = _classes(term)
    wrong = soft.shape[soft.dim] != classes if moved else soft.dim != 1 and len(soft.shape) == len(term.shape)
    inner = _second_softmax(term)
    if inner is not None and inner.dim == 0 and len(inner.shape) > 1:
        wrong, soft = True, inner
    if wrong and classes > 1:
        why = f"the softmax runs over dimension {soft.dim} of {soft.shape}, which are not the classes"
        yield Fault.WRONG_SOFTMAX, why, "Give the dimension of the classes, for rows of scores dim=1."


def _redundant(term: Term) -> Iterator[Case]:
    if _second_softmax(term) is not None:
        why = (
            "a softmax stands before a loss that takes a softmax itself: probabilities, at most 1 apart, are its scores"
        )
        advice = "Hand the raw scores (logits) to CrossEntropyLoss; take softmax for predictions only."
        yield Fault.REDUNDANT_SOFTMAX, why, advice
    if term.kind == "bce_logits" and _first(term) == "Sigmoid":
        why = "a sigmoid stands before BCEWithLogitsLoss, which takes the sigmoid itself"
        yield Fault.REDUNDANT_SOFTMAX, why, "Hand the raw scores to BCEWithLogitsLoss, or use BCELoss."


def _missing(term: Term) -> Iterator[Case]:
    first = next((op.name for op in term.real if op.name != "Scale"), "")
    if term.kind == "nll" and (first in AFFINE or first in BOUNDED or first == "Softmax"):
        got = "probabilities" if first == "Softmax" else "raw scores"
        why = f"NLLLoss needs log-probabilities and is given {got} (the last operation before it is {first})"
        yield Fault.MISSING_SOFTMAX, why, "Use CrossEntropyLoss on the raw scores, or log_softmax(scores, dim=1)."
    names = [op.name for op in term.real if op.name not in ("Clamp", "ClampMin", "Add", "Scale")]
    if term.kind in ("picked", "soft") and len(names) > 1 and names[0] == "Log" and names[1] in AFFINE:
        why = "the loss takes the logarithm of raw scores as if they were probabilities"
        yield Fault.MISSING_SOFTMAX, why, "Use CrossEntropyLoss on the raw scores, or log_softmax(scores, dim=1)."
    if term.kind == "bce" and (first in AFFINE or (first.startswith("Clamp") and names[:1] and names[0] in AFFINE)):
        why = "BCELoss needs probabilities and is given raw scores"
        yield Fault.WRONG_OUTPUT_ACTIVATION, why, "Use BCEWithLogitsLoss on the raw scores, or a sigmoid before it."


def _clipped_scores(term: Term) -> Iterator[Case]:
    inner = term.real[1:] if _first(term) == "LogSoftmax" else term.real if term.kind == "bce_logits" else ()
    name = inner[0].name if inner else ""
    if name in CLIPPED and name != "Softmax" and (term.kind, name) != ("bce_logits", "Sigmoid"):
        why = f"the scores go through {name.lower()} before the softmax, so that it cannot give every probability"
        yield Fault.WRONG_OUTPUT_ACTIVATION, why, "Let the last layer be linear: no activation after it."


def _softmax_of_one(term: Term) -> Iterator[Case]:
    first = term.real[0] if term.real else None
    if first is None or first.name != "Softmax" or first.dim is None or term.kind not in ("regression", "bce"):
        return
    if first.shape[first.dim] == 1:
        why = "the output goes through a softmax over 1 number, which is always 1: nothing can be learnt"
        yield Fault.WRONG_OUTPUT_ACTIVATION, why, "Let the last layer be linear, or use a sigmoid for a probability."


def _target(term: Term) -> Iterator[Case]:
    target = term.target
    size = 0 if target is None else prod(target.shape)
    if target is None or size < 2:
        return
    if term.kind in ("bce", "bce_logits") and (target.low < 0 or target.high > 1):
        if target.distinct <= 2 and float(target.low).is_integer() and float(target.high).is_integer():
            why = f"binary cross-entropy needs the labels 0 and 1; these are {target.low:g} and {target.high:g}"
            yield Fault.LABELS_OUT_OF_RANGE, why, "Map the two labels to 0 and 1."
        else:
            why = f"binary cross-entropy with targets from {target.low:.3g} to {target.high:.3g} has no minimum"
            advice = "Use MSELoss for numbers, CrossEntropyLoss for more than two classes, 0 and 1 for two."
            yield Fault.WRONG_LOSS, why, advice
    if term.kind == "regression" and target.one_hot and target.given:
        why = f"a squared or absolute distance to one-hot labels of {target.shape[-1]} classes"
        yield Fault.WRONG_LOSS, why, "Use CrossEntropyLoss on the raw scores for classes."
    name = _first(term)
    if term.kind == "regression" and name in BOUNDED and size >= FEW:
        below, above, outside = target.beyond
        share = {"Sigmoid": below + above, "Tanh": outside}.get(name, below)
        if share > BEYOND:
            values = f"{share:.0%} of the targets (from {target.low:.3g} to {target.high:.3g})"
            why = f"the output goes through {name.lower()}, and {values} lie where it cannot reach"
            advice = "Let the last layer be linear, or scale the targets into the activation's range."
            yield Fault.WRONG_OUTPUT_ACTIVATION, why, advice


CHECKS = (_shapes, _dimension, _redundant, _missing, _clipped_scores, _softmax_of_one, _target)


def _first(term: Term) -> str:
    return term.real[0].name if term.real else ""


def _second_softmax(term: Term) -> OperationFacts | None:
    if _first(term) != "LogSoftmax":
        return None
    after = [op for op in term.real[1:] if not op.name.startswith("Clamp")]
    return after[0] if after and after[0].name == "Softmax" else None


def _classes(term: Term) -> int:
    return term.shape[1] if len(term.shape) > 1 else term.shape[0] if term.shape else 0


DEEP = 7  # layers that a signal passes without a norm; six keep a 200th of it, as torch initialises them
FADED = 0.005
STUCK = 0.9  # of the first losses


def structure_findings(structure: Structure, step: int) -> list[Finding]:
    """Find hidden activations that cannot do their work."""
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
    if inner and set(inner) == {"Softmax"} and len(layers) >= 2 and not _bottleneck(net):
        why = "a softmax stands between the layers: what one unit gets, all others lose"
        yield why, "Use ReLU, GELU or ELU between layers; keep softmax for the classes."
    enough = len(layers) >= (3 if any(layer.normed for layer in layers) else 2)
    if net.linear and enough and "affine" in fed and set(fed) <= {"input", "affine"} and not _bottleneck(net):
        why = f"nothing stands between {len(layers)} linear layers: together they can do no more than one"
        yield why, "Put an activation such as ReLU after each hidden layer."


def _bottleneck(net: Structure) -> bool:
    # A hidden layer is narrower than what goes in and comes out: then two linear layers mean something.
    ends = min(net.layers[-1].inputs, net.layers[0].outputs)
    return any(0 < layer.outputs < ends for layer in net.layers[1:])


def fades(structure: Structure, signals: Sequence[tuple[str, float]]) -> bool:
    """Return whether a deep network without norms and skips starts with next to no signal at its end."""
    if structure.normed or structure.skips or len(signals) < DEEP or len(structure.layers) != len(signals):
        return False
    return 0 < signals[-1][1] < FADED * signals[0][1]


def signal_findings(
    structure: Structure, signals: Sequence[tuple[str, float]], losses: tuple[float, float], step: int
) -> list[Finding]:
    """Find out whether a deep network without a norm loses its signal on the way.

    Signals are the names of layers in their order, and how much their inputs differ from row to row; losses the mean of
    the first training losses and of those just now.
    """
    if not fades(structure, signals) or not losses[1] > STUCK * losses[0] > 0:
        return []
    (_, first), (name, last) = signals[0], signals[-1]
    fall = f"what tells rows apart falls from {first:.2g} at `{signals[0][0]}` to {last:.2g} at `{name}`"
    loss = f"the loss went from {losses[0]:.4g} to {losses[1]:.4g}"
    why = f"{fall}, {len(signals)} layers on, without a norm between; {loss}"
    advice = "Put a BatchNorm, LayerNorm or GroupNorm between the layers, or initialise them for their activation (He)."
    return [Finding(Fault.MISSING_NORMALISATION, "network", step, why, advice)]


def start_findings(norms: Sequence[BatchNorm], step: int) -> list[Finding]:
    """Find batch norms that can never learn what to use in evaluation."""
    stiff = [n.name for n in norms if n.tracked and n.momentum == 0 and n.fresh]
    why = f"momentum=0 of {named(stiff)}: running statistics stay 0 and 1 for ever, evaluation does not normalise"
    return _mode(stiff, step, why, "Use the default momentum, 0.1.")


def training_findings(
    norms: Sequence[BatchNorm], step: int, *, root_training: bool, were_training: bool
) -> list[Finding]:
    """Find batch norms in the wrong mode in a training step.

    It is told whether the whole module is in training mode, and whether the norms were in an earlier step.
    """
    asleep = [n.name for n in norms if not n.training and n.tracked and n.trainable and n.fresh]
    why = f"{named(asleep)} trains in evaluation mode with running statistics that nobody ever computed"
    found = _mode(asleep, step, why, "Call train() on the module before training.")
    if found or not were_training or root_training:
        return found
    left = [n.name for n in norms if not n.training and n.tracked]
    why = f"{named(left)} was left in evaluation mode with the module around it: training uses fixed statistics"
    return _mode(left, step, why, "Call train() again after an evaluation in the middle of training.")


def validation_findings(norms: Sequence[BatchNorm], step: int) -> list[Finding]:
    """Find batch norms that normalise validation rows by each other, and learn from them."""
    awake = [n.name for n in norms if n.training and n.tracked and n.momentum != 0]
    why = f"{named(awake)} is in training mode during validation: it learns from its rows, each depends on its batch"
    advice = "Don't call train() in validation; Lightning calls eval() before it and train() after it."
    return _mode(awake, step, why, advice)


def _mode(names: Sequence[str], step: int, why: str, advice: str) -> list[Finding]:
    return [Finding(Fault.BATCH_NORM_MODE, name, step, why, advice) for name in names[:1]]
