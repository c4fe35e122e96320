"""Reads, now and then, how large weights, gradients and updates are: from a sample of each parameter's elements."""

from collections.abc import Sequence
from math import gcd, nan, sqrt

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
        self._sampler = Sampler(self.parameters)
        self._start = self._sampler.read(self.parameters)
        (self._start_rms,) = self._sampler.rms([self._start])
        self._before: Tensor | None = None
        self._gradients: list[Tensor] = []

    @property
    def armed(self) -> bool:
        """Whether the weights before this step were read."""
        return self._before is not None

    def before_step(self) -> None:
        """Read gradients, and weights as they stand before the optimizer; a second optimizer adds its gradients."""
        self._gradients.append(self._sampler.read([p.grad for p in self.parameters]))
        if self._before is None:
            self._before = self._sampler.read(self.parameters)

    def after_step(self) -> tuple[LayerReading, ...]:
        """Read what the optimizer changed."""
        now = self._sampler.read(self.parameters)
        before = now if self._before is None else self._before
        found = self._sampler.rms([now, now - before, now - self._start, *self._gradients])
        weights, updates, travelled = found[:3]
        gradients = [next((g for g in reversed(each) if g == g), nan) for each in zip(*found[3:], strict=True)]
        self._before, self._gradients = None, []
        rows = zip(
            self.names, self.parameters, weights, self._start_rms, gradients, updates, travelled, strict=True
        )  # fmt: skip
        return tuple(
            LayerReading(name, id(p) in self._matrices, weight, start, gradient, update, way)
            for name, p, weight, start, gradient, update, way in rows
        )


class Sampler:
    """Reads a few elements of each of some tensors into one vector, the same ones each time.

    Args:
        parameters: Of the shapes that will be read.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        strides = [_stride(p.numel()) for p in parameters]
        self._places = [(min(SAMPLE, -(-p.numel() // s)), s) for p, s in zip(parameters, strides, strict=True)]
        self._device = parameters[0].device if parameters else torch.device("cpu")
        sizes = torch.tensor([size for size, _ in self._places], dtype=torch.long)
        self._owner = torch.arange(len(sizes)).repeat_interleave(sizes).to(self._device)
        self._sizes = sizes.to(self._device)

    def read(self, values: Sequence[Tensor | None]) -> Tensor:
        """A copy of the samples, as floats on one device; NaN for a tensor that is missing or sparse."""
        with torch.no_grad():
            parts = [self._part(v, *place) for v, place in zip(values, self._places, strict=True)]
            return torch.cat(parts) if parts else torch.zeros(0, device=self._device)

    def _part(self, value: Tensor | None, size: int, stride: int) -> Tensor:
        if value is None or value.is_sparse:
            return torch.full((size,), nan, device=self._device)
        if type(value) in (Tensor, nn.Parameter) and value.is_contiguous():
            part = value.as_strided((size,), (stride,))  # one operation where `reshape` and slices are four
        else:
            part = value.detach().reshape(-1)[::stride][:SAMPLE]
        if part.dtype == torch.float32 and part.device == self._device:
            return part
        return part.to(self._device, torch.float32)

    def rms(self, samples: Sequence[Tensor]) -> list[list[float]]:
        """The root mean square of each tensor, for each of some samples; NaN where one was missing."""
        if not self._places:
            return [[] for _ in samples]
        squares = torch.stack(list(samples)).square()
        sums = squares.new_zeros(len(samples), len(self._places)).index_add_(1, self._owner, squares)
        return [[sqrt(v) if v >= 0 else nan for v in row] for row in (sums / self._sizes).tolist()]


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
