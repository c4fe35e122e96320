"""Build the forward graph of recorded module calls, and the backward graph of a loss.

A call is drawn as `torch.export` traces it. Where that cannot follow, the calls inside are, and what cannot be traced
at all is one node. What a training step does between its modules, and after them up to the loss, is read off
autograd's nodes, as the backward graph is.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from operator import attrgetter
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.graph import Node as GradNode
from torch.export import ExportedProgram

from callbacks.graphs.calls import Call, TensorRecord, callers, flatten, flatten_call, map_leaves
from callbacks.graphs.model import ACCUMULATE, CONSTANT, INPUT, LOSS, OUTPUT, STEP, Graph, GraphDraft, Shape, shapes_of
from callbacks.graphs.patience import EndedBy, Patience
from callbacks.host.packages import isolated_random_numbers
from callbacks.readers import autograd
from callbacks.readers.twin import Twins, shared_state_kept

EXPORT, PARTS, SEEN = "torch.export", "torch.export of its parts", "the module calls seen"
AUTOGRAD = "autograd"
MOST_CALLS = 3000  # of modules; torch.export takes about 10 ms for each
GRACE = 0.5  # seconds over the patience in which what was seen is still put together
LONGEST = 80  # letters of an attribute


@contextmanager
def _silence() -> Iterator[None]:
    """What a second, unreal pass through somebody's module says is nobody's business."""

    def refuse(record: logging.LogRecord) -> bool:
        return False

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        for name in ("torch.export", "torch.fx.experimental.symbolic_shapes", "torch._dynamo"):
            logging.getLogger(name).addFilter(refuse)
            stack.callback(logging.getLogger(name).removeFilter, refuse)
        yield


def draw_exported(
    call: Call, graph: GraphDraft, scope: str, inputs: Sequence[str | None], twins: Twins, patience: Patience
) -> list[str | None]:
    """Trace a recorded call again with `torch.export`, and add the program's nodes to a graph.

    Its twin is traced, without numbers: no weight, buffer, random state or attribute changes. `inputs` are the nodes
    behind the leaves of the arguments, none where that is no tensor; what is returned, those behind the leaves of the
    result. When the patience ends it is given up. Whatever `torch.export` or the module says against it is raised.
    """
    module: nn.Module = twins.of(call.module)
    program = _export(module, call, twins, patience)
    signature = program.graph_signature
    results: dict[Any, str | None] = dict(zip(signature.user_inputs, inputs, strict=True))  # by the node's name
    registered = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in program.graph.nodes:
        patience.check()
        if node.op == "placeholder" and node.name in registered:
            own = attrgetter(registered[node.name])(module)
            results[node.name] = graph.add_tensor(twins.registered.get(id(own), own), scope)
        elif node.op == "placeholder" and node.name not in results:
            results[node.name] = graph.add(scope, "constant", CONSTANT, (), *shapes_of(node.meta.get("val")))
        elif node.op == "call_function":
            name = _operation_name(node.target)
            feeds = tuple(result for source in node.all_input_nodes if (result := results.get(source.name)))
            if name == "getitem" and isinstance(node.args[0], fx.Node):  # no operation, but one result of many
                whole, _, nested = feeds[0].partition(":") if feeds else ("", "", "")
                results[node.name] = f"{whole}:{node.args[1]}" if whole and node.args[1] and not nested else whole
            else:
                where, kind = _scope_of(node, graph, scope), shapes_of(node.meta.get("val"))
                results[node.name] = graph.add(where, name, name, feeds, *kind, _constants(node, module))
    return [results.get(name) or None for name in signature.user_outputs]


def _export(module: nn.Module, call: Call, twins: Twins, patience: Patience) -> ExportedProgram:
    def unfilled(leaf: Any) -> Any:
        return leaf.empty() if isinstance(leaf, TensorRecord) else twins.of(leaf)

    with ExitStack() as stack:
        stack.enter_context(_silence())
        stack.enter_context(shared_state_kept(call.module))
        stack.enter_context(isolated_random_numbers())  # a module may draw from Python's or NumPy's generator
        stack.enter_context(torch.set_grad_enabled(call.grad))
        stack.enter_context(torch.autocast(call.device_type, call.autocast, enabled=call.autocast is not None))
        args, kwargs = map_leaves(unfilled, (call.args, call.kwargs))
        stack.enter_context(EndedBy(patience))
        return torch.export.export(module, args, kwargs, strict=False)


def _operation_name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", None)  # `aten.linear` of `aten.linear.default`
    text = str(packet).rpartition(".")[2] if packet else getattr(target, "__name__", str(target))
    return text.rstrip("_") or text  # `relu_` is a relu


def _scope_of(node: fx.Node, graph: GraphDraft, outermost: str) -> str:
    """The scope of the innermost of the calls that a node was traced in, each named by its path below `outermost`."""
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    scope, outer, counted = outermost, "", 0
    for key, (path, cls) in stack.items():
        if not path:
            continue
        count = int(key.rpartition("@")[2]) if "@" in key else 0
        inner = path.removeprefix(f"{outer}.") if outer else path
        start = scope if not outer or inner != path else outermost  # else a module shared with another parent
        name = cls if isinstance(cls, str) else cls.__name__
        local = f"{start}/{inner}" if start else inner
        scope = graph.scope_of_call(local, count if count != counted else 0, name.rpartition(".")[2])
        outer, counted = path, count
    return scope


def _constants(node: fx.Node, module: nn.Module) -> tuple[tuple[str, str], ...]:
    """The arguments of an operation that are no tensors: stride, padding, probability."""
    try:
        pair = node.normalized_arguments(module, normalize_to_only_use_kwargs=True)
    except Exception:  # noqa: BLE001  # only a help to the reader
        return ()
    given = {key: value for key, value in (pair.kwargs if pair else {}).items() if value is not None}
    plain = (key for key, value in given.items() if not any(isinstance(leaf, fx.Node) for _, leaf in flatten(value)))
    return tuple((key, str(given[key])[:LONGEST]) for key in plain)


class ForwardGraphBuilder:
    """Builds one graph of the outermost recorded calls of a module; most of the patience is `torch.export`'s."""

    def __init__(self, root: nn.Module, calls: list[Call], patience: Patience) -> None:
        self._calls = calls
        self._graph = GraphDraft(root)
        self._drawn: dict[TensorRecord, str] = {}
        self._drawn_sources: dict[autograd.Source, str] = {}
        self._drawn_nodes: dict[GradNode, str] = {}
        # What is drawn takes a few times as long to be written as the graph of autograd took, which came before.
        left = patience.left()
        self._exporting = Patience(max(0.8 * left - 4 * patience.spent(), 0.3 * left)).__enter__()
        self._patience = patience
        self._callers = callers(calls, patience)
        self._scopes: dict[Call, str] = {}  # exported calls, and those inside them
        self._exported, self._seen = 0, 0
        self._reason = ""

    def build(self, losses: list[Tensor]) -> Graph:
        """Return the graph of all calls, up to the losses."""
        if sum(1 for call in self._calls for _ in call.all_calls()) > MOST_CALLS:
            self._exporting = Patience(0)
            self._reason = f"more than {MOST_CALLS} module calls are too many for torch.export"
        for call in self._calls:
            self._add_call(call, STEP)
        for loss in losses:
            if (source := autograd.source_of(loss)) is not None:
                self._graph.add("", "loss", OUTPUT, (self._follow(source, STEP),), (tuple(loss.shape),))
        self._add_outputs()
        origin = (PARTS if self._exported else SEEN) if self._seen else EXPORT
        if not self._calls:
            origin, self._reason = AUTOGRAD, "no call of a module was seen"
        return self._graph.freeze(origin, self._reason)

    def _add_outputs(self) -> None:
        """Add what the outermost calls gave back and nobody but the step itself read."""
        read = {tensor for call in self._calls for _, tensor in call.inputs}
        for call in self._calls:
            for label, tensor in call.results():
                if tensor not in read and tensor in self._drawn:
                    part = call.name.rpartition(".")[2]
                    plainly = label if label and not label[0].isdigit() else f"output_{label}".rstrip("_")
                    name = f"{part}_{plainly}" if part else plainly
                    self._graph.add("", name, OUTPUT, (self._drawn[tensor],), *shapes_of(tensor))

    def _add_call(self, call: Call, inside: str) -> None:
        scope = self._graph.scope_of_call(call.name, call.count, type(call.module).__name__)
        for label, tensor in call.inputs:
            self._resolve(tensor, inside, label)
        if self._add_exported(call, scope):
            return
        self._seen += 1
        for inner in call.calls:
            self._add_call(inner, scope)
        if not call.calls:
            self._add_closed(call, scope)
        for label, tensor in call.results():
            self._resolve(tensor, scope, label, call)

    def _add_exported(self, call: Call, scope: str) -> bool:
        try:
            self._exporting.check()
            if call.seconds > self._exporting.left():  # a pass without numbers takes as long, if it is slow in Python
                raise TimeoutError("it takes too long")
            leaves = flatten_call(call.module, call.args, call.kwargs)
            given = [self._drawn.get(leaf) if isinstance(leaf, TensorRecord) else None for _, leaf in leaves]
            twins = Twins(call.module, check=self._exporting.check)
            results = draw_exported(call, self._graph, scope, given, twins, self._exporting)
        except Exception as error:  # noqa: BLE001  # whatever a module is made of, there is another way
            self._reason = self._reason or f"torch.export cannot follow {_title(call)}: {_why(error)}"
            return False
        self._exported += 1
        for inner in call.all_calls():
            relative = inner.name.removeprefix(call.name).lstrip(".").replace(".", "/")
            self._scopes[inner] = "/".join(part for part in (scope, relative) if part)
        if not call.outputs:  # it was never called
            for made in filter(None, results):
                self._graph.add("", "output", OUTPUT, (made,))
        if len(call.outputs) == len(results):  # else nobody saw the real results
            for (_, leaf), result in zip(call.outputs, results, strict=True):
                if isinstance(leaf, TensorRecord) and result is not None:
                    self._place(leaf, result)
        return True

    def _add_closed(self, call: Call, scope: str) -> None:
        """Add a module that nobody looks into: one node, fed by its inputs and its parameters."""
        feeds = [self._drawn[tensor] for _, tensor in call.inputs]
        feeds += [self._graph.add_tensor(tensor, scope) for tensor in call.module.parameters()]
        made = [tensor for _, tensor in call.results()]
        name = type(call.module).__name__
        node = self._graph.add(scope, name, name, tuple(feeds), *shapes_of(made))
        for index, tensor in enumerate(made):
            self._place(tensor, f"{node}:{index}" if index else node)

    def _place(self, tensor: TensorRecord, result: str) -> None:
        self._drawn[tensor] = result
        if tensor.source is not None:
            self._drawn_sources[tensor.source] = result

    def _resolve(self, tensor: TensorRecord, scope: str, label: str, call: Call | None = None) -> None:
        """Find the node a tensor comes from: a call's result, what autograd made of such, or from outside."""
        if tensor in self._drawn:
            return
        if tensor.source is not None:
            self._drawn[tensor] = self._follow(tensor.source, scope, tensor.shape)
        elif call is not None:  # made between the calls inside, without a gradient: by what, nobody saw
            made = (result for inner in call.calls[-1:] for _, result in inner.results())
            inputs = tuple(dict.fromkeys(self._drawn[result] for result in made if result in self._drawn))
            name = type(call.module).__name__
            self._drawn[tensor] = self._graph.add(scope, label or "result", name, inputs, (tensor.shape,))
        else:
            self._drawn[tensor] = self._graph.add("", label or "input", INPUT, (), *shapes_of(tensor))

    def _follow(self, source: autograd.Source, scope: str, shape: Shape | None = None) -> str:
        """Draw autograd's nodes down to what is known, and return the result drawn for `source`."""
        waiting = [source]
        while waiting:
            self._patience.check(GRACE)
            node, number = now = waiting[-1]
            inputs = [(below, index) for below, index in autograd.sources_of(node) if below is not None]
            drawn = self._known(node, scope)
            lacking = [below for below in inputs if below not in self._drawn_sources]
            if lacking and not drawn and now not in self._drawn_sources:
                waiting.extend(lacking)
                continue
            waiting.pop()
            if now not in self._drawn_sources:
                if not drawn:
                    feeds, name = tuple(self._drawn_sources[below] for below in inputs), autograd.forward_name(node)
                    shapes = (shape,) if shape is not None and now == source and not number else ()
                    self._drawn_nodes[node] = drawn = self._graph.add(scope, name, name, feeds, shapes)
                self._drawn_sources[now] = f"{drawn}:{number}" if number else drawn
        return self._drawn_sources[source]

    def _known(self, node: GradNode, scope: str) -> str | None:
        """A parameter, a node drawn before, or what stands for the inside of an exported call."""
        tensor = autograd.parameter_of(node)
        if tensor is not None:
            return self._graph.add_tensor(tensor, scope)
        call = self._callers.get(node)
        if node not in self._drawn_nodes and call in self._scopes and (last := self._graph.last_in(self._scopes[call])):
            self._drawn_nodes[node] = last
        return self._drawn_nodes.get(node)


