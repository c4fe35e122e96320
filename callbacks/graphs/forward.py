"""The forward graph: calls that `torch.export` can follow op by op, the others as they were seen, and what is between.

What is between the modules a training step calls, and after them up to the loss, is read off autograd's own nodes.
"""

from __future__ import annotations

import io
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, fx, nn
from torch.autograd.graph import Node as GradNode
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode

from callbacks.graphs.calls import (
    Call,
    Value,
    flatten,
    flatten_call,
    operation,
    owners,
    parameter_of,
    plain,
    rebuild,
    twin_of,
)
from callbacks.graphs.model import BUFFER, CONSTANT, INPUT, OUTPUT, PARAMETER, Draft, Graph, Node, Shape


class TensorNames:
    """Finds parameters and buffers by what they are, so that one with two names is one node.

    Args:
        module: Whose tensors are looked up.
    """

    def __init__(self, module: nn.Module) -> None:
        self._found: dict[int, tuple[str, str, Tensor]] = {}
        self._ports: dict[int, str] = {}
        for kind, named in ((BUFFER, module.named_buffers()), (PARAMETER, module.named_parameters())):
            for name, tensor in named:
                self._found[id(tensor)] = (kind, plain(name), tensor)

    def name(self, tensor: Tensor) -> str | None:
        """The first name of a parameter or buffer."""
        found = self._found.get(id(tensor))
        return found[1] if found else None

    def port(self, tensor: Tensor, draft: Draft, scope: str) -> str:
        """The node of a tensor, added when it is first asked for; a stranger becomes a constant in `scope`."""
        if id(tensor) not in self._ports:
            kind, name, _ = self._found.setdefault(id(tensor), (CONSTANT, f"{scope}.constant".lstrip("."), tensor))
            home, _, label = name.rpartition(".")
            shape = tuple(int(extent) for extent in tensor.shape)
            attributes = ((kind.lower(), name),) if kind != CONSTANT else ()
            node = Node("", kind, shapes=(shape,), dtype=dtype_of(tensor), attributes=attributes)
            self._ports[id(tensor)] = draft.add(home.replace(".", "/"), label, node)
        return self._ports[id(tensor)]


def dtype_of(value: Any) -> str:
    """The type of the first tensor in a nest, e.g. `float32`."""
    tensors = [leaf for _, leaf in flatten(value, "") if isinstance(leaf, Tensor)]
    return str(tensors[0].dtype).removeprefix("torch.") if tensors else ""


SAID_BY_EXPORT = ("torch.export", "torch.fx.experimental.symbolic_shapes", "torch._dynamo")
LONGEST = 80  # letters of an attribute


@dataclass(frozen=True)
class Exported:
    """A program with the stand-in that it was made from."""

    program: ExportedProgram
    twin: nn.Module


