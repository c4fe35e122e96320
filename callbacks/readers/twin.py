"""Copy a module so that it can be run or traced again: whatever the copy does, the fit does not see it."""

from __future__ import annotations

import copy
import copyreg
import io
import pickle
import sys
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import BuiltinMethodType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from callbacks.host.packages import kinds
from callbacks.readers.autograd import COMPILED

MOST_BYTES = 64 * 2**20  # of tensors and arrays that one twin copies where it need not
MOST_OBJECTS = 300_000  # of Python that are looked at, about 0.4 s
MANY = 1000  # entries of a list, a dict, a table or a text
_SHARED = (type, ModuleType, CodeType, property, staticmethod, classmethod)  # no forward pass writes into these
_SIZED = (list, dict, set, frozenset, tuple, deque, bytearray, str, bytes)
_HOOKS = frozenset(name for name in vars(nn.Module()) if name.endswith("_hooks"))
_OWNERS = ("_trainer", "_fabric")  # under which a LightningModule keeps what trains it
_CACHED = type(lru_cache(len))


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, or the module itself."""
    return dict(module.named_children()).get(COMPILED, module)


class _Absent:
    """Stands for what cannot be copied, or is too large: whoever uses it ends the pass."""

    def __init__(self, kind: str) -> None:
        object.__setattr__(self, "_kind", kind)

    def __getattr__(self, name: str) -> Any:
        raise TypeError(f"a {object.__getattribute__(self, '_kind')} cannot be copied")

    __call__ = __iter__ = __next__ = __enter__ = __exit__ = __len__ = __bool__ = __getitem__ = __setitem__ = (
        lambda self, *args, **kwargs: self.__getattr__("")
    )


class Twins(pickle.Pickler):
    """Makes deep copies of modules and of anything else, which share nothing that a forward pass could change.

    They are pickled and read back in memory: all that Python can reach is copied, also closures, bound methods and
    modules that are not registered, and no `__deepcopy__` of a stranger is asked. The trainer and loggers are left
    behind, and what a module's owner hooked onto it is not called. What cannot be copied is replaced by a thing that
    raises a TypeError when it is used: a fit is not changed, rather is less drawn or read.

    Args:
        traced: The module that `torch.export` will trace, which puts tensors of its own in the place of registered
            parameters and buffers: the memory of these is shared. As no numbers are read, what is large is replaced by
            one number, expanded to its shape, or by what raises when it is used. Without, the copies can be run.
        check: Called now and then; what it raises ends the copying.
    """

    def __init__(self, traced: nn.Module | None = None, check: Callable[[], None] = lambda: None) -> None:
        self._stream = io.BytesIO()
        super().__init__(self._stream, protocol=4)
        self._given: dict[int, Any] = {}  # what is taken for an original, by its identity
        self._originals: list[Any] = []  # else a new object might have the identity of one that is gone
        self._reader = _Reader(self._stream, self._given)
        self._traces, self._check, self._shares_large = traced is not None, check, False
        self._bytes = self._objects = 0
        self._trainers, self._loggers = kinds(".Trainer"), kinds(".loggers.Logger")
        self.registered: dict[int, Tensor] = {}  # the original behind the twin of a parameter or buffer, by identity
        for tensor in (*traced.parameters(), *traced.buffers()) if traced is not None else ():
            # A gradient and flags of its own; a class of its own is left as it is.
            own = _alike(tensor, tensor.detach()) if type(tensor) in (Tensor, nn.Parameter) else tensor
            self._give(tensor, own)
            self.registered[id(own)] = tensor

    def of(self, value: Any, *, share_large: bool = False) -> Any:
        """Return the copy of a module, or of anything else; the same one whenever it is asked for again.

        After an exception no more can be asked for. With `share_large`, which is for data, large tensors and tables
        and the entries of large containers are those of the original.
        """
        self._shares_large = share_large
        self._stream.seek(0)
        self._stream.truncate()
        with warnings.catch_warnings(action="ignore"):
            self.dump(value)
            self._stream.seek(0)
            return self._reader.load()

    def persistent_id(self, value: Any) -> int | None:
        """Return the key of what is given for an object; pickle copies the others. It asks about every object."""
        self._objects += 1
        if not self._objects % 1000:
            self._check()
        if self._objects > MOST_OBJECTS:
            raise TypeError(f"more than {MOST_OBJECTS} objects are too many to be copied")
        if id(value) not in self._given and type(value) in _SIZED and len(value) > MANY:
            if self._shares_large or isinstance(value, str | bytes):
                self._give(value, copy.copy(value))
            elif self._traces:
                self._leave(value)
        return id(value) if id(value) in self._given else None

    def reducer_override(self, value: Any) -> Any:
        """Return how pickle is to make a copy of what is no plain value or container of Python's own."""
        kind = type(value)  # not `isinstance`: a weak proxy says that it is what it stands for
        if kind in _BY_TYPE:
            return _BY_TYPE[kind](self, value)
        if issubclass(kind, nn.Module):
            return self._module(value)
        if issubclass(kind, Tensor) or (issubclass(kind, np.ndarray) and not value.dtype.hasobject):
            return self._numbers(value)
        is_shared = issubclass(kind, _SHARED) or (
            self._shares_large and hasattr(kind, "__array__") and len(value) > MANY  # a table
        )
        return self._give(value, value) if is_shared else self._other(value)

    def _give(self, original: Any, made: Any) -> Any:
        self._given[id(original)] = made
        self._originals.append(original)
        return _same, (original,)

    def _leave(self, value: Any) -> Any:
        return self._give(value, _Absent(type(value).__name__))

    def _module(self, module: nn.Module) -> Any:
        inner = uncompiled(module)
        if inner is not module:
            return _same, (inner,)
        if isinstance(module, torch.jit.ScriptModule) or hasattr(type(module), "__del__"):
            raise TypeError(f"a {type(module).__name__} cannot be copied")
        # nn.Module's own, which leaves out what `module.compile()` left: a parametrized module's refuses.
        state = {**nn.Module.__getstate__(module)}  # type: ignore[no-untyped-call]  # torch has no type here
        state |= dict.fromkeys(_OWNERS & state.keys())
        for name in _HOOKS & state.keys():
            kept = ((key, hook) for key, hook in state[name].items() if not _is_foreign(hook))
            state[name] = type(state[name])(kept)
        return object.__new__, (type(module),), state, None, None, _fill

    def _numbers(self, value: Any) -> Any:
        is_large = (self._traces or self._shares_large) and self._bytes + value.nbytes > MOST_BYTES
        self._bytes += 0 if is_large else value.nbytes
        if is_large and self._shares_large:
            return self._give(value, value)
        if not isinstance(value, Tensor):
            zeros = np.broadcast_to(np.zeros((), value.dtype), value.shape)
            return self._give(value, zeros if is_large else np.array(value))
        one = torch.zeros((), dtype=value.dtype, device=value.device)
        return self._give(value, _alike(value, one.expand(value.shape) if is_large else value.detach().clone()))

    def _function(self, function: FunctionType) -> Any:
        """A function that closes over a module, as a patched `forward` does, would change the original."""
        own = (function.__defaults__, function.__kwdefaults__, vars(function))
        if not function.__closure__ and not ("<locals>" in function.__qualname__ and any(own)):
            return self._give(function, function)
        self._give(function.__globals__, function.__globals__)
        named = {name: getattr(function, name) for name in ("__kwdefaults__", "__qualname__", "__module__")}
        parts = (function.__code__, function.__globals__, function.__name__, own[0], function.__closure__)
        return FunctionType, parts, (vars(function), named)

    def _cell(self, cell: CellType) -> Any:
        try:
            return CellType, (), (None, {"cell_contents": cell.cell_contents})
        except ValueError:  # still empty
            return CellType, ()

    def _builtin(self, method: BuiltinMethodType) -> Any:
        is_plain = method.__self__ is None or isinstance(method.__self__, _SHARED)
        return self._give(method, method) if is_plain else (_bound, (method.__self__, method.__name__))

    def _other(self, value: Any) -> Any:
        kind = type(value)
        if issubclass(kind, self._trainers):
            return self._give(value, None)
        # A copy that is thrown away might close what the original still uses; a logger's would open another file.
        if hasattr(kind, "__del__") or issubclass(kind, self._loggers):
            return self._leave(value)
        try:
            if kind.__module__.partition(".")[0] == "torch" and hasattr(kind, "__deepcopy__"):  # often its only way
                return self._give(value, copy.deepcopy(value))
            reduce: Any = copyreg.dispatch_table.get(kind)
            reduced = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception:  # noqa: BLE001  # whatever says that it cannot be copied
            return self._leave(value)
        return self._give(value, value) if isinstance(reduced, str) else reduced


