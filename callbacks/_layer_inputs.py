"""Sees what the layers of any module are given in the first training steps, by hooks that it takes away again."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

NUMERIC = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.RNNBase)  # what multiplies its inputs by weights


class LayerInputs:
    """Keeps the inputs of the first layer of each step, and how much signal reaches the layers in the first one.

    Hooks stay until `close`. They only look: nothing is returned, kept alive past `next_step`, or done in evaluation.
    A compiled module is not looked into.
    """

    def __init__(self) -> None:
        self.first: tuple[str, nn.Module, Tensor] | None = None  # name, layer, and what it was given in this step
        self.signals: list[tuple[str, Tensor]] = []  # of numeric layers: deviation between rows, mean over units
        self._listening = True
        self._handles: list[RemovableHandle] = []

    def open(self, module: nn.Module) -> None:
        """Hang a hook on each layer that owns parameters."""
        self.close()
        for name, layer in module.named_modules():
            owns = next(layer.parameters(recurse=False), None) is not None
            if owns and layer is not module and not isinstance(layer, torch.jit.ScriptModule):
                self._handles.append(layer.register_forward_pre_hook(_hook(weakref.ref(self), module, name)))

    def see(self, name: str, layer: nn.Module, given: tuple[Any, ...]) -> None:
        """Take down what one layer is given."""
        tensor = given[0] if given and isinstance(given[0], Tensor) else None
        if tensor is None or tensor.ndim < 2 or (tensor.requires_grad and self.first is None):
            return
        if self.first is None:
            self.first = name, layer, tensor.detach()
        if self._listening and isinstance(layer, NUMERIC) and tensor.is_floating_point() and len(tensor) > 1:
            with torch.no_grad():
                self.signals.append((name, tensor.detach()[:32].float().std(0).mean()))

    def next_step(self) -> None:
        """Forget the step's inputs; signals are those of the first step."""
        self.first, self._listening = None, self._listening and not self.signals

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.first = None


def _hook(
    seer: "weakref.ref[LayerInputs]", module: nn.Module, name: str
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """A plain function, so that a copy of the module does not copy what watches it."""
    root = weakref.ref(module)

    def look(layer: nn.Module, given: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling():
            return
        watcher, owner = seer(), root()
        if watcher is not None and owner is not None and owner.training and torch.is_grad_enabled():
            watcher.see(name, layer, given)

    return look
