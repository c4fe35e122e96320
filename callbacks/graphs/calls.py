"""Record which modules were called and with what, in a form that lets each call be traced again later."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from math import inf
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node as GradNode
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric, MetricCollection

from callbacks.graphs.patience import Patience
from callbacks.readers.autograd import parameter_of, source_of, unwrapped_name, walk
from callbacks.readers.twin import uncompiled


def flatten(value: Any, label: str = "") -> list[tuple[str, Any]]:
    """Return the leaves of a nested value in order, each with its path: `label_key_0`."""
    children: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        children = zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple):
        children = enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        children = [(field.name, getattr(value, field.name)) for field in fields(value)]
    else:
        return [(label, value)]
    return [leaf for key, child in children for leaf in flatten(child, f"{label}_{key}" if label else str(key))]


def flatten_call(module: nn.Module, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
    """Return the leaves of a call's arguments, named as `forward` names them."""
    code = getattr(type(module).forward, "__code__", None)
    names = list(code.co_varnames[1 : code.co_argcount]) if code else []
    labels = [*names[: len(args)], *(f"input_{index}" for index in range(len(names), len(args)))]
    named = [*zip(labels, args, strict=True), *kwargs.items()]
    return [leaf for label, value in named for leaf in flatten(value, label)]


def map_leaves(change: Callable[[Any], Any], value: Any) -> Any:
    """Return the same nest of lists, tuples and dicts with every leaf changed; what else holds tensors is a leaf."""
    if type(value) in (list, tuple):
        return type(value)(map_leaves(change, child) for child in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_leaves(change, child) for child in value))
    if isinstance(value, dict):
        changed = copy.copy(value)
        for key, child in value.items():  # some dicts refuse `update`
            changed[key] = map_leaves(change, child)
        return changed
    return change(value)


class TensorRecord:
    """A tensor that went into or came out of a module, without its numbers."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.stride = tuple(tensor.shape), tensor.stride() if tensor.layout is torch.strided else ()
        self.dtype, self.device, self.requires_grad = tensor.dtype, tensor.device, tensor.requires_grad
        self.source = source_of(tensor)

    def empty(self) -> Tensor:
        """Return a tensor of the same kind, not filled."""
        tensor = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        return tensor.requires_grad_(self.requires_grad)


@dataclass(eq=False)
class Call:
    """One call of a module; `args` and `kwargs` hold a `TensorRecord` for every tensor."""

    name: str
    module: nn.Module
    count: int = 0  # calls of the same module before this one
    args: Any = ()
    kwargs: Any = field(default_factory=dict)
    inputs: list[tuple[str, TensorRecord]] = field(default_factory=list)
    outputs: list[tuple[str, Any]] = field(default_factory=list)  # every leaf; a TensorRecord where it is a tensor
    calls: list[Call] = field(default_factory=list)
    autocast: torch.dtype | None = None
    grad: bool = True
    start: float = 0.0
    seconds: float = 0.0  # that it took, without compiling

    @property
    def device_type(self) -> str:
        """The kind of device of its first tensor."""
        return next((tensor.device.type for _, tensor in self.inputs), "cpu")

    def results(self) -> list[tuple[str, TensorRecord]]:
        """Return the tensors among its outputs."""
        return [(label, leaf) for label, leaf in self.outputs if isinstance(leaf, TensorRecord)]

    def all_calls(self) -> Iterator[Call]:
        """Yield the calls inside, innermost first, and this one."""
        for call in self.calls:
            yield from call.all_calls()
        yield self


def callers(calls: Iterable[Call], patience: Patience) -> dict[GradNode, Call]:
    """Return which call of a module each of autograd's nodes comes from: the innermost one."""
    found: dict[GradNode, Call] = {}
    for outermost in calls:
        for call in outermost.all_calls():
            before = {tensor.source[0] for _, tensor in call.inputs if tensor.source}
            after = [tensor.source[0] for _, tensor in call.results() if tensor.source]
            for node in walk((node for node in after if node not in before), before):
                patience.check(over=0.5)
                if parameter_of(node) is None:
                    found.setdefault(node, call)
    return found


class _Hook:
    """Tells a recorder of the calls of one module.

    In a copy or a pickle of the module it is a function of Python's own that does nothing: what watches a module does
    not travel with it, and nobody needs this package to load it.
    """

    def __init__(self, recorder: CallRecorder, name: str | None = None) -> None:
        self._recorder, self._name = recorder, name

    def __call__(self, *args: Any) -> None:
        self._recorder.note(self._name, *args)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")  # takes what a hook is given, and returns None


