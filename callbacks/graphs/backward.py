"""The backward graph: the nodes autograd will walk, from the loss to the parameters where the gradients land."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.autograd.graph import Node as GradNode

from callbacks.graphs.calls import Call, Value, owners, parameter_of, walk
from callbacks.graphs.forward import STEP, TensorNames, dtype_of, module_classes
from callbacks.graphs.model import ACCUMULATE, LOSS, Draft, Graph, Node, Shape


class BackwardDrawing:
    """Makes a graph of what autograd will do for one loss.

    Args:
        root: The module whose names are used.
        calls: The calls of modules that were seen; without, a node is put where its parameter is.
    """

    def __init__(self, root: nn.Module, calls: Sequence[Call] = ()) -> None:
        self._draft = Draft(module_classes(root))
        self._tensors = TensorNames(root)
        self._owners = owners(calls)
        values = [v for outer in calls for call in outer.all_calls() for _, v in (*call.inputs, *call.outputs)]
        self._shapes = {v.source: v.shape for v in values if isinstance(v, Value) and v.source}
        self._watched = bool(calls)

    def draw(self, loss: Tensor) -> Graph:
        """The graph for one loss."""
        start = loss.grad_fn
        root = self._draft.add("", "loss", Node("", LOSS, shapes=(tuple(loss.shape),), dtype=dtype_of(loss)))
        if start is None:
            return self._draft.graph("autograd")
        functions = list(walk([start]))
        feeds: dict[GradNode, list[tuple[GradNode | None, int]]] = {start: [(None, 0)]}
        for function in functions:
            for index, (after, _) in enumerate(function.next_functions):
                if after is not None:
                    feeds.setdefault(after, []).append((function, index))
        names = {function: self._place(function) for function in functions}
        for function, name in names.items():
            sources = [(names[f] if f is not None else root, index) for f, index in feeds[function]]
            self._draft.connect(name, tuple(f"{source}:{index}" if index else source for source, index in sources))
        return self._draft.graph("autograd")

    def _place(self, function: GradNode) -> str:
        tensor = parameter_of(function)
        if tensor is not None:
            name = self._tensors.name(tensor)
            home, _, label = (name or "leaf").rpartition(".")
            shape = tuple(tensor.shape)
            known = (("parameter", name),) if name else ()
            node = Node("", ACCUMULATE, shapes=(shape,), dtype=dtype_of(tensor), attributes=known)
            return self._draft.add(home.replace(".", "/"), label, node)
        shapes = tuple(self._gradient(after, number) for after, number in function.next_functions)
        return self._draft.add(self._scope(function), function.name(), Node("", function.name(), shapes=shapes))

    def _gradient(self, function: GradNode | None, number: int) -> Shape | None:
        """A gradient has the shape of what it is the gradient of, where that was seen."""
        if function is None:
            return None
        tensor = parameter_of(function)
        return self._shapes.get((function, number)) if tensor is None else tuple(tensor.shape)

    def _scope(self, function: GradNode) -> str:
        call = self._owners.get(function)
        if call is not None:
            scope = call.name.replace(".", "/")
            return self._draft.call_scope(scope, call.count, type(call.module).__name__) if scope else ""
        if self._watched:
            return STEP
        return self._by_parameter(function)

    def _by_parameter(self, function: GradNode) -> str:
        for after, _ in function.next_functions:
            while after is not None and parameter_of(after) is None and len(after.next_functions) == 1:
                after = after.next_functions[0][0]  # a transposed or reshaped weight
            tensor = None if after is None else parameter_of(after)
            name = None if tensor is None else self._tensors.name(tensor)
            if name:
                return name.rpartition(".")[0].replace(".", "/")
        return ""
