"""What autograd's nodes tell about themselves."""

from __future__ import annotations

import copy
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.autograd.graph import Node as GradNode
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric

COMPILED = "_orig_mod"  # the name under which `torch.compile` keeps a module; state dicts show it


def uncompiled(module: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped, or the module itself."""
    return dict(module.named_children()).get(COMPILED, module)


def plain(name: str) -> str:
    """A module's or parameter's name without what `torch.compile` puts into it."""
    return ".".join(part for part in name.split(".") if part != COMPILED)


def visible_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules whose calls can be watched, by name: not those inside a compiled one, and no metrics."""
    seen: set[int] = set()
    waiting: list[tuple[str, nn.Module]] = [("", root)]
    while waiting:
        name, module = waiting.pop(0)
        if id(module) in seen or isinstance(module, Metric):
            continue
        seen.add(id(module))
        yield name, module
        if uncompiled(module) is module:
            waiting.extend((f"{name}.{child}" if name else child, part) for child, part in module.named_children())


def twin_of(module: nn.Module) -> nn.Module:
    """A module of the same structure over the same parameters and buffers.

    Attributes set on it, and changes to lists and dicts that it holds, do not reach the original; what the original's
    owner hooked onto it is not called; `torch.compile` is taken off; a LightningModule is without its trainer.
    """
    return _twin(module, {})


def _twin(module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    module = uncompiled(module)
    if id(module) in known:  # shared modules stay shared
        return known[id(module)]
    known[id(module)] = twin = object.__new__(type(module))
    # nn.Module's own, which leaves out what `module.compile()` left: a parametrized module's refuses.
    vars(twin).update(nn.Module.__getstate__(module))  # type: ignore[no-untyped-call]  # torch has no type here
    for key, value in vars(twin).items():
        if isinstance(value, dict | list | set):
            vars(twin)[key] = own = copy.copy(value)
            if isinstance(own, dict):
                _forget_hooks(own)
    children = [found for found in module.named_modules(remove_duplicate=False) if found[0] and "." not in found[0]]
    for name, child in children:
        twin.add_module(name, _twin(child, known))
    if isinstance(twin, LightningModule):
        twin.trainer = None  # nothing is logged
    return twin


def _forget_hooks(values: dict[Any, Any]) -> None:
    """Take out callables kept under numbers: hooks. Those of `torch.nn.utils` stay, they compute the weights."""
    for key, value in list(values.items()):
        if isinstance(key, int) and callable(value) and not isinstance(value, nn.Module | Tensor):
            home = getattr(value, "__module__", None) or type(value).__module__
            if not home.startswith("torch.nn.utils"):
                del values[key]


def flatten(value: Any, label: str) -> list[tuple[str, Any]]:
    """The leaves of a nested value in order, each with its path: `label_key_0`."""
    children: list[tuple[Any, Any]] | None = None
    if isinstance(value, Mapping):
        children = list(value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        children = list(zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple):
        children = list(enumerate(value))
    elif is_dataclass(value) and not isinstance(value, type):
        children = [(field.name, getattr(value, field.name)) for field in fields(value)]
    if children is None:
        return [(label, value)]
    return [leaf for key, child in children for leaf in flatten(child, f"{label}_{key}" if label else str(key))]


def rebuild(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nest of lists, tuples and dicts with every leaf changed; what else holds tensors is a leaf."""
    if type(value) is list:
        return [rebuild(child, change) for child in value]
    if type(value) is tuple:
        return tuple(rebuild(child, change) for child in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(rebuild(child, change) for child in value))
    if isinstance(value, dict):
        changed = copy.copy(value)
        for key, child in value.items():
            changed[key] = rebuild(child, change)
        return changed
    return change(value)


class Value:
    """A tensor that went into or came out of a module, without its numbers.

    Args:
        tensor: What is seen.
        maker: The call it came out of.
    """

    def __init__(self, tensor: Tensor, maker: Call | None = None) -> None:
        self.shape = tuple(tensor.shape)
        self.stride = tensor.stride() if tensor.layout is torch.strided else ()
        self.dtype = tensor.dtype
        self.device = tensor.device
        self.requires_grad = tensor.requires_grad
        self.source = _source(tensor)
        self.maker = maker

    def empty(self) -> Tensor:
        """A tensor of the same kind, not filled."""
        tensor = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        return tensor.requires_grad_(self.requires_grad)


@dataclass(eq=False)
class Call:
    """One call of a module; `args` and `kwargs` hold a `Value` for every tensor."""

    name: str
    module: nn.Module
    args: Any = ()
    kwargs: Any = field(default_factory=dict)
    count: int = 0  # calls of the same module before this one
    inputs: list[tuple[str, Value]] = field(default_factory=list)
    outputs: list[tuple[str, Any]] = field(default_factory=list)  # every leaf; a Value where it is a tensor
    calls: list[Call] = field(default_factory=list)
    autocast: torch.dtype | None = None
    grad: bool = True
    training: bool = True

    def all_calls(self) -> Iterator[Call]:
        """The calls inside, innermost first, and this one."""
        for call in self.calls:
            yield from call.all_calls()
        yield self


class CallRecorder:
    """Hooks itself onto a module and its parts, and keeps the tree of calls. Changes no number.

    Args:
        root: Whose parts are watched. Metrics are not, and compiled modules only from outside.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.calls: list[Call] = []
        self.error: Exception | None = None
        self.paused = False
        self._stack: list[Call] = []
        self._counts: dict[str, int] = {}
        self._values: dict[int, tuple[weakref.ref[Tensor], Value]] = {}
        self._handles: list[RemovableHandle] = []

    def start(self) -> None:
        """Begin to watch."""
        for name, module in visible_modules(self.root):
            if isinstance(module, torch.jit.ScriptModule) and name:
                continue
            self._handles.append(module.register_forward_pre_hook(self._before(plain(name)), with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._after, with_kwargs=True))

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

    # ------------------------------------------------------------------ hooks

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if torch.compiler.is_compiling() or self.paused:  # tracing: no word of ours into somebody's compiled code
                return
            try:
                self._enter(name, module, args, kwargs)
            except Exception as error:  # noqa: BLE001  # a forward pass must not fail because it is watched
                self.error = error

        return hook

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or self.paused:
            return
        try:
            self._leave(module, output)
        except Exception as error:  # noqa: BLE001
            self.error = error

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if module is self.root and _is_redirected(module):
            return
        inner = uncompiled(module)
        call = Call(name, inner, count=self._counts.get(name, 0), training=inner.training)
        self._counts[name] = call.count + 1
        call.args, call.kwargs = rebuild(args, self._see), rebuild(kwargs, self._see)
        call.inputs = [(label, v) for label, v in flatten_call(inner, call.args, call.kwargs) if isinstance(v, Value)]
        call.grad = torch.is_grad_enabled()
        kind = next((value.device.type for _, value in call.inputs), "cpu")
        if torch.is_autocast_enabled(kind):
            call.autocast = torch.get_autocast_dtype(kind)
        (self._stack[-1].calls if self._stack else self.calls).append(call)
        self._stack.append(call)

    def _leave(self, module: nn.Module, output: Any) -> None:
        inner = uncompiled(module)
        if not any(call.module is inner for call in self._stack):
            return
        while (call := self._stack.pop()).module is not inner:
            pass  # calls that ended in an exception
        inside = {id(value) for part in call.calls for _, value in (*part.inputs, *part.outputs)}
        if call.calls:
            inside |= {id(value) for _, value in call.inputs}
        call.outputs = [
            (label, self._make(leaf, call, inside) if isinstance(leaf, Tensor) else leaf)
            for label, leaf in flatten(output, "")
        ]

    def _see(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return self._known(leaf) or self._keep(leaf, None)

    def _make(self, tensor: Tensor, call: Call, inside: set[int]) -> Value:
        known = self._known(tensor)
        return known if known and id(known) in inside else self._keep(tensor, call)  # handed on, or made here

    def _known(self, tensor: Tensor) -> Value | None:
        """What a tensor was seen as, unless it was changed in place after that."""
        known, value = self._values.get(id(tensor), (None, None))
        if known is None or value is None or known() is not tensor:
            return None
        return value if value.source == _source(tensor) else None

    def _keep(self, tensor: Tensor, maker: Call | None) -> Value:
        value = Value(tensor, maker)
        self._values[id(tensor)] = weakref.ref(tensor), value
        return value


def _source(tensor: Tensor) -> tuple[GradNode, int] | None:
    return None if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)


def _is_redirected(module: nn.Module) -> bool:
    """Whether `forward` stands for another method: strategies call `training_step` by that detour."""
    return getattr(module.forward, "__func__", None) is not type(module).forward


def flatten_call(module: nn.Module, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
    """The leaves of a call's arguments, named as `forward` names them."""
    code = getattr(type(module).forward, "__code__", None)
    names = list(code.co_varnames[1 : code.co_argcount]) if code else []
    labels = [*names[: len(args)], *(f"input_{index}" for index in range(len(names), len(args)))]
    leaves = [leaf for label, arg in zip(labels, args, strict=True) for leaf in flatten(arg, label)]
    return leaves + [leaf for label, arg in kwargs.items() for leaf in flatten(arg, label)]


NAME = re.compile(r"(?:Backward\d*)+$")


def parameter_of(function: GradNode) -> Tensor | None:
    """The tensor in which a gradient lands, where the node is such an end."""
    return getattr(function, "variable", None) if function.name().endswith("AccumulateGrad") else None


def operation(function: GradNode) -> str:
    """The forward operation behind a node, e.g. `addmm` of AddmmBackward0."""
    name = NAME.sub("", function.name().rpartition("::")[2])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower() or function.name()


def walk(starts: Iterable[GradNode], stops: Iterable[GradNode] = ()) -> Iterator[GradNode]:
    """All nodes that a gradient passes on its way to `stops`, each once, those nearest to the starts first."""
    waiting = list(dict.fromkeys(starts))
    seen = {*waiting, *stops}
    for function in waiting:  # grows while it is read
        yield function
        for after, _ in function.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                waiting.append(after)


def owners(calls: Iterable[Call]) -> dict[GradNode, Call]:
    """Which call of a module each of autograd's nodes comes from: the innermost one."""
    found: dict[GradNode, Call] = {}
    for outermost in calls:
        for call in outermost.all_calls():
            before = {value.source[0] for _, value in call.inputs if value.source}
            after = [v.source[0] for _, v in call.outputs if isinstance(v, Value) and v.source]
            for function in walk((function for function in after if function not in before), before):
                if parameter_of(function) is None:
                    found.setdefault(function, call)
    return found
