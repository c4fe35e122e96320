"""The forward graph: calls that `torch.export` can follow op by op, the others as they were seen, and what is between.

What is between the modules a training step calls, and after them up to the loss, is read off autograd's own nodes.
"""

from __future__ import annotations

import time

from torch import Tensor, nn
from torch.autograd.graph import Node as GradNode

from callbacks._exported_graph import ProgramDrawing, export_call
from callbacks._grad_nodes import operation, owners, parameter_of
from callbacks._graph import INPUT, OUTPUT, Draft, Graph, Node
from callbacks._graph_tensors import TensorNames
from callbacks._module_calls import Call, Value, flatten_call
from callbacks._module_twin import plain

STEP = "training_step"  # scope of what the step does itself
EXPORT, PARTS, SEEN = "torch.export", "torch.export of its parts", "the module calls seen"
AUTOGRAD = "autograd"
LARGEST = 3000  # module calls; torch.export takes about 10 ms for each
Edge = tuple[GradNode, int]


class ForwardDrawing:
    """Makes one graph of recorded calls.

    Args:
        root: The module whose names are used.
        calls: What it called, outermost calls only, in order.
        seconds: That may be spent in `torch.export` in all.
    """

    def __init__(self, root: nn.Module, calls: list[Call], *, seconds: float) -> None:
        self._calls = calls
        self._draft = Draft(module_classes(root))
        self._tensors = TensorNames(root)
        self._ports: dict[Value, str] = {}
        self._edges: dict[Edge, str] = {}  # autograd's node and number of its result -> node
        self._made: dict[GradNode, str] = {}  # autograd's node -> the one drawn for it
        self._owners = owners(calls)
        self._scopes: dict[Call, str] = {}  # exported calls, and those inside them
        self._end = time.monotonic() + seconds
        self._exported, self._seen = 0, 0
        self._reason = ""

    def draw(self, losses: list[Tensor]) -> Graph:
        """The graph of all calls, up to the losses."""
        if sum(1 for call in self._calls for _ in call.all_calls()) > LARGEST:
            self._end, self._reason = 0.0, f"more than {LARGEST} module calls are too many for torch.export"
        for call in self._calls:
            self._emit(call, STEP)
        for loss in losses:
            if loss.grad_fn is not None:
                port = self._follow((loss.grad_fn, loss.output_nr), STEP)
                self._draft.add("", "loss", Node("", OUTPUT, (port,), (tuple(loss.shape),)))
        self._outputs()
        origin = (PARTS if self._exported else SEEN) if self._seen else EXPORT
        if not self._calls:
            origin, self._reason = AUTOGRAD, "no call of a module was seen"
        return self._draft.graph(origin, self._reason)

    def _outputs(self) -> None:
        """What the outermost calls gave back and nobody but the step itself read."""
        read = {id(value) for call in self._calls for _, value in call.inputs}
        for call in self._calls:
            for label, value in call.outputs:
                if isinstance(value, Value) and id(value) not in read and value in self._ports:
                    part = call.name.rpartition(".")[2]
                    plainly = label if label and not label[0].isdigit() else "_".join(("output", label)).rstrip("_")
                    name = f"{part}_{plainly}" if part else plainly
                    node = Node("", OUTPUT, (self._ports[value],), (value.shape,), str(value.dtype)[6:])
                    self._draft.add("", name, node)

    # ------------------------------------------------------------------ calls

    def _emit(self, call: Call, inside: str) -> None:
        classes = type(call.module).__name__
        scope = self._draft.call_scope(call.name.replace(".", "/"), call.count, classes) if call.name else ""
        for label, value in call.inputs:
            self._resolve(value, inside, label)
        if self._export(call, scope):
            return
        self._seen += 1
        for inner in call.calls:
            self._emit(inner, scope)
        if not call.calls:
            self._leaf(call, scope)
        for label, leaf in call.outputs:
            if isinstance(leaf, Value):
                self._resolve(leaf, scope, label, call)

    def _export(self, call: Call, scope: str) -> bool:
        left = self._end - time.monotonic()
        if left <= 0:
            self._reason = self._reason or "torch.export takes too long"
            return False
        try:
            exported = export_call(call, left)
            drawing = ProgramDrawing(exported, self._draft, scope=scope, tensors=self._tensors)
            ports = drawing.draw(self._given(call))
        except Exception as error:  # noqa: BLE001  # whatever a module is made of, there is another way
            self._reason = self._reason or f"torch.export cannot follow {_title(call)}: {_why(error)}"
            return False
        self._exported += 1
        self._scopes.update((inner, _scope_inside(inner, call, scope)) for inner in call.all_calls())
        outputs = [leaf for _, leaf in call.outputs]
        if len(outputs) != len(ports):  # nobody saw the real results
            outputs = []
        for leaf, port in zip(outputs, ports[: len(outputs)], strict=True):
            if isinstance(leaf, Value) and port is not None:
                self._place(leaf, port)
        return True

    def _given(self, call: Call) -> list[str | None]:
        leaves = flatten_call(call.module, call.args, call.kwargs)
        return [self._ports.get(leaf) if isinstance(leaf, Value) else None for _, leaf in leaves]

    def _leaf(self, call: Call, scope: str) -> None:
        """A module that nobody looks into: one node, fed by its inputs and its parameters."""
        name = type(call.module).__name__
        feeds = [self._ports[value] for _, value in call.inputs]
        feeds += [self._tensors.port(tensor, self._draft, scope) for tensor in call.module.parameters()]
        made = [value for _, value in call.outputs if isinstance(value, Value)]
        node = Node("", name, tuple(feeds), tuple(v.shape for v in made), str(made[0].dtype)[6:] if made else "")
        port = self._draft.add(scope, name, node)
        for index, value in enumerate(made):
            self._place(value, f"{port}:{index}" if index else port)

    # ------------------------------------------------------------------ tensors

    def _place(self, value: Value, port: str) -> None:
        self._ports[value] = port
        if value.source is not None:
            self._edges[value.source] = port

    def _resolve(self, value: Value, scope: str, label: str, call: Call | None = None) -> str:
        """The node a tensor comes from: a call's result, what autograd made of such, or from outside."""
        if value not in self._ports:
            if value.source is not None:
                self._ports[value] = self._follow(value.source, scope, value)
            elif call is not None:  # made between the calls inside, without a gradient: by what, nobody saw
                feeds = [self._ports[v] for c in call.calls[-1:] for _, v in c.outputs if v in self._ports]
                made = Node("", type(call.module).__name__, tuple(dict.fromkeys(feeds)), (value.shape,))
                self._ports[value] = self._draft.add(scope, label or "result", made)
            else:
                node = Node("", INPUT, (), (value.shape,), str(value.dtype)[6:])
                self._ports[value] = self._draft.add("", label or "input", node)
        return self._ports[value]

    def _follow(self, edge: Edge, scope: str, value: Value | None = None) -> str:
        """Draw autograd's nodes down to what is known."""
        waiting = [edge]
        while waiting:
            function, number = now = waiting[-1]
            nexts = [(after, nr) for after, nr in function.next_functions if after is not None]
            made = self._known(function, scope)
            lacking = [] if now in self._edges or made else [e for e in nexts if e not in self._edges]
            if lacking:
                waiting.extend(lacking)
                continue
            waiting.pop()
            if now not in self._edges:
                if not made:
                    shapes = (value.shape,) if value is not None and now == edge and not number else ()
                    node = Node("", operation(function), tuple(self._edges[e] for e in nexts), shapes)
                    made = self._draft.add(scope, operation(function), node)
                    self._made[function] = made
                self._edges[now] = f"{made}:{number}" if number else made
        return self._edges[edge]

    def _known(self, function: GradNode, scope: str) -> str | None:
        """A parameter, a node drawn before, or what stands for the inside of an exported call."""
        tensor = parameter_of(function)
        if tensor is not None:
            return self._tensors.port(tensor, self._draft, scope)
        if function not in self._made and function in self._owners:
            call = self._owners[function]
            if call in self._scopes:
                last = self._draft.last_in(self._scopes[call])
                if last:
                    self._made[function] = last
        return self._made.get(function)


def module_classes(root: nn.Module) -> dict[str, str]:
    """Class of every module inside another by its scope."""
    named = root.named_modules(remove_duplicate=False)
    return {plain(name).replace(".", "/"): type(module).__name__ for name, module in named if plain(name)}


def _scope_inside(inner: Call, call: Call, scope: str) -> str:
    relative = inner.name.removeprefix(call.name).lstrip(".").replace(".", "/")
    return "/".join(part for part in (scope, relative) if part)


def _title(call: Call) -> str:
    return f"`{call.name}` ({type(call.module).__name__})" if call.name else type(call.module).__name__


def _why(error: Exception) -> str:
    if "DataDependent" in type(error).__name__:
        return "which way it goes depends on the data"
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}".rstrip(". ")
