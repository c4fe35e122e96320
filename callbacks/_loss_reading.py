"""Reads the autograd graph above a loss into plain facts: which loss it is, and what stands between it and the network.

Names and `_saved_*` attributes of graph nodes are public (https://docs.pytorch.org/docs/stable/notes/autograd.html).
Tensors are only read near the loss: further down a checkpointed block would be computed anew for it.
"""

import re
from typing import Any

from torch import Tensor

from callbacks._head_facts import AFFINE, MOVES, Loss, Op, Term
from callbacks._target_reading import read_target

MOST_NODES = 400  # of a loss made of many terms, the rest is not read
LONGEST_CHAIN = 24
REDUCTIONS = frozenset({"Mean", "Sum", "Div", "Nanmean", "Nansum", "Stack", "Cat", "MaskedFill", "Where", "Squeeze"})
SCORES = frozenset({"LogSoftmax", "Log", "LogSigmoid"})
FUSED = {
    "NllLoss": "nll",
    "NllLoss2D": "nll",
    "BinaryCrossEntropy": "bce",
    "BinaryCrossEntropyWithLogits": "bce_logits",
    "MseLoss": "regression",
    "SmoothL1Loss": "regression",
    "HuberLoss": "regression",
}


def read_loss(loss: Tensor, *, alone: bool, maximised: bool) -> Loss:
    """The terms of a loss.

    Args:
        loss: The loss, before its backward pass.
        alone: Whether the one optimizer minimises this loss and no other.
        maximised: Whether the optimizer maximises.
    """
    terms: list[Term] = []
    todo: list[tuple[Any, int]] = [(loss.grad_fn, 1)]
    seen: set[Any] = set()
    while todo and len(seen) < MOST_NODES:
        node, sign = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        term = _term(node, sign)
        if term is not None:
            terms.append(term)
            continue
        below = [] if _is_penalty(node) else _through(node, sign)
        if below is None and name_of(node) != "AccumulateGrad":
            terms.append(Term("unknown", sign))
        todo += below or []
    return Loss(tuple(terms), alone=alone, maximised=maximised, value=float(loss.detach()))


def name_of(node: Any) -> str:
    """The operation of a graph node, e.g. `LogSoftmax`."""
    return re.sub(r"Backward\d*$", "", str(node.name()).rsplit("::", 1)[-1])


def data_input(node: Any) -> Any:
    """The node that gave an operation its data, rather than its weights; None if nothing trained did."""
    inputs = [below for below, _ in node.next_functions]
    name = name_of(node)
    if name in ("Addmm", "Baddbmm", "Addmv"):
        return inputs[1]
    return inputs[0] if inputs else None


def dimension(node: Any, rank: int) -> int | None:
    """The dimension an operation works along, counted from the front."""
    dim = getattr(node, "_saved_dim", None)
    if not isinstance(dim, int) or not rank:
        return None
    return signed(dim) % rank


def signed(number: int) -> int:
    """A number that autograd may show as an unsigned one: -1 as 2⁶⁴ - 1."""
    return number - 2**64 if number >= 2**63 else number


# ---------------------------------------------------------------------- terms


def _term(node: Any, sign: int) -> Term | None:
    name = name_of(node)
    if name in FUSED:
        return _fused(node, FUSED[name], sign)
    if name in ("Gather", "Index"):
        return _likelihood(node, "picked", -sign)
    if name == "LogSoftmax":  # summed up over all classes, as label smoothing does
        op = _op(node, name)
        return Term("soft", -sign, op.shape if len(op.shape) == 2 else (), _chain(node))
    if name == "Mul" and _constant(node) is not None:
        weights = _constant(node)
        if isinstance(weights, Tensor) and weights.numel() > 1:
            return _likelihood(node, "soft", -sign if _is_distribution(weights) else 0)
    squared = name == "Pow" and getattr(node, "_saved_exponent", None) == 2
    return _difference(node, sign) if squared or name == "Abs" else None


def _fused(node: Any, kind: str, sign: int) -> Term:
    below = node.next_functions[0][0]
    scores = getattr(node, "_saved_self", None)
    shape = tuple(scores.shape) if scores is not None else ()
    target = getattr(node, "_saved_target", None)
    chain = _chain(below)
    read = None if target is None else read_target(target)
    weighted = any(getattr(node, name, None) is not None for name in ("_saved_weight", "_saved_pos_weight"))
    square = kind == "regression" and _is_square(shape, chain)
    ignored = signed(getattr(node, "_saved_ignore_index", -100))
    return Term(kind, sign, shape, chain, read, square, weighted, ignored)