class CallRecorder:
    """Hooks itself onto a module and its parts, and keeps the tree of calls. Changes no number.

    Metrics are not watched, and compiled modules only from outside.
    """

    def __init__(self, root: nn.Module, patience: Patience | None = None) -> None:
        self.root, self.patience = root, patience or Patience(inf)
        self.calls: list[Call] = []
        self.error: Exception | None = None
        self.paused = False
        self._stack: list[Call] = []
        self._counts: dict[str, int] = {}
        self._records: dict[int, tuple[weakref.ref[Tensor], TensorRecord]] = {}
        self._handles: list[RemovableHandle] = []
        self._compiling = 0.0  # seconds in compiled modules, the first call of which compiles

    def start(self) -> None:
        """Begin to watch."""
        waiting, seen = [("", self.root)], set[int]()
        for name, module in waiting:  # grows while it is read
            if id(module) in seen or isinstance(module, Metric | MetricCollection):
                continue
            seen.add(id(module))
            if uncompiled(module) is module:
                waiting.extend((f"{name}.{child}" if name else child, part) for child, part in module.named_children())
            if not name or not isinstance(module, torch.jit.ScriptModule):
                before, after = _Hook(self, unwrapped_name(name)), _Hook(self)
                self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                self._handles.append(module.register_forward_hook(after))

    def stop(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stack.clear()

    def __enter__(self) -> CallRecorder:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def note(self, name: str | None, *args: Any) -> None:
        """Take down that the module of that name is called, or, without a name, that one has returned."""
        if torch.compiler.is_compiling() or self.paused:  # no word of ours into somebody's compiled code
            return
        try:
            with self.patience:
                self.patience.check()
                self._leave(*args) if name is None else self._enter(name, *args)
        except TimeoutError as error:  # what was seen so far is no whole call
            self.error, self.paused = error, True
        except Exception as error:  # noqa: BLE001  # a forward pass must not fail because it is watched
            self.error = error

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        # Where `forward` stands for another method, a strategy calls `training_step` by that detour.
        if module is self.root and getattr(module.forward, "__func__", None) is not type(module).forward:
            return
        inner = uncompiled(module)
        call = Call(name, inner, self._counts.get(name, 0))
        self._counts[name] = call.count + 1
        call.args, call.kwargs = map_leaves(self._record, args), map_leaves(self._record, kwargs)
        leaves = flatten_call(inner, call.args, call.kwargs)
        call.inputs = [(label, leaf) for label, leaf in leaves if isinstance(leaf, TensorRecord)]
        call.grad = torch.is_grad_enabled()
        if torch.is_autocast_enabled(call.device_type):
            call.autocast = torch.get_autocast_dtype(call.device_type)
        (self._stack[-1].calls if self._stack else self.calls).append(call)
        self._stack.append(call)
        call.start = monotonic() - self._compiling

    def _leave(self, module: nn.Module, _: Any, output: Any) -> None:
        inner = uncompiled(module)
        if not any(call.module is inner for call in self._stack):
            return
        while (call := self._stack.pop()).module is not inner:
            pass  # calls that ended in an exception
        call.seconds = monotonic() - self._compiling - call.start
        if inner is not module or getattr(module, "_compiled_call_impl", None) is not None:
            self._compiling, call.seconds = self._compiling + call.seconds, 0.0
        inside = {id(leaf) for part in call.calls for _, leaf in (*part.inputs, *part.outputs)}
        if call.calls:
            inside |= {id(tensor) for _, tensor in call.inputs}
        call.outputs = [(label, self._record(leaf, inside)) for label, leaf in flatten(output)]

    def _record(self, leaf: Any, inside: Container[int] | None = None) -> Any:
        """Return what stands for a leaf; a tensor that was seen keeps its record, if that is one of those `inside`."""
        if not isinstance(leaf, Tensor):
            return leaf
        seen, record = self._records.get(id(leaf), (None, None))
        is_known = seen is not None and seen() is leaf and record is not None and record.source == source_of(leaf)
        if not is_known or (inside is not None and id(record) not in inside):  # new, changed in place, or made here
            record = TensorRecord(leaf)
            self._records[id(leaf)] = weakref.ref(leaf), record
        return record