class _Deadline(TorchFunctionMode):
    """Ends a tracing that takes too long."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._end = time.monotonic() + seconds

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if time.monotonic() > self._end:
            raise TimeoutError("it takes too long")
        return func(*args, **(kwargs or {}))


def export_call(call: Call, seconds: float) -> Exported:
    """Trace a recorded call again, without numbers: no weight, buffer, random state or attribute changes.

    Args:
        call: What was called, with what.
        seconds: After which to give up.

    Raises:
        Exception: Whatever `torch.export` or the module says to it.
    """
    twin = twin_of(call.module)
    args, kwargs = (rebuild(given, _empty) for given in (call.args, call.kwargs))
    kind = next((value.device.type for _, value in call.inputs), "cpu")
    with ExitStack() as stack:
        stack.enter_context(_unheard())
        stack.enter_context(isolate_rng())  # a module may draw from Python's or NumPy's generator
        stack.enter_context(torch.set_grad_enabled(call.grad))
        stack.enter_context(torch.autocast(kind, call.autocast, enabled=call.autocast is not None))
        stack.enter_context(_Deadline(seconds))
        return Exported(torch.export.export(twin, args, kwargs, strict=False), twin)


def _empty(leaf: Any) -> Any:
    return leaf.empty() if isinstance(leaf, Value) else leaf


@contextmanager
def _unheard() -> Iterator[None]:
    """What a second, unreal pass through somebody's module says is nobody's business."""

    def nothing(record: logging.LogRecord) -> bool:
        return False

    loggers = [logging.getLogger(name) for name in SAID_BY_EXPORT]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.addFilter(nothing)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(nothing)


class ProgramDrawing:
    """Puts the nodes of an exported call into a draft.

    Args:
        exported: The program.
        draft: Where the nodes go.
        scope: Of the module that was called.
        tensors: Knows the names of parameters and buffers.
    """

    def __init__(self, exported: Exported, draft: Draft, *, scope: str, tensors: TensorNames) -> None:
        self._program = exported.program
        self._twin = exported.twin
        self._draft = draft
        self._scope = scope
        self._tensors = tensors
        self._ports: dict[fx.Node, str] = {}
        self._scopes: dict[tuple[str, ...], str] = {}

    def draw(self, inputs: Sequence[str | None]) -> list[str | None]:
        """Add the nodes.

        Args:
            inputs: The node behind every leaf of the arguments; none where that is no tensor.

        Returns:
            The node behind every leaf of the result.
        """
        given = dict(zip(self._program.graph_signature.user_inputs, inputs, strict=True))
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, given)
            elif node.op == "call_function":
                self._operation(node)
        by_name = {node.name: port for node, port in self._ports.items()}
        return [by_name.get(str(name)) for name in self._program.graph_signature.user_outputs]

    def _placeholder(self, node: fx.Node, given: Mapping[Any, str | None]) -> None:
        signature = self._program.graph_signature
        if node.name in signature.inputs_to_parameters:
            tensor: Tensor = self._twin.get_parameter(signature.inputs_to_parameters[node.name])
        elif node.name in signature.inputs_to_buffers:
            tensor = self._twin.get_buffer(signature.inputs_to_buffers[node.name])
        else:
            port = given.get(node.name)
            if port is None and node.name not in given:
                node_ = Node("", CONSTANT, shapes=_shapes(node.meta.get("val")), dtype=dtype_of(node.meta.get("val")))
                port = self._draft.add(self._scope, "constant", node_)
            if port is not None:
                self._ports[node] = port
            return
        self._ports[node] = self._tensors.port(tensor, self._draft, self._scope)

    def _operation(self, node: fx.Node) -> None:
        name = _operation_name(node.target)
        if name == "getitem" and isinstance(node.args[0], fx.Node):
            if node.args[0] in self._ports:
                port, _, nested = self._ports[node.args[0]].partition(":")
                self._ports[node] = port if nested or not node.args[1] else f"{port}:{node.args[1]}"
            return
        value = node.meta.get("val")
        inputs = tuple(self._ports[source] for source in node.all_input_nodes if source in self._ports)
        made = Node("", name, inputs, _shapes(value), dtype_of(value), _constants(node, self._twin))
        self._ports[node] = self._draft.add(self._where(node), name, made)

    def _where(self, node: fx.Node) -> str:
        stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
        key = tuple(stack)
        if key not in self._scopes:
            self._scopes[key] = self._scope_of(stack)
        return self._scopes[key]

    def _scope_of(self, stack: Mapping[str, tuple[str, Any]]) -> str:
        scope, outer, counted = self._scope, "", 0
        for key, (path, cls) in stack.items():
            if not path:
                continue
            count = int(key.rpartition("@")[2]) if "@" in key else 0
            inner = path.removeprefix(f"{outer}.") if outer else path
            start = scope if not outer or inner != path else self._scope  # else a module shared with another parent
            local = f"{start}/{inner}" if start else inner
            name = cls if isinstance(cls, str) else cls.__name__
            scope = self._draft.call_scope(
                local.replace(".", "/"), count if count != counted else 0, name.rpartition(".")[2]
            )
            outer, counted = path, count
        return scope


def _operation_name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", None)  # `aten.linear` of `aten.linear.default`
    text = str(packet).rpartition(".")[2] if packet else getattr(target, "__name__", str(target))
    return text.rstrip("_") or text  # `relu_` is a relu


def _shapes(value: Any) -> tuple[Shape | None, ...]:
    leaves = [leaf for _, leaf in flatten(value, "")]
    return tuple(_shape(leaf) if isinstance(leaf, Tensor) else None for leaf in leaves)


def _shape(tensor: Tensor) -> Shape:
    return tuple(extent if isinstance(extent, int) else -1 for extent in tensor.shape)


def _constants(node: fx.Node, module: nn.Module) -> tuple[tuple[str, str], ...]:
    """The arguments of an operation that are no tensors: stride, padding, probability."""
    try:
        pair = node.normalized_arguments(module, normalize_to_only_use_kwargs=True)
    except Exception:  # noqa: BLE001  # only a help to the reader
        pair = None
    named = dict(pair.kwargs) if pair else {}
    plain = {
        key: value
        for key, value in named.items()
        if value is not None and not any(isinstance(leaf, fx.Node) for _, leaf in flatten(value, ""))
    }
    return tuple((key, str(value)[:LONGEST]) for key, value in plain.items())


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
