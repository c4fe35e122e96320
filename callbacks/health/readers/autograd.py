"""Reads the autograd graph above a loss into plain facts: which loss it is, and what stands between it and the network.

Names and `_saved_*` attributes of graph nodes are public (https://docs.pytorch.org/docs/stable/notes/autograd.html).
Tensors are only read near the loss: further down a checkpointed block would be computed anew for it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from callbacks.health.facts import AFFINE, MOVES, Loss, Op, Target, Term

# What stands between a parameter and the operation that uses it, and is no operation of its own.
_VIEWS = frozenset(
    f"{name}Backward0"
    for name in ("T", "Transpose", "Permute", "View", "UnsafeView", "Expand", "ToCopy", "Clone", "Unsqueeze", "Alias")
)
_INPUTS = ("self", "mat1", "input")
_LIMIT = 20_000  # nodes; a graph unrolled over long sequences says nothing new and takes milliseconds


@dataclass
class AutogradNode:
    """One operation of the forward pass.

    Args:
        kind: The operation, e.g. `Relu`.
        layer: The module whose parameters it used, or whose output it works on; empty before the first layer.
        own: Whether it used that module's parameters itself.
        node: Autograd's node.
        before: The operation whose output it took, if that is in the graph.
        hidden: Whether a layer with parameters comes after it.
    """

    kind: str
    layer: str
    own: bool
    node: Any
    before: "AutogradNode | None" = None
    hidden: bool = False

    def result(self) -> Tensor | None:
        """What it returned, if autograd kept that."""
        return _saved(self.node, "result")

    def saved(self, name: str) -> Tensor | None:
        """A tensor that autograd kept under a name."""
        return _saved(self.node, name)

    def number(self, name: str, default: int) -> int:
        """A number that autograd kept under a name; it shows negative ones as unsigned."""
        value = getattr(self.node, f"_saved_{name}", default)
        return value - 2**64 if isinstance(value, int) and value >= 2**63 else int(value)

    def taken(self) -> Iterator[Tensor]:
        """What it was given, as far as autograd kept that."""
        for name in _INPUTS:
            value = _saved(self.node, name)
            if value is not None:
                yield value


def _saved(node: Any, name: str) -> Tensor | None:
    try:
        value = getattr(node, f"_saved_{name}", None)
    except RuntimeError:  # freed by a backward pass, or overwritten in place since
        return None
    return value.detach() if isinstance(value, Tensor) else None


def operations(loss: Tensor, layer_of: Mapping[int, str]) -> list[AutogradNode]:
    """The operations behind a loss, each after those it builds on.

    Args:
        loss: A tensor that has a gradient function; anything else gives an empty list.
        layer_of: From a parameter's `id` to its module's name.
    """
    ops: dict[Any, AutogradNode | None] = {}  # None: a parameter, or a view of one
    order: list[AutogradNode] = []
    stack: list[tuple[Any, bool]] = [(loss.grad_fn, False)] if loss.grad_fn is not None else []
    while stack and len(ops) < _LIMIT:
        node, done = stack.pop()
        if node in ops:
            continue
        children = [child for child, _ in node.next_functions if child is not None]
        if not done:
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(children) if child not in ops)
            continue
        ops[node] = op = _operation(node, children, ops, layer_of)
        if op is not None:
            order.append(op)
    _mark_hidden(order, ops)
    return order


def _operation(
    node: Any, children: list[Any], ops: Mapping[Any, AutogradNode | None], layer_of: Mapping[int, str]
) -> AutogradNode | None:
    name = node.name()
    if name.endswith("AccumulateGrad"):
        return None
    if name in _VIEWS and children and ops.get(children[0], None) is None:
        return None
    before = [op for child in children if (op := ops.get(child)) is not None]
    layer = next((layer_of[key] for child in children for key in _parameters(child) if key in layer_of), "")
    came = before[0] if before else None
    return AutogradNode(
        name.removesuffix("0").removesuffix("Backward"), layer or (came.layer if came else ""), bool(layer), node, came
    )


def _parameters(node: Any) -> Iterator[int]:
    while node is not None and node.name() in _VIEWS and node.next_functions:
        node = node.next_functions[0][0]
    if node is not None and node.name().endswith("AccumulateGrad"):
        yield id(node.variable)


def _mark_hidden(order: list[AutogradNode], ops: Mapping[Any, AutogradNode | None]) -> None:
    for op in reversed(order):
        if op.own or op.hidden:
            for child, _ in op.node.next_functions:
                earlier = ops.get(child)
                if earlier is not None:
                    earlier.hidden = True


def read_target(target: Tensor) -> Target:
    """A target as plain numbers."""
    target = target.detach()
    values = target.reshape(-1)[:4096].double()
    if not len(values):
        return Target(tuple(target.shape))
    margin = 0.05 * float(values.std(correction=0)) if len(values) > 1 else 0.0
    numbers = torch.stack(
        [
            values.min(),
            values.max(),
            (values < -margin).double().mean(),
            (values > 1.05).double().mean(),
            (values.abs() > 1.05).double().mean(),
        ]
    ).tolist()
    low, high, *beyond = (float(number) for number in numbers)
    return Target(
        tuple(target.shape),
        not target.is_floating_point(),
        low,
        high,
        min(len(torch.unique(values)), 64),
        is_one_hot(target),
        False,
        target.data_ptr(),
        (beyond[0], beyond[1], beyond[2]),
    )


def is_one_hot(target: Tensor) -> bool:
    """Whether every row is one 1 among zeros, of more than two rows that are not all the same."""
    if target.ndim != 2 or target.shape[1] < 2 or target.shape[0] < 3:
        return False
    row = target.detach().float()
    ones = (row == 1).sum(1) == 1
    zeros = (row == 0).sum(1) == target.shape[1] - 1
    return bool((ones & zeros).all())


def with_batch(loss: Loss, batch: Sequence[Tensor]) -> Loss:
    """The same facts, after seeing which targets stand in the batch; its first tensor is no target but the input."""
    classes = any(tensor.dtype == torch.long and tensor.ndim == 1 for tensor in batch[1:])
    return replace(loss, terms=tuple(_found(term, batch[1:], classes=classes) for term in loss.terms))


def _found(term: Term, batch: Sequence[Tensor], *, classes: bool) -> Term:
    if term.target is not None:
        given = classes or term.target.address in {tensor.data_ptr() for tensor in batch}
        return replace(term, target=replace(term.target, given=given))
    sides = _sides(term.shape)
    fits = [tensor for tensor in batch if tensor.is_floating_point() and _sides(tuple(tensor.shape)) == sides]
    if term.kind == "regression" and sides and len(fits) == 1:  # a difference taken by hand keeps no target
        return replace(term, target=replace(read_target(fits[0]), given=True))
    return term


def _sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(side for side in shape if side != 1)


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
