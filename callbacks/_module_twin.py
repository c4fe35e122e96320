"""A stand-in for a module that shares its tensors: what happens to the stand-in's attributes stays there."""

import copy
from collections.abc import Iterator
from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor, nn
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
