"""What can be wrong between a network's last layer and its loss, as arithmetic over the facts of one loss."""

from collections.abc import Iterator, Sequence

from callbacks._head_facts import AFFINE, MOVES, Loss, Op, Term
from callbacks.gradient_health import Fault, Finding

BOUNDED = {"Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Relu": (0.0, None), "Softplus": (0.0, None)}
CLIPPED = {**BOUNDED, "Softmax": (0.0, 1.0), "Hardtanh": (None, None), "Elu": (-1.0, None), "Gelu": (-0.2, None)}
FEW = 16  # target values that make no statement about a range
BEYOND = 0.05  # share of targets out of an activation's range that is no accident


Case = tuple[Fault, str, str]


def head_findings(loss: Loss, step: int) -> list[Finding]:
    """What is wrong with the head and the loss; empty if nothing is, or if the loss is of no known make."""
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


NAMES = {
    "nll": "cross-entropy",
    "picked": "negative log-likelihood",
    "soft": "cross-entropy",
    "bce": "binary cross-entropy",
    "bce_logits": "binary cross-entropy",
    "regression": "distance to the target",
}


def _one_output(term: Term) -> Iterator[Case]:
    if term.kind in ("nll", "soft") and _classes(term) == 1:
        why = "cross-entropy over 1 output: the softmax of one number is 1, the loss is always 0"
        yield (
            Fault.WRONG_LOSS,
            why,
            "Use MSELoss for a regression, BCEWithLogitsLoss for two classes, or one output a class.",
        )


def _stretched(term: Term) -> Iterator[Case]:
    if term.kind == "regression" and term.stretched:
        why = f"prediction and target have shapes that broadcast to {term.shape}: every row is compared with all others"
        yield Fault.WRONG_LOSS, why, "Give both the same shape, e.g. prediction.squeeze(1) or target.unsqueeze(1)."


def _wrong_dimension(term: Term) -> Iterator[Case]:
    soft = next((op for op in term.real[:4] if op.name in ("LogSoftmax", "Softmax")), None)
    if soft is None or soft.dim is None or len(soft.shape) < 2 or term.kind in ("unknown", "regression"):
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
        yield (
            Fault.REDUNDANT_SOFTMAX,
            why,
            "Hand the raw scores (logits) to CrossEntropyLoss; take softmax for predictions only.",
        )
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


def _range(term: Term) -> Iterator[Case]:
    name, target = _first(term), term.target
    if term.kind != "regression" or name not in BOUNDED or target is None or _size(target.shape) < FEW:
        return
    below, above, outside = target.beyond
    share = {"Sigmoid": below + above, "Tanh": outside}.get(name, below)
    if share > BEYOND:
        why = (
            f"the output goes through {name.lower()}, and {share:.0%} of the targets "
            f"(from {target.low:.3g} to {target.high:.3g}) lie where it cannot reach"
        )
        advice = "Let the last layer be linear, or scale the targets into the activation's range."
        yield Fault.WRONG_OUTPUT_ACTIVATION, why, advice


def _target(term: Term) -> Iterator[Case]:
    target = term.target
    if target is None or _size(target.shape) < 2:
        return
    if term.kind in ("bce", "bce_logits") and (target.low < 0 or target.high > 1):
        if target.distinct <= 2 and float(target.low).is_integer() and float(target.high).is_integer():
            why = f"binary cross-entropy needs the labels 0 and 1; these are {target.low:g} and {target.high:g}"
            yield Fault.LABELS_OUT_OF_RANGE, why, "Map the two labels to 0 and 1."
        else:
            why = f"binary cross-entropy with targets from {target.low:.3g} to {target.high:.3g} has no minimum"
            yield (
                Fault.WRONG_LOSS,
                why,
                "Use MSELoss for numbers, CrossEntropyLoss for more than two classes, 0 and 1 for two.",
            )
    if term.kind == "regression" and target.one_hot and target.given:
        why = f"a squared or absolute distance to one-hot labels of {target.shape[-1]} classes"
        yield Fault.WRONG_LOSS, why, "Use CrossEntropyLoss on the raw scores for classes."


CHECKS = (
    _one_output,
    _stretched,
    _wrong_dimension,
    _redundant,
    _missing,
    _clipped_scores,
    _softmax_of_one,
    _target,
    _range,
)


def _first(term: Term) -> str:
    return term.real[0].name if term.real else ""


def _second_softmax(term: Term) -> Op | None:
    if _first(term) != "LogSoftmax":
        return None
    after = [op for op in term.real[1:] if not op.name.startswith("Clamp")]
    return after[0] if after and after[0].name == "Softmax" else None


def _classes(term: Term) -> int:
    return term.shape[1] if len(term.shape) > 1 else term.shape[0] if term.shape else 0


def _size(shape: Sequence[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
