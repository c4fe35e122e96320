"""Watches which modules a training step calls, with what, and which of autograd's nodes each call leaves behind."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node as GradNode
from torch.utils.hooks import RemovableHandle

from callbacks._module_twin import plain, uncompiled, visible_modules
from callbacks._nested import flatten, rebuild


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
