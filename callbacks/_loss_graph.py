"""Reads the graph that autograd recorded behind a loss: which operations ran, in forward order, and on what.

`next_functions`, `variable` and the attributes `_saved_…` are the documented way to look at it (torch's "Autograd
mechanics", "Saved tensors"). What a compiled or checkpointed part did inside is not to be seen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# What stands between a parameter and the operation that uses it, and is no operation of its own.
_VIEWS = frozenset(
    f"{name}Backward0"
    for name in ("T", "Transpose", "Permute", "View", "UnsafeView", "Expand", "ToCopy", "Clone", "Unsqueeze", "Alias")
)
_INPUTS = ("self", "mat1", "input")
_LIMIT = 20_000  # nodes; a graph unrolled over long sequences says nothing new and takes milliseconds


@dataclass
class Op:
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
    before: "Op | None" = None
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


def operations(loss: Tensor, layer_of: Mapping[int, str]) -> list[Op]:
    """The operations behind a loss, each after those it builds on.

    Args:
        loss: A tensor that has a gradient function; anything else gives an empty list.
        layer_of: From a parameter's `id` to its module's name.
    """
    ops: dict[Any, Op | None] = {}  # None: a parameter, or a view of one
    order: list[Op] = []
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


def _operation(node: Any, children: list[Any], ops: Mapping[Any, Op | None], layer_of: Mapping[int, str]) -> Op | None:
    name = node.name()
    if name.endswith("AccumulateGrad"):
        return None
    if name in _VIEWS and children and ops.get(children[0], None) is None:
        return None
    before = [op for child in children if (op := ops.get(child)) is not None]
    layer = next((layer_of[key] for child in children for key in _parameters(child) if key in layer_of), "")
    came = before[0] if before else None
    return Op(
        name.removesuffix("0").removesuffix("Backward"), layer or (came.layer if came else ""), bool(layer), node, came
    )


def _parameters(node: Any) -> Iterator[int]:
    while node is not None and node.name() in _VIEWS and node.next_functions:
        node = node.next_functions[0][0]
    if node is not None and node.name().endswith("AccumulateGrad"):
        yield id(node.variable)


def _mark_hidden(order: list[Op], ops: Mapping[Any, Op | None]) -> None:
    for op in reversed(order):
        if op.own or op.hidden:
            for child, _ in op.node.next_functions:
                earlier = ops.get(child)
                if earlier is not None:
                    earlier.hidden = True