def _likelihood(node: Any, kind: str, sign: int) -> Term | None:
    chain = _chain(next((below for below, _ in node.next_functions if below is not None), None))
    first = next((op for op in chain if op.name not in MOVES), None)
    if first is None or first.name not in SCORES:
        return None
    shape = first.shape if len(first.shape) == 2 else ()
    return Term(kind, sign, shape, chain)


def _difference(node: Any, sign: int) -> Term | None:
    """A squared or absolute difference to something that is not trained."""
    below = node.next_functions[0][0]
    if below is None or name_of(below) != "Sub":
        return None
    trained = [part for part, _ in below.next_functions if part is not None]
    if len(trained) != 1:
        return None
    before = getattr(node, "_saved_self", None)
    shape = tuple(before.shape) if before is not None else ()
    chain = _chain(trained[0])
    return Term("regression", sign, shape, chain, stretched=_is_square(shape, chain))


def _is_penalty(node: Any) -> bool:
    """Whether an operation measures weights, not predictions."""
    for _ in range(4):
        inputs = [below for below, _ in node.next_functions if below is not None]
        if len(inputs) != 1:
            return False
        node = inputs[0]
        if name_of(node) == "AccumulateGrad":
            return True
    return False


def _is_square(shape: tuple[int, ...], chain: tuple[Op, ...]) -> bool:
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
        return False
    last = next((op for op in chain if op.shape and op.name != "Expand"), None)
    return last is not None and last.shape in ((shape[0], 1), (shape[0],))


def _through(node: Any, sign: int) -> list[tuple[Any, int]] | None:
    """The inputs of an operation that a loss is summed up with, or None if it does more than that."""
    name = name_of(node)
    inputs = [below for below, _ in node.next_functions]
    if name == "Neg":
        return [(inputs[0], -sign)]
    if name == "Sub":
        return [(inputs[0], sign), *((below, -sign) for below in inputs[1:])]
    if name in ("Mul", "Div"):
        factor = _constant(node)
        if factor is None:
            return [(inputs[0], sign)] if name == "Div" and inputs[1:] in ([], [None]) else None
        return [(below, sign * _sign(factor)) for below in inputs if below is not None]
    if name == "Add" or name in REDUCTIONS or name in MOVES:
        return [(below, sign) for below in inputs]
    return None


def _is_distribution(weights: Tensor) -> bool:
    """Whether a factor of log-probabilities is a distribution over classes in each row."""
    rows = weights.detach().float()
    return rows.ndim == 2 and bool((rows >= 0).all() & ((rows.sum(1) - 1).abs() < 0.01).all())


def _constant(node: Any) -> Any:
    """The factor of a product that is not trained."""
    if sum(below is not None for below, _ in node.next_functions) != 1:
        return None
    other = getattr(node, "_saved_other", None)
    return other if other is not None else getattr(node, "_saved_self", None)


def _sign(factor: Any) -> int:
    if isinstance(factor, Tensor) and factor.numel() > 1:
        return 0  # weights of rows, or what a policy earned: either sign may be meant
    if isinstance(factor, Tensor):
        return 1 if bool((factor >= 0).all()) else -1 if bool((factor <= 0).all()) else 0
    return 0 if isinstance(factor, complex) else 1 if factor >= 0 else -1


# ---------------------------------------------------------------------- chains


def _chain(node: Any) -> tuple[Op, ...]:
    ops: list[Op] = []
    while node is not None and len(ops) < LONGEST_CHAIN:
        name = name_of(node)
        ops.append(_op(node, name))
        inputs = [below for below, _ in node.next_functions if below is not None]
        if name in AFFINE or name == "AccumulateGrad" or len(inputs) != 1:
            break
        node = inputs[0]
    return tuple(ops)


def _op(node: Any, name: str) -> Op:
    if name in ("Softmax", "LogSoftmax"):
        shape = tuple(node._saved_result.shape)
        return Op(name, dimension(node, len(shape)), shape)
    if name == "Addmm":
        rows, columns = node._saved_mat1_sym_sizes[0], node._saved_mat2_sym_sizes[1]
        return Op(name, None, (int(rows), int(columns)))
    scales = name in ("Mul", "Div") and sum(below is not None for below, _ in node.next_functions) == 1
    return Op("Scale" if scales else name)
