"""Read which loss a loss tensor is, off the operations behind it: its terms, their targets, what stands before them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node as GradNode

from callbacks.health.facts import AFFINE, MOVES, Loss, OperationFacts, Target, Term
from callbacks.readers.autograd import inputs_of, name_of, parameter_of, saved, trained_inputs

MOST_NODES = 400  # of a loss made of many terms, the rest is not read
LONGEST_CHAIN = 24
FIRST = 512  # values of a target by which it is known again
REDUCTIONS = frozenset({"Mean", "Sum", "Div", "Nanmean", "Nansum", "Stack", "Cat", "MaskedFill", "Where", "Squeeze"})
SCORES = frozenset({"LogSoftmax", "Log", "LogSigmoid"})
REGRESSIONS = ("MseLoss", "SmoothL1Loss", "HuberLoss")
FUSED = {"NllLoss": "nll", "NllLoss2D": "nll", "BinaryCrossEntropy": "bce"}
FUSED |= {"BinaryCrossEntropyWithLogits": "bce_logits", **dict.fromkeys(REGRESSIONS, "regression")}


def read_loss(loss: Tensor, *, alone: bool, maximised: bool) -> Loss:
    """Return the terms of a loss before its backward pass.

    It is told whether one optimizer minimises this loss and no other, and whether that maximises.
    """
    terms: list[Term] = []
    todo: list[tuple[GradNode | None, int]] = [(loss.grad_fn, 1)]
    seen: set[GradNode] = set()
    while todo and len(seen) < MOST_NODES:
        node, sign = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        term = _term(node, sign)
        if term is not None:
            terms.append(term)
            continue
        summands = [] if _is_penalty(node) else _summands(node, sign)
        if summands is None and parameter_of(node) is None:
            terms.append(Term("unknown", sign))
        todo += summands or []
    return Loss(tuple(terms), alone=alone, maximised=maximised, value=float(loss.detach()))


def with_batch(loss: Loss, batch: Sequence[Tensor], given: Tensor | None = None) -> Loss:
    """Return a loss's facts with which targets stand in the batch, apart from the input, which is no target.

    That is what the first layer was `given`, or the first tensor where that is not in the batch.
    """
    rest = [tensor for tensor in batch if given is None or tensor.data_ptr() != given.data_ptr()]
    rest = rest if len(rest) < len(batch) else rest[1:]
    return replace(loss, terms=tuple(_found(term, rest) for term in loss.terms))


def _found(term: Term, batch: Sequence[Tensor]) -> Term:
    if term.target is not None:
        columns = [tensor for tensor in batch if tensor.ndim and tensor.numel() == len(tensor)]
        given = term.target.address in {y.data_ptr() for y in batch} or any(map(term.target.is_of, columns))
        return replace(term, target=replace(term.target, given=given))
    sides = [side for side in term.shape if side != 1]
    fits = [y for y in batch if y.is_floating_point() and [side for side in y.shape if side != 1] == sides]
    if term.kind == "regression" and sides and len(fits) == 1:  # a difference taken by hand keeps no target
        return replace(term, target=replace(_target(fits[0]), given=True, seen=False))
    return term


def _target(target: Tensor) -> Target:
    values = target.reshape(-1)[:4096].double()
    if not len(values):
        return Target(tuple(target.shape))
    margin = 0.05 * float(values.std(correction=0)) if len(values) > 1 else 0.0
    outside = (values < -margin, values > 1.05, values.abs() > 1.05)
    numbers = torch.stack([values.min(), values.max(), *(where.double().mean() for where in outside)])
    low, high, *beyond = numbers.tolist()
    shape, distinct, one_hot = tuple(target.shape), min(len(torch.unique(values)), 64), _is_one_hot(target)
    classes = one_hot or (target.ndim == 2 and target.shape[1] > 1 and _is_distribution(target))
    first = tuple((target.argmax(1) if classes else target.reshape(-1))[:FIRST].float().tolist())
    return Target(shape, low, high, distinct, one_hot, address=target.data_ptr(), beyond=tuple(beyond), first=first)


def _is_one_hot(target: Tensor) -> bool:
    """Whether every row is one 1 among zeros, of more than two rows."""
    if target.ndim != 2 or target.shape[1] < 2 or target.shape[0] < 3:
        return False
    row = target.float()
    return bool((((row == 1).sum(1) == 1) & ((row == 0).sum(1) == target.shape[1] - 1)).all())


def _term(node: GradNode, sign: int) -> Term | None:
    name = name_of(node)
    if name in FUSED:
        return _fused(node, FUSED[name], sign)
    if name in ("Gather", "Index"):
        index = saved(node, "index") if name == "Gather" else next(iter(saved(node, "indices", ())[-1:]), None)
        return _likelihood(node, "picked", -sign, index)
    if name == "LogSoftmax":  # summed up over all classes, as label smoothing does
        op = _op(node, name)
        return Term("soft", -sign, op.shape if len(op.shape) == 2 else (), _chain(node))
    if name == "Mul":
        weights = _constant(node)
        if isinstance(weights, Tensor) and weights.numel() > 1:
            return _likelihood(node, "soft", -sign if _is_distribution(weights) else 0, weights)
    squared = name == "Pow" and saved(node, "exponent") == 2
    return _difference(node, sign) if squared or name == "Abs" else None


def _fused(node: GradNode, kind: str, sign: int) -> Term:
    shape, chain = _shape(saved(node, "self")), _chain(inputs_of(node)[0])
    target = saved(node, "target")
    read = None if target is None else _target(target)
    weighted = saved(node, "weight") is not None or saved(node, "pos_weight") is not None
    square = kind == "regression" and _is_square(shape, chain)
    return Term(kind, sign, shape, chain, read, square, weighted, saved(node, "ignore_index", -100))


def _likelihood(node: GradNode, kind: str, sign: int, given: Any) -> Term | None:
    chain = _chain(next(iter(trained_inputs(node)), None))
    first = next((op for op in chain if op.name not in MOVES), None)
    if first is None or first.name not in SCORES:
        return None
    read = _target(given) if isinstance(given, Tensor) else None
    return Term(kind, sign, first.shape if len(first.shape) == 2 else (), chain, read)


def _difference(node: GradNode, sign: int) -> Term | None:
    """A squared or absolute difference to something that is not trained."""
    below = inputs_of(node)[0]
    trained = trained_inputs(below) if below is not None and name_of(below) == "Sub" else []
    if len(trained) != 1:
        return None
    shape, chain = _shape(saved(node, "self")), _chain(trained[0])
    return Term("regression", sign, shape, chain, stretched=_is_square(shape, chain))


def _is_penalty(node: GradNode) -> bool:
    """Whether an operation measures weights, not predictions."""
    for _ in range(4):
        inputs = trained_inputs(node)
        if len(inputs) != 1:
            return False
        node = inputs[0]
        if parameter_of(node) is not None:
            return True
    return False


def _is_square(shape: tuple[int, ...], chain: tuple[OperationFacts, ...]) -> bool:
    """Whether a column of predictions was broadcast against a row of targets."""
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
        return False
    last = next((op for op in chain if op.shape and op.name != "Expand"), None)
    return last is not None and last.shape in ((shape[0], 1), (shape[0],))


def _summands(node: GradNode, sign: int) -> list[tuple[GradNode | None, int]] | None:
    """The inputs of an operation that a loss is summed up with, or None if it does more than that."""
    name = name_of(node)
    inputs = inputs_of(node)
    if name == "Neg":
        return [(inputs[0], -sign)]
    if name == "Sub":
        return [(inputs[0], sign), *((below, -sign) for below in inputs[1:])]
    if name in ("Mul", "Div"):
        factor = _constant(node)
        if factor is None:
            return [(inputs[0], sign)] if name == "Div" and inputs[1:] in ([], [None]) else None
        return [(below, sign * _sign(factor)) for below in trained_inputs(node)]
    if name == "Add" or name in REDUCTIONS or name in MOVES:
        return [(below, sign) for below in inputs]
    return None


def _is_distribution(weights: Tensor) -> bool:
    """Whether a factor of log-probabilities is a distribution over classes in each row."""
    rows = weights.float()
    return rows.ndim == 2 and bool((rows >= 0).all() & ((rows.sum(1) - 1).abs() < 0.01).all())


def _constant(node: GradNode) -> Any:
    """The factor of a product that is not trained."""
    if len(trained_inputs(node)) != 1:
        return None
    other = saved(node, "other")
    return other if other is not None else saved(node, "self")


def _sign(factor: Any) -> int:
    if isinstance(factor, Tensor) and factor.numel() > 1:
        return 0  # weights of rows, or what a policy earned: either sign may be meant
    if isinstance(factor, Tensor):
        return 1 if bool((factor >= 0).all()) else -1 if bool((factor <= 0).all()) else 0
    return 0 if isinstance(factor, complex) else 1 if factor >= 0 else -1


def _chain(node: GradNode | None) -> tuple[OperationFacts, ...]:
    """The operations from a prediction back to the first affine one, or to where it can't be followed."""
    ops: list[OperationFacts] = []
    while node is not None and len(ops) < LONGEST_CHAIN:
        name = name_of(node)
        ops.append(_op(node, name))
        inputs = trained_inputs(node)
        node = inputs[0] if len(inputs) == 1 and name not in AFFINE else None
    return tuple(ops)


def _op(node: GradNode, name: str) -> OperationFacts:
    if name in ("Softmax", "LogSoftmax"):
        shape, along = _shape(saved(node, "result")), saved(node, "dim")
        return OperationFacts(name, along % len(shape) if isinstance(along, int) and shape else None, shape)
    if name == "Addmm":
        left, right = saved(node, "mat1_sym_sizes"), saved(node, "mat2_sym_sizes")
        return OperationFacts(name, None, (int(left[0]), int(right[1])) if left and right else ())
    return OperationFacts("Scale" if name in ("Mul", "Div") and len(trained_inputs(node)) == 1 else name)


def _shape(tensor: Tensor | None) -> tuple[int, ...]:
    return () if tensor is None else tuple(tensor.shape)
