"""Read the graph that autograd keeps behind a tensor: its operations, their names, parameters and saved tensors.

All walks along `next_functions` are here. Three things that torch does not promise are read, with torch 2.11 to 2.13:
that names end in `Backward0`, that `AccumulateGrad` has a `variable`, and the `_saved_*` attributes
(https://docs.pytorch.org/docs/stable/notes/autograd.html). Where one is missing, a name is longer, an operation has no
parameter, or nothing was saved: less is drawn and fewer faults are found, and nothing fails.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node as GradNode

Source = tuple[GradNode, int]  # what made a tensor: autograd's node and the number of its result

# What may stand between a parameter and the operation that uses it, and is no operation of its own.
VIEWS = frozenset({"Alias", "AsStrided", "Clone", "Expand", "Permute", "ReshapeAlias", "Select", "Slice", "Squeeze"})
VIEWS |= {"T", "ToCopy", "Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View"}
LARGEST = 20_000  # nodes; a graph unrolled over long sequences says nothing new and takes milliseconds
COMPILED = "_orig_mod"  # the name under which `torch.compile` keeps a module; state dicts show it
WRAPPERS = frozenset({COMPILED, "_forward_module"})  # the latter is what Lightning's strategies add
_GIVEN = ("self", "mat1", "input")  # under which names operations save what they were given


def name_of(node: GradNode) -> str:
    """Return the name of a node's operation, e.g. `LogSoftmax` of LogSoftmaxBackward0."""
    return _without_backward(node.name())


@cache
def _without_backward(name: str) -> str:
    return re.sub(r"Backward\d*$", "", name.rpartition("::")[2])


def forward_name(node: GradNode) -> str:
    """Return the name of a node's operation as the forward pass writes it, e.g. `log_softmax`."""
    name = re.sub(r"(Backward\d*)+$", "", name_of(node))
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower() or node.name()


def unwrapped_name(path: str) -> str:
    """Return a module's or parameter's path without what wrappers put into it."""
    return ".".join(part for part in path.split(".") if part not in WRAPPERS)


def parameter_of(node: GradNode) -> Tensor | None:
    """Return the tensor whose gradient a node accumulates; None of any other operation."""
    return getattr(node, "variable", None) if name_of(node) == "AccumulateGrad" else None


def source_of(tensor: Tensor) -> Source | None:
    """Return the operation that made a tensor, and which of its results the tensor is."""
    return None if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)


def sources_of(node: GradNode) -> Sequence[tuple[GradNode | None, int]]:
    """Return what made each input of an operation; its node is None where an input needs no gradient."""
    return node.next_functions


def inputs_of(node: GradNode) -> list[GradNode | None]:
    """Return the node that made each input of an operation, None where an input needs no gradient."""
    return [below for below, _ in node.next_functions]


def trained_inputs(node: GradNode) -> list[GradNode]:
    """Return the nodes that made those inputs of an operation that need a gradient."""
    return [below for below, _ in node.next_functions if below is not None]


def is_view(node: GradNode) -> bool:
    """Whether an operation only shows a tensor in another shape, order or type."""
    return name_of(node) in VIEWS


def used_parameters(node: GradNode, through: Callable[[GradNode], bool] = is_view) -> Iterator[Tensor]:
    """Yield the parameters that an operation uses itself, `through` operations between that may be passed over."""
    for below in trained_inputs(node):
        while below.next_functions and through(below) and (first := below.next_functions[0][0]) is not None:
            below = first
        parameter = parameter_of(below)
        if parameter is not None:
            yield parameter


def saved(node: GradNode, name: str, default: Any = None) -> Any:
    """Return what autograd saved of an operation under a name such as `result`, `self` or `dim`.

    Tensors come without their graph. The default stands for what was not saved, was freed by a backward pass or was
    overwritten since; and for what a hook would have to unpack, as a checkpointed block would be computed anew for it,
    running statistics and all.
    """
    if getattr(getattr(node, f"_raw_saved_{name}", None), "unpack_hook", None) is not None:
        return default
    try:
        value = getattr(node, f"_saved_{name}", default)
    except RuntimeError:  # freed, or overwritten in place
        return default
    if isinstance(value, Tensor):
        return value.detach()
    return value - 2**64 if isinstance(value, int) and value >= 2**63 else value  # -1 is shown as 2⁶⁴ - 1


def walk(starts: Iterable[GradNode], stops: Iterable[GradNode] = ()) -> Iterator[GradNode]:
    """Yield all nodes from `starts` down to `stops`, which are left out; each once, the nearest to the starts first."""
    waiting = list(dict.fromkeys(starts))
    seen = {*waiting, *stops}
    for node in waiting:  # grows while it is read
        yield node
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                waiting.append(below)


@dataclass
class AutogradNode:
    """One operation of the forward pass, in the layer that called it."""

    kind: str  # e.g. `Relu`
    layer: str  # the module whose parameters it used, or whose output it works on; empty before the first layer
    own: bool  # whether it used that module's parameters itself
    node: GradNode
    before: "AutogradNode | None" = None  # the operation whose output it took, if that is in the graph
    hidden: bool = False  # whether a layer with parameters comes after it

    def result(self) -> Tensor | None:
        """Return its result, if autograd saved that."""
        return self.saved("result")

    def saved(self, name: str) -> Tensor | None:
        """Return a tensor that autograd saved under a name."""
        value = saved(self.node, name)
        return value if isinstance(value, Tensor) else None

    def taken(self) -> Iterator[Tensor]:
        """Yield the tensors that it was given and autograd saved."""
        return (value for name in _GIVEN if (value := self.saved(name)) is not None)


def operations(loss: Tensor, layer_of: Mapping[int, str]) -> list[AutogradNode]:
    """Return the operations behind a loss, each after those it builds on; views of parameters are left out.

    `layer_of` maps a parameter's `id` to its module's name. A tensor without a gradient function has no operations.
    """
    found: dict[GradNode, AutogradNode | None] = {}  # None: a parameter, or a view of one
    stack = [(loss.grad_fn, False)] if loss.grad_fn is not None else []
    while stack and len(found) < LARGEST:
        node, done = stack.pop()
        if node in found:
            continue
        inputs = trained_inputs(node)
        if done:
            found[node] = _operation(node, inputs, found, layer_of)
        else:
            stack.append((node, True))
            stack.extend((below, False) for below in reversed(inputs) if below not in found)
    ordered = [operation for operation in found.values() if operation is not None]
    for operation in reversed(ordered):
        if operation.own or operation.hidden:
            for earlier in filter(None, map(found.get, trained_inputs(operation.node))):
                earlier.hidden = True
    return ordered


def _operation(
    node: GradNode, inputs: list[GradNode], found: Mapping[GradNode, AutogradNode | None], layer_of: Mapping[int, str]
) -> AutogradNode | None:
    kind = name_of(node)
    if kind == "AccumulateGrad" or (kind in VIEWS and inputs and found.get(inputs[0]) is None):
        return None
    before = next((earlier for below in inputs if (earlier := found.get(below)) is not None), None)
    layer = next((layer_of[id(tensor)] for tensor in used_parameters(node) if id(tensor) in layer_of), "")
    return AutogradNode(kind, layer or (before.layer if before else ""), bool(layer), node, before)
