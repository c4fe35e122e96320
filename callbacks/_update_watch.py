"""Reads, now and then, how large weights, gradients and updates are: from a sample of each parameter's elements."""

from collections.abc import Sequence
from math import gcd, nan, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callbacks._health_facts import LayerReading, WeightStart

SAMPLE = 64  # elements of a parameter; its root mean square is then right to about 9 %
_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class UpdateWatch:
    """Weights, gradients and updates of the trainable parameters of a module.

    Args:
        module: Whose parameters to watch; lazy, complex and quantised ones are passed by.
    """

    def __init__(self, module: nn.Module) -> None:
        self._matrices = {id(part.weight) for part in module.modules() if isinstance(part, _MATRICES)}
        embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
        named = [
            (name, p)
            for name, p in module.named_parameters()
            if p.requires_grad and not is_lazy(p) and p.is_floating_point() and p.numel() and id(p) not in embeddings
        ]
        self.names = [name for name, _ in named]
        self.parameters = [p for _, p in named]
        self._strides = [_stride(p.numel()) for p in self.parameters]
        self._start = self._read(self.parameters)
        self._start_rms = self._rms(self._start)
        self._before: list[Tensor | None] | None = None
        self._gradients = [nan] * len(named)

    @property
    def armed(self) -> bool:
        """Whether the weights before this step were read."""
        return self._before is not None

    def before_step(self) -> None:
        """Read gradients, and weights as they stand before the optimizer; a second optimizer adds its gradients."""
        gradients = self._rms(self._read([p.grad for p in self.parameters]))
        if self._before is None:
            self._before, self._gradients = self._read(self.parameters), gradients
        else:
            self._gradients = [new if new == new else old for new, old in zip(gradients, self._gradients, strict=True)]

    def after_step(self) -> tuple[LayerReading, ...]:
        """Read what the optimizer changed."""
        now = self._read(self.parameters)
        updates = self._rms(_differences(now, self._before or now))
        travelled = self._rms(_differences(now, self._start))
        self._before = None
        rows = zip(
            self.names,
            self.parameters,
            self._rms(now),
            self._start_rms,
            self._gradients,
            updates,
            travelled,
            strict=True,
        )
        return tuple(
            LayerReading(name, id(p) in self._matrices, weight, start, gradient, update, way)
            for name, p, weight, start, gradient, update, way in rows
        )

    def _read(self, values: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [_sample(v, stride) for v, stride in zip(values, self._strides, strict=True)]

    @staticmethod
    def _rms(samples: Sequence[Tensor | None]) -> list[float]:
        there = [(i, s) for i, s in enumerate(samples) if s is not None]
        found = [nan] * len(samples)
        if there:
            device = there[0][1].device
            squares = torch.stack([s.square().mean().to(device) for _, s in there]).tolist()
            for (i, _), square in zip(there, squares, strict=True):
                found[i] = sqrt(square) if square >= 0 else nan
        return found


def weights_at_start(module: nn.Module) -> tuple[WeightStart, ...]:
    """What the weight matrices of linear and convolutional layers hold before the first step."""
    found = []
    for name, part in module.named_modules():
        if not isinstance(part, _MATRICES) or is_lazy(part.weight) or not part.weight.is_floating_point():
            continue
        rows = part.weight.detach().flatten(1).float()
        if not rows.numel():
            continue
        alike = len(rows) > 1 and getattr(part, "groups", 1) == 1 and bool((rows == rows[:1]).all())
        rms, peak = torch.stack([rows.square().mean().sqrt(), rows.abs().max()]).tolist()
        found.append(WeightStart(name, rows.shape[1], rows.numel(), rms, peak, alike, part.weight.requires_grad))
    return tuple(found)


def _stride(size: int) -> int:
    """A step through all elements that does not follow a row or a column."""
    stride = max(1, size // SAMPLE)
    while gcd(stride, size) != 1:
        stride -= 1
    return stride


def _sample(values: Tensor | None, stride: int) -> Any:
    if values is None or values.is_sparse:
        return None
    return values.detach().reshape(-1)[::stride][:SAMPLE].float().clone()


def _differences(new: Sequence[Tensor | None], old: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if a is None or b is None else a - b for a, b in zip(new, old, strict=True)]
