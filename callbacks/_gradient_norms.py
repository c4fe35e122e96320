"""The one door to torch's fused passes over many tensors, and the numbers of a step that they give.

`torch.nn.utils.get_total_norm` is the public twin of `torch._foreach_norm`, but it gives one number for a whole list:
asking it for each layer costs 25 µs and one kernel a tensor, and with thousands of tensors that shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
import torch
from torch import Tensor

from callbacks._layers import Place

ALL = 2**22  # elements looked at in all: 16 MiB a row
DEPTH = 20  # steps kept before they are summed: one pass over all costs little more than one over one
ROOM = 2**19  # elements of what is kept, if more than one step is: 2 MiB, or the model would leave the cache for it
GRADIENT, NONZERO, WEIGHT, UPDATE, CLIPPED = range(5)  # rows of the buffer

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The 2-norm of each tensor, scalars on the first one's device; half precision is summed in single."""
    if not tensors:
        return []
    kinds = {(t.dtype, t.device) for t in tensors}
    if len(kinds) == 1:
        half = tensors[0].dtype in (torch.float16, torch.bfloat16)
        return list(torch._foreach_norm(list(tensors), 2.0, torch.float32 if half else None))
    found = [norms([t])[0] for t in tensors]
    return [norm.to(found[0]) for norm in found]


@dataclass(frozen=True)
class Segment:
    """A stretch of the buffer that is summed by itself: one parameter, or a layer's small ones together."""

    layer: int  # position among the layers looked at
    size: int  # elements in the buffer
    scale: float  # elements of the parameters for each one in the buffer
    whole: int = -1  # position among the parameters whose gradient is summed outside the buffer, or -1