_BY_TYPE: dict[type, Callable[[Twins, Any], Any]] = {
    FunctionType: Twins._function,
    CellType: Twins._cell,
    MethodType: lambda _, method: (MethodType, (method.__func__, method.__self__)),
    BuiltinMethodType: Twins._builtin,
    weakref.ReferenceType: lambda _, reference: (weakref.ref, (reference(),)),  # a dead one refuses
    weakref.ProxyType: Twins._leave,
    weakref.CallableProxyType: Twins._leave,
    _CACHED: Twins._leave,  # of a method that is bound, it would call the original
}


class _Reader(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, given: dict[int, Any]) -> None:
        super().__init__(stream)
        self._given = given

    def persistent_load(self, key: int) -> Any:
        return self._given[key]


def _alike(tensor: Tensor, own: Tensor) -> Tensor:
    """Return a tensor that is a parameter, or has a gradient, where the other one does."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(own, tensor.requires_grad)
    return own.requires_grad_(tensor.requires_grad)


def _same(value: Any) -> Any:
    return value


def _bound(owner: Any, name: str) -> Any:
    return owner if type(owner) is _Absent else getattr(owner, name)


def _fill(module: nn.Module, state: dict[str, Any]) -> None:
    vars(module).update(state)


@contextmanager
def shared_state_kept(module: nn.Module) -> Iterator[None]:
    """Put back what the files that define a module's parts held before the block: it has no twin.

    That is a counter of a class, a list at the top of a file or deep inside of what is there, one that is a default of
    a function, a function's cache. Torch's own files are what a tracing works with.
    """
    names = {cls.__module__ for part in module.modules() for cls in type(part).__mro__} & sys.modules.keys()
    kept = _reachable({name for name in names if name.partition(".")[0] not in ("torch", "builtins")})
    before = [_content(one) for one in kept]
    try:
        yield
    finally:
        for one, old in zip(kept, before, strict=True):
            new = _content(one)
            if len(new) == len(old) and all(a is b for a, b in zip(_flat(new), _flat(old), strict=True)):
                continue
            if isinstance(one, type):
                for name in [name for name in {**new, **old} if new.get(name, one) is not old.get(name, one)]:
                    setattr(one, name, old[name]) if name in old else delattr(one, name)
            elif isinstance(one, dict):  # another thread may be reading the names of a file
                one.update(old)
                for name in new.keys() - old.keys():
                    del one[name]
            elif isinstance(one, list | set | deque):
                one.clear()
                one.update(old) if isinstance(one, set) else one.extend(old)
            else:
                one.cache_clear()


def _reachable(names: set[str]) -> list[Any]:
    """Return what can change in the files of these names: containers, their own classes, caches of functions."""
    found: dict[int, Any] = {}
    waiting: list[Any] = [vars(sys.modules[name]) for name in names]
    while waiting and len(found) < MOST_OBJECTS:
        one = waiting.pop()
        kind = type(one)
        if id(one) in found:
            continue
        if kind is FunctionType and one.__module__ in names:
            waiting += one.__defaults__ or (), one.__kwdefaults__ or {}
        elif kind in (list, dict, set, deque, tuple, _CACHED) or (issubclass(kind, type) and one.__module__ in names):
            found[id(one)] = one
            waiting += _flat(_content(one))[:MANY]
        elif kind.__module__ in names and not issubclass(kind, nn.Module | type):
            waiting.append(getattr(one, "__dict__", None))
    return list(found.values())


def _content(one: Any) -> Any:
    if type(one) is _CACHED:
        return [None] * one.cache_info().misses
    return dict(vars(one)) if isinstance(one, type) else copy.copy(one)


def _flat(values: Any) -> list[Any]:
    return [*values, *values.values()] if isinstance(values, dict) else list(values)


def _is_foreign(hook: Any) -> bool:
    """Whether a hook is its owner's; those of `torch.nn.utils` compute the weights."""
    home: str = getattr(hook, "__module__", None) or type(hook).__module__
    return not home.startswith("torch.nn.utils")
