"""Copy a module so that it can be traced: whatever the copy's `forward` changes, the fit does not see it."""

from __future__ import annotations

import copy
import copyreg
import io
import queue
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from callbacks.graphs.patience import Patience
from callbacks.readers.autograd import COMPILED

MOST_BYTES = 64 * 2**20  # of tensors, arrays and tables that one twin copies; a tracing reads none of their numbers
MOST_OBJECTS = 50_000  # of Python, about 0.2 s
_ATOMS: tuple[type, ...] = (
    type(None),
    type(...),
    type(NotImplemented),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type,
    range,
    ModuleType,
)
_ATOMS += (torch.dtype, torch.device, torch.layout, torch.memory_format, property)
_BUSY = (threading.Thread, queue.Queue, io.IOBase)  # a copy of a queue that nobody reads would wait for ever
_HOOKS = frozenset(name for name in vars(nn.Module()) if name.endswith("_hooks"))
_OWNERS = ("_trainer", "_fabric")  # under which a LightningModule keeps what trains it


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, or the module itself."""
    return dict(module.named_children()).get(COMPILED, module)


class _Absent:
    """Stands for what cannot be copied, or is too large: whoever uses it ends the tracing."""

    def __init__(self, kind: str) -> None:
        object.__setattr__(self, "_kind", kind)

    def __getattr__(self, name: str) -> Any:
        raise TypeError(f"a {object.__getattribute__(self, '_kind')} cannot be copied for tracing")

    __call__ = __iter__ = __next__ = __enter__ = __exit__ = __len__ = __bool__ = __getitem__ = __setitem__ = (
        lambda self, *args, **kwargs: self.__getattr__("")
    )


class Twins:
    """Makes deep copies of the parts of a module over the same parameters and buffers.

    All that Python can reach from a part is copied: objects, containers, closures, bound methods, what weak references
    point to, modules that are not registered. A tracing puts its own tensors in the place of registered parameters and
    buffers, so these are shared. The trainer and what belongs to it are left behind, and what a module's owner hooked
    onto it is not called. A tensor or an array that is too large is replaced by one number, expanded to its shape.
    What cannot be copied, and what would be too much, is replaced by a thing that ends the tracing when it is used: a
    fit is not changed, rather is its graph a coarser one.

    Keep it while a copy is in use: weak references inside do not hold what they point to.

    Args:
        module: The one that will be traced. What it registers is shared.
        trainer: Left behind with its loggers, callbacks and data.
        patience: Ends the copying with a TimeoutError.
    """

    def __init__(self, module: nn.Module, trainer: Any = None, patience: Patience | None = None) -> None:
        self._patience = patience
        self._memo: dict[int, Any] = {}  # as `copy.deepcopy` keeps it, by the identity of the original
        self._originals: list[Any] = []  # else a new object might have the identity of one that is gone
        self._bytes, self._objects = 0, 0
        for tensor in (*module.parameters(), *module.buffers()):
            self._memo[id(tensor)] = tensor
        self._too_busy = _BUSY if trainer is None else (*_BUSY, trainer.__class__)
        for name in ("datamodule", "loggers", "callbacks"):
            owned = getattr(trainer, name, None)
            for one in owned if isinstance(owned, list) else [owned]:
                if one is not None:
                    self._keep(one, _Absent(type(one).__name__))

    def of(self, value: Any) -> Any:
        """Return the copy of a module, or of anything else; the same one whenever it is asked for again."""
        if isinstance(value, _ATOMS):
            return value
        if id(value) in self._memo:
            return self._memo[id(value)]
        if self._patience is not None:
            self._patience.check()
        make: Any = _BY_TYPE.get(type(value))  # first: a weak proxy says that it is what it stands for
        if make is None and isinstance(value, nn.Module):
            return self._module(value)
        self._objects += 1
        if self._objects > MOST_OBJECTS or isinstance(value, self._too_busy):
            return self._keep(value, _Absent(type(value).__name__))
        return (make or (Twins._tensor if isinstance(value, Tensor) else Twins._other))(self, value)

    def _keep(self, original: Any, made: Any) -> Any:
        self._memo[id(original)] = made
        self._originals.append(original)
        return made

    def _has_room(self, size: int) -> bool:
        fits = self._bytes + size <= MOST_BYTES
        self._bytes += size if fits else 0
        return fits

    def _module(self, module: nn.Module) -> Any:
        inner = uncompiled(module)
        if inner is not module:
            return self._keep(module, self.of(inner))
        if isinstance(module, torch.jit.ScriptModule) or hasattr(type(module), "__del__"):
            raise TypeError(f"a {type(module).__name__} cannot be copied for tracing")
        own = self._keep(module, object.__new__(type(module)))
        # nn.Module's own, which leaves out what `module.compile()` left: a parametrized module's refuses.
        state = nn.Module.__getstate__(module)  # type: ignore[no-untyped-call]  # torch has no type here
        for name, value in state.items():
            if name in _HOOKS:
                vars(own)[name] = type(value)((key, self.of(one)) for key, one in value.items() if not _is_foreign(one))
            elif name in ("_parameters", "_buffers", "_modules"):
                vars(own)[name] = type(value)((key, self.of(one)) for key, one in value.items())
            else:
                vars(own)[name] = None if name in _OWNERS else self.of(value)
        return own

    def _tensor(self, tensor: Tensor) -> Any:
        plain = tensor.detach()
        if self._has_room(tensor.numel() * tensor.element_size()):
            plain = plain.clone()
        else:
            plain = torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
        if isinstance(tensor, nn.Parameter):
            plain = nn.Parameter(plain, tensor.requires_grad)
        elif tensor.requires_grad:
            plain.requires_grad_()
        return self._keep(tensor, plain)

    def _array(self, array: Any) -> Any:
        if array.dtype.hasobject:
            return self._other(array)
        if not self._has_room(array.nbytes):
            return self._keep(array, np.broadcast_to(np.zeros((), array.dtype), array.shape))
        return self._keep(array, np.array(array))

    def _dict(self, values: dict[Any, Any]) -> Any:
        if len(values) > MOST_OBJECTS:
            return self._keep(values, _Absent("large dict"))
        own = self._keep(values, {})
        own.update((self.of(key), self.of(value)) for key, value in list(values.items()))
        return own

    def _list(self, values: list[Any]) -> Any:
        if len(values) > MOST_OBJECTS:
            return self._keep(values, _Absent("large list"))
        own = self._keep(values, [])
        own.extend(self.of(value) for value in list(values))
        return own

    def _tuple(self, values: Any) -> Any:
        copies = [self.of(value) for value in values]
        if id(values) in self._memo:  # it holds something that holds it
            return self._memo[id(values)]
        same = all(own is value for own, value in zip(copies, values, strict=True))
        return self._keep(values, values if same else type(values)(copies))

    def _method(self, method: MethodType) -> Any:
        return self._keep(method, MethodType(self.of(method.__func__), self.of(method.__self__)))

    def _builtin(self, method: BuiltinMethodType) -> Any:
        if method.__self__ is None or isinstance(method.__self__, ModuleType | type):
            return method
        return self._keep(method, getattr(self.of(method.__self__), method.__name__))

    def _function(self, function: FunctionType) -> Any:
        """A function that closes over a module, as a patched `forward` does, would change the original."""
        if not (function.__closure__ or function.__defaults__ or function.__kwdefaults__ or vars(function)):
            return function
        cells = tuple(self.of(cell) for cell in function.__closure__ or ())
        if id(function) in self._memo:  # it closes over itself
            return self._memo[id(function)]
        own = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells or None)
        self._keep(function, own)
        own.__defaults__, own.__kwdefaults__ = self.of(function.__defaults__), self.of(function.__kwdefaults__)
        own.__qualname__, own.__module__, own.__doc__ = function.__qualname__, function.__module__, function.__doc__
        own.__annotations__ = function.__annotations__
        vars(own).update((key, self.of(value)) for key, value in vars(function).items())
        return own

    def _cell(self, cell: CellType) -> Any:
        own = self._keep(cell, CellType())
        try:
            value = cell.cell_contents
        except ValueError:  # still empty
            return own
        own.cell_contents = self.of(value)
        return own

    def _reference(self, reference: Any) -> Any:
        target = reference()
        return reference if target is None else self._keep(reference, weakref.ref(self.of(target)))

    def _proxy(self, proxy: Any) -> Any:
        try:
            target = proxy.__reduce_ex__.__self__
            return self._keep(proxy, weakref.proxy(self.of(target)))
        except (ReferenceError, AttributeError, TypeError):
            return self._keep(proxy, _Absent("weak proxy"))

    def _cached(self, function: Any) -> Any:
        """What `functools.lru_cache` made of a method that is bound would call the original."""
        wrapped = self.of(function.__wrapped__)
        cache = lru_cache(**function.cache_parameters())
        return function if wrapped is function.__wrapped__ else self._keep(function, cache(wrapped))

    def _lock(self, lock: Any) -> Any:
        return self._keep(lock, type(lock)())

    def _other(self, value: Any) -> Any:
        """Copy an object as `copy.deepcopy` does, one step at a time."""
        try:
            kind = type(value)
            if hasattr(kind, "__del__"):  # a copy that is thrown away might close what the original still uses
                return self._keep(value, _Absent(kind.__name__))
            if not self._has_room(sys.getsizeof(value)):
                return self._keep(value, _Absent(f"large {kind.__name__}"))
            if hasattr(kind, "__deepcopy__"):
                return self._keep(value, value.__deepcopy__(self._memo))
            reduce: Any = copyreg.dispatch_table.get(kind)
            reduced = reduce(value) if reduce else value.__reduce_ex__(4)
            return value if isinstance(reduced, str) else self._rebuilt(value, *reduced)
        except TimeoutError:
            raise
        except Exception:  # noqa: BLE001  # whatever says that it cannot be copied
            return self._keep(value, _Absent(type(value).__name__))

    def _rebuilt(
        self,
        original: Any,
        make: Callable[..., Any],
        args: tuple[Any, ...],
        state: Any = None,
        items: Any = None,
        pairs: Any = None,
        set_state: Any = None,
    ) -> Any:
        args = tuple([self.of(one) for one in args])
        own = make(*args)
        self._keep(original, own)
        if state is not None:
            state = self.of(state)
            if set_state is not None:
                set_state(own, state)
            elif hasattr(own, "__setstate__"):
                own.__setstate__(state)
            else:
                plain, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
                if plain:
                    vars(own).update(plain)
                for name, one in (slots or {}).items():
                    setattr(own, name, one)
        for one in items or ():
            own.append(self.of(one))
        for key, one in pairs or ():
            own[self.of(key)] = self.of(one)
        return own


_BY_TYPE: dict[type, Callable[[Twins, Any], Any]] = {
    dict: Twins._dict,
    list: Twins._list,
    tuple: Twins._tuple,
    np.ndarray: Twins._array,
    np.memmap: Twins._array,
    MethodType: Twins._method,
    BuiltinMethodType: Twins._builtin,
    FunctionType: Twins._function,
    CellType: Twins._cell,
    weakref.ReferenceType: Twins._reference,
    weakref.ProxyType: Twins._proxy,
    weakref.CallableProxyType: Twins._proxy,
    type(lru_cache(None)(len)): Twins._cached,
    type(threading.Lock()): Twins._lock,
    type(threading.RLock()): Twins._lock,
}


@contextmanager
def shared_state_kept(module: nn.Module) -> Iterator[None]:
    """Put back what the classes of a module's parts, and the files that define them, held before the block.

    A counter of a class and a list at the top of a file have no twin. Torch's own are what a tracing works with.
    """
    classes = {
        cls for part in module.modules() for cls in type(part).__mro__ if cls.__module__.partition(".")[0] != "torch"
    }
    files = [vars(sys.modules[name]) for name in {cls.__module__ for cls in classes} if name in sys.modules]
    before = [(one, dict(vars(one))) for one in classes] + [(one, dict(one)) for one in files]
    held = {id(value): value for _, values in before for value in values.values()}
    contents = [(value, copy.copy(value)) for value in held.values() if type(value) in (list, dict, set, deque)]
    try:
        yield
    finally:
        for value, content in contents:
            if len(value) != len(content) or any(a is not b for a, b in zip(_flat(value), _flat(content), strict=True)):
                value.clear()
                value.extend(content) if isinstance(value, list | deque) else value.update(content)
        for owner, values in before:
            now = owner if isinstance(owner, dict) else vars(owner)
            for name in [name for name in (*now, *values) if now.get(name, owner) is not values.get(name, owner)]:
                if isinstance(owner, dict):
                    owner.pop(name) if name not in values else owner.update({name: values[name]})
                else:
                    delattr(owner, name) if name not in values else setattr(owner, name, values[name])


def _flat(values: Any) -> list[Any]:
    return [*values, *values.values()] if isinstance(values, dict) else list(values)


def _is_foreign(hook: Any) -> bool:
    """Whether a hook is its owner's; those of `torch.nn.utils` compute the weights."""
    home: str = getattr(hook, "__module__", None) or type(hook).__module__
    return not home.startswith("torch.nn.utils")