class Probe:
    """Reads gradients and weights around a step of one optimizer, without a host sync.

    Of every parameter up to `sample` evenly spaced elements are copied into one buffer; a smaller one is there whole.
    Gradient norms of larger ones are of all their elements nevertheless. Complex numbers count as pairs of reals.

    Args:
        parameters: Those that have a gradient, layer by layer.
        placed: Where each of them stands.
        sample: Elements of a parameter that are looked at, at most.
        clips: Whether gradients are read again after clipping.
    """

    def __init__(
        self, parameters: Sequence[Tensor], placed: Sequence[Place], *, sample: int, clips: bool = False
    ) -> None:
        self._clips = clips
        self.parameters = list(parameters)
        self.places = list(placed)
        self.layers = list(dict.fromkeys(place.layer for place in placed))
        limit = min(sample, max(ALL // len(parameters), 1))
        sizes = [_real(p.detach()).numel() for p in parameters]
        self._sizes = sizes
        self._scattered = len({p.device for p in parameters}) > 1
        self._addresses: list[int] = []
        self._are_views = False  # of a parameter that is not contiguous a flat copy is read
        self._weights: list[Tensor] = []
        self._strides = [_stride(size, limit) for size in sizes]
        self.slots = [-(-size // stride) for size, stride in zip(sizes, self._strides, strict=True)]
        sparse = [p.grad is not None and p.grad.is_sparse for p in parameters]
        self._whole = [i for i, stride in enumerate(self._strides) if stride > 1 or sparse[i]]
        self._sparse = [i for i in self._whole if sparse[i]]
        self.segments = self._divide(sizes)
        self.numels = np.zeros(len(self.layers))
        np.add.at(self.numels, [self.layers.index(place.layer) for place in placed], sizes)
        self._starts = [i for i, s in enumerate(self.segments) if not i or s.layer != self.segments[i - 1].layer]
        self._outside = [i for i, segment in enumerate(self.segments) if segment.whole >= 0]
        self._sparse_segments = [i for i in self._outside if self._whole[self.segments[i].whole] in self._sparse]
        self._scales = np.array([segment.scale for segment in self.segments])
        double = any(p.dtype in (torch.float64, torch.complex128) for p in parameters)
        dtype = torch.float64 if double else torch.float32
        size = sum(self.slots)
        depth = min(max(ROOM // (5 * size), 1), DEPTH)
        self._kept = torch.zeros(depth, 5, size, dtype=dtype, device=parameters[0].device)
        self._norms: dict[int, list[list[Tensor]]] = {GRADIENT: [], CLIPPED: []}  # of whole gradients, a step each
        self._counts: list[list[Tensor]] = []
        self._taken = 0
        self._summed: list[Tensor] = []

    def _divide(self, sizes: Sequence[int]) -> list[Segment]:
        found: list[Segment] = []
        for i, (place, slot) in enumerate(zip(self.places, self.slots, strict=True)):
            layer = self.layers.index(place.layer)
            last = found[-1] if found else None
            if i in self._whole:
                found.append(Segment(layer, slot, sizes[i] / slot, self._whole.index(i)))
            elif last is not None and last.layer == layer and last.whole < 0:
                found[-1] = Segment(layer, last.size + slot, 1.0)
            else:
                found.append(Segment(layer, slot, 1.0))
        return found

    @torch.no_grad()
    def before(self, unscale: Tensor | None = None) -> None:
        """Read gradients and weights before the step; `unscale` is what gradients are to be multiplied by."""
        for kept in (*self._norms.values(), self._counts):
            del kept[self._taken :]  # of a step that was begun and not taken
        self._norms[GRADIENT].append(self._read_gradients(GRADIENT, unscale))
        self._counts.append([torch.count_nonzero(_stored(_gradient(self.parameters[i]))) for i in self._sparse])
        self._read_weights(WEIGHT)

    @torch.no_grad()
    def clipped(self, unscale: Tensor | None = None) -> None:
        """Read the gradients again after clipping."""
        self._norms[CLIPPED].append(self._read_gradients(CLIPPED, unscale))

    @torch.no_grad()
    def after(self) -> None:
        """Read the weights after the step, which is complete then."""
        self._read_weights(UPDATE)
        if self._clips and len(self._norms[CLIPPED]) == self._taken:  # left out by a scaler before anything clipped
            self._kept[self._taken, CLIPPED].fill_(torch.nan)
            self._norms[CLIPPED].append([norm * torch.nan for norm in self._norms[GRADIENT][-1]])
        self._taken += 1
        if self._taken == len(self._kept):
            self._sum_up()

    @torch.no_grad()
    def collect(self) -> Tensor:
        """2-norms `[steps, rows, segments]` of the steps since it was last asked; NONZERO is the root of a count.

        Still on the device. There is a row CLIPPED if something may clip.
        """
        if self._taken:
            self._sum_up()
        summed, self._summed = self._summed, []
        return torch.cat(summed)

    def _sum_up(self) -> None:
        kept = self._kept[: self._taken]
        torch.ne(kept[:, GRADIENT], 0, out=kept[:, NONZERO])
        kept[:, UPDATE].sub_(kept[:, WEIGHT])
        found = self._reduced(kept if self._clips else kept[:, :CLIPPED])
        for row, whole in self._norms.items():
            if self._whole and (row == GRADIENT or self._clips):
                found[:, row, self._outside] = _square(whole, found)
        if self._sparse:
            found[:, NONZERO, self._sparse_segments] = _square(self._counts, found).sqrt()
        self._norms, self._counts, self._taken = {GRADIENT: [], CLIPPED: []}, [], 0
        self._summed.append(found)

    def _reduced(self, kept: Tensor) -> Tensor:
        sizes = [segment.size for segment in self.segments]
        if len(kept) == 1:  # many segments: one fused pass
            rows = [norms(row.split_with_sizes(sizes)) for row in kept[0]]
            return torch.stack([torch.stack(row) for row in rows]).unsqueeze(0)
        parts = kept.split_with_sizes(sizes, dim=2)
        return torch.stack([torch.linalg.vector_norm(part, dim=2) for part in parts], dim=2)

    def samples(self, which: Sequence[int], limit: int) -> Tensor:
        """Elements of some parameters' gradients, then of their weights, as read before the step."""
        parts = []
        for row in (GRADIENT, WEIGHT):
            slots = self._kept[self._taken, row].split_with_sizes(self.slots)
            parts += [slots[i][:: _stride(self.slots[i], limit)] for i in which]
        return torch.cat(parts)

    def sample_sizes(self, which: Sequence[int], limit: int) -> list[int]:
        """How many elements of each of these parameters `samples` gives."""
        return [-(-self.slots[i] // _stride(self.slots[i], limit)) for i in which]

    def is_sparse(self, index: int) -> bool:
        """Whether a parameter's gradient is sparse."""
        return index in self._sparse

    def by_layer(self, numbers: Array) -> Array:
        """Sums of squares `[steps, rows, layers]` out of what `collect` gave; NONZERO is a count."""
        squares = numbers**2
        squares[:, NONZERO] = squares[:, NONZERO].round()  # a count went through a root and back
        scales = np.ones((squares.shape[1], squares.shape[2]))
        scales[NONZERO : UPDATE + 1] = self._scales
        scales[NONZERO, self._sparse_segments] = 1.0  # counted whole
        return np.asarray(np.add.reduceat(squares * scales, self._starts, axis=2))

    def _read_gradients(self, row: int, unscale: Tensor | None) -> list[Tensor]:
        gradients = [_gradient(p) for p in self.parameters]
        whole = norms([_stored(gradients[i]) for i in self._whole])
        for i in self._sparse:  # the slot stays empty: what is stored is summed outside
            gradients[i] = self._kept.new_zeros(()).expand(self._sizes[i])
        self._gather(row, [_part(g, stride) for g, stride in zip(gradients, self._strides, strict=True)])
        if unscale is not None:
            self._kept[self._taken, row].mul_(unscale)
            whole = [norm * unscale for norm in whole]
        return whole

    def _read_weights(self, row: int) -> None:
        addresses = [p.data_ptr() for p in self.parameters]
        if (
            addresses != self._addresses or not self._are_views
        ):  # what is kept of the old ones keeps their addresses from being used again
            self._addresses = addresses
            self._weights = [
                _part(p.detach(), stride) for p, stride in zip(self.parameters, self._strides, strict=True)
            ]
            self._are_views = all(p.is_contiguous() for p in self.parameters)
        self._gather(row, self._weights)

    def _gather(self, row: int, parts: list[Tensor]) -> None:
        if self._scattered:
            parts = [part.to(self._kept.device) for part in parts]
        torch.cat(parts, out=self._kept[self._taken, row])


def _square(rows: list[list[Tensor]], like: Tensor) -> Tensor:
    return torch.stack([torch.stack([value.to(like) for value in row]) for row in rows])


def _gradient(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    assert gradient is not None  # the probe was made for those that have one
    return gradient.coalesce() if gradient.is_sparse else gradient


def _stored(tensor: Tensor) -> Tensor:
    return _real(tensor.values() if tensor.is_sparse else tensor)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _part(tensor: Tensor, stride: int) -> Tensor:
    """Every stride-th element; of a large one in the order of memory where that spares a copy of the whole."""
    if tensor.is_complex():
        tensor = _real(tensor)
    if stride > 1 and tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    flat = tensor.reshape(-1)
    return flat if stride == 1 else flat[::stride]


def _stride(size: int, limit: int) -> int:
    """Steps that reach at most `limit` of `size` elements, and in a matrix every column as often as any other.

    A stride that shares a factor with the width of the rows would see some columns alone.
    """
    stride = -(-size // limit)
    while stride > 1 and gcd(stride, size) > 1:
        stride += 1
    return stride
