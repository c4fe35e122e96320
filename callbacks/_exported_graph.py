"""What `torch.export` sees in one call of a module, as nodes of a graph."""

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
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode

from callbacks._graph import CONSTANT, Draft, Node, Shape
from callbacks._graph_tensors import TensorNames, dtype_of
from callbacks._module_calls import Call, Value
from callbacks._module_twin import twin_of
from callbacks._nested import flatten, rebuild

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