def _title(call: Call) -> str:
    return f"`{call.name}` ({type(call.module).__name__})" if call.name else type(call.module).__name__


def _why(error: Exception) -> str:
    if "DataDependent" in type(error).__name__:
        return "which way it goes depends on the data"
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {shorten(first_line, 160, placeholder=' …')}".rstrip(". ")


class BackwardGraphBuilder:
    """Builds the graph of what autograd will do for one loss; where no call was seen, a node is by its parameter."""

    def __init__(self, root: nn.Module, calls: Sequence[Call], patience: Patience) -> None:
        self._graph, self._patience = GraphDraft(root), patience
        self._callers = callers(calls, patience)
        seen = [t for outer in calls for call in outer.all_calls() for _, t in (*call.inputs, *call.results())]
        self._shapes = {tensor.source: tensor.shape for tensor in seen if tensor.source}
        self._watched = bool(calls)

    def build(self, loss: Tensor) -> Graph:
        """Return the graph for one loss."""
        root = self._graph.add("", "loss", LOSS, (), *shapes_of(loss))
        if loss.grad_fn is not None:
            names = {node: self._add(node) for node in autograd.walk([loss.grad_fn])}
            readers = {loss.grad_fn: [root]}
            for node, name in names.items():
                self._patience.check()
                for index, below in enumerate(autograd.inputs_of(node)):
                    if below is not None:
                        readers.setdefault(below, []).append(f"{name}:{index}" if index else name)
            for node, results in readers.items():
                self._graph.connect(names[node], tuple(results))
        return self._graph.freeze(AUTOGRAD)

    def _add(self, node: GradNode) -> str:
        self._patience.check()
        tensor = autograd.parameter_of(node)
        if tensor is not None:
            name = self._graph.name_of(tensor)
            home, _, label = (name or "leaf").rpartition(".")
            known = (("parameter", name),) if name else ()
            return self._graph.add(home, label, ACCUMULATE, (), *shapes_of(tensor), known)
        shapes = tuple(self._shape(below, number) for below, number in autograd.sources_of(node))
        name = node.name().rpartition("::")[2]  # torch's own in C++ have a namespace, and colons mean something else
        return self._graph.add(self._scope(node), name, name, (), shapes)

    def _shape(self, node: GradNode | None, number: int) -> Shape | None:
        """A gradient has the shape of what it is the gradient of, where that was seen."""
        if node is None:
            return None
        tensor = autograd.parameter_of(node)
        return self._shapes.get((node, number)) if tensor is None else tuple(tensor.shape)

    def _scope(self, node: GradNode) -> str:
        call = self._callers.get(node)
        if call is not None:
            return self._graph.scope_of_call(call.name, call.count, type(call.module).__name__)
        if self._watched:
            return STEP
        parameters = autograd.used_parameters(node, lambda between: len(autograd.inputs_of(between)) == 1)
        return next((name.rpartition(".")[0] for tensor in parameters if (name := self._graph.name_of(tensor))), "")
