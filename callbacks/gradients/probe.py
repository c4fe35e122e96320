"""Read gradients and weights around a step: norms of all elements, samples, and histograms of these."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from callbacks.loggers.base import Histogram
from callbacks.readers.autograd import unwrapped_name

TOTAL = "total"  # stands where a layer's name stands, for all of them


@dataclass(frozen=True)
class Place:
    """Where a parameter stands."""

    index: int  # number of its layer, in the order in which the module registers them: the input's first
    layer: str  # path of the module that owns it, e.g. `encoder.0`
    name: str  # path of the parameter, e.g. `encoder.0.weight`


def places(module: nn.Module) -> dict[Tensor, Place]:
    """Return the place of every parameter of a module, a tied one under its first owner alone.

    A layer is a module with parameters of its own. Those of the outermost module itself go by its class's name.
    """
    found: dict[Tensor, Place] = {}
    index = 0
    for path, part in module.named_modules():
        own = [(name, p) for name, p in part.named_parameters(recurse=False) if p not in found]
        if own:
            clean = unwrapped_name(path)
            layer = clean or type(module).__name__
            layer = f"{layer} (layer)" if layer == TOTAL else layer
            for name, parameter in own:
                found[parameter] = Place(index, layer, f"{clean}.{name}" if clean else name)
            index += 1
    return found


def sharded(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return those of which this rank holds a part alone: what is said of the part is not true of the whole."""
    loaded = sys.modules.get("torch.distributed.tensor")  # heavy to import, and without it there can be none
    kind = getattr(loaded, "DTensor", None)
    return [] if kind is None else [p for p in parameters if isinstance(p, kind)]


ALL = 2**22  # elements read in all: 16 MiB a row
GRADIENT, WEIGHT, UPDATE = range(3)  # rows of the buffer
NONZERO = GRADIENT  # what is left in the gradient's row once it was read

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the 2-norm of each tensor, scalars on the first one's device; half precision is summed in single."""
    if not tensors:
        return []
    kinds = {(t.dtype, t.device) for t in tensors}
    if len(kinds) == 1:
        half = tensors[0].dtype in (torch.float16, torch.bfloat16)
        return list(torch._foreach_norm(list(tensors), 2.0, torch.float32 if half else None))
    found = [norms([t])[0] for t in tensors]
    return [norm.to(found[0]) for norm in found]


class Probe:
    """Reads gradients and weights around a step of one optimizer, without a host sync.

    Gradient norms are of all elements. For the rest up to `sample` evenly spaced elements of every parameter are copied
    into one buffer; a smaller one is there whole. Complex numbers count as pairs of reals. The parameters are those
    that have a gradient, layer by layer, each with its place.
    """

    def __init__(self, parameters: Sequence[Tensor], placed: Sequence[Place], *, sample: int) -> None:
        self.parameters = list(parameters)
        self.places = list(placed)
        self.layers = list(dict.fromkeys(place.layer for place in placed))
        limit = min(sample, max(ALL // len(parameters), 1))
        self._sizes = [_real(p.detach()).numel() for p in parameters]
        self._strides = [_stride(size, limit) for size in self._sizes]
        self.slots = [-(-size // stride) for size, stride in zip(self._sizes, self._strides, strict=True)]
        self.whole = True  # whether it reads all gradients of the optimizer
        self._sparse = [i for i, p in enumerate(parameters) if p.grad is not None and p.grad.is_sparse]
        self._plain = not self._sparse and not any(p.is_complex() for p in parameters)
        self._starts = [i for i, p in enumerate(placed) if not i or p.layer != placed[i - 1].layer]
        self.numels = self.by_layer(np.array(self._sizes, float))
        self._scales = np.tile(np.array(self._sizes) / np.array(self.slots), (3, 1))
        self._scales[NONZERO, self._sparse] = 1.0  # counted whole
        self._scattered = len({p.device for p in parameters}) > 1
        self._addresses: list[int] = []
        self._are_views = False  # of a parameter that is not contiguous a flat copy is read
        self._weights: list[Tensor] = []
        self._kept: Tensor | None = None

    @torch.no_grad()
    def gradient_norms(self, unscale: Tensor | None = None) -> Tensor:
        """Return the 2-norm of each parameter's gradient, times `unscale`."""
        if self._plain:
            gradients = [p.grad for p in self.parameters]  # all have one: the probe was made for those
            found = torch.stack(norms(gradients))  # type: ignore[arg-type]  # see above
        else:
            found = torch.stack(norms([_stored(_gradient(p)) for p in self.parameters]))
        return found if unscale is None else found * unscale

    @torch.no_grad()
    def keep(self, unscale: Tensor | None = None) -> None:
        """Copy gradients, times `unscale`, and weights into the buffer, before the step."""
        gradients = [_gradient(p) for p in self.parameters]
        self._counts = [torch.count_nonzero(_stored(gradients[i])) for i in self._sparse]
        for i in self._sparse:  # the slot stays empty: what is stored is counted outside
            gradients[i] = self._buffer.new_zeros(()).expand(self._sizes[i])
        self._gather(GRADIENT, self._parts(gradients))
        if unscale is not None:
            self._buffer[GRADIENT].mul_(unscale)
        self._read_weights(WEIGHT)

    @torch.no_grad()
    def after(self) -> Tensor:
        """Return 2-norms `[rows, parameters]` of what was kept and its change, still on the device.

        NONZERO is the root of a count.
        """
        kept = self._buffer
        self._read_weights(UPDATE)
        kept[UPDATE].sub_(kept[WEIGHT])
        torch.ne(kept[GRADIENT], 0, out=kept[NONZERO])
        found = torch.stack(norms(kept.view(-1).split_with_sizes(3 * self.slots))).view(3, -1)
        for i, count in zip(self._sparse, self._counts, strict=True):
            found[NONZERO, i] = count.to(found).sqrt()
        return found

    def samples(self, which: Sequence[int], limit: int) -> Tensor:
        """Return elements of some parameters' gradients, then of their weights, as kept before the step."""
        parts = []
        for row in (GRADIENT, WEIGHT):
            slots = self._buffer[row].split_with_sizes(self.slots)
            parts += [slots[i][:: _stride(self.slots[i], limit)] for i in which]
        return torch.cat(parts)

    def sample_sizes(self, which: Sequence[int], limit: int) -> list[int]:
        """Return how many elements of each of these parameters `samples` gives."""
        return [-(-self.slots[i] // _stride(self.slots[i], limit)) for i in which]

    def is_sparse(self, index: int) -> bool:
        """Return whether a parameter's gradient is sparse."""
        return index in self._sparse

    def by_layer(self, numbers: Array) -> Array:
        """Sum numbers `[…, parameters]` to `[…, layers + 1]`, the last for all layers together."""
        sums = np.empty((*numbers.shape[:-1], len(self.layers) + 1))
        np.add.reduceat(numbers, self._starts, axis=-1, out=sums[..., :-1])
        np.add.reduce(sums[..., :-1], axis=-1, out=sums[..., -1])
        return sums

    def squares(self, found: Array) -> Array:
        """Return square sums `[…, rows, layers + 1]` over all elements, of what `after` gives; NONZERO is a count."""
        squares = found**2
        squares[..., NONZERO, :] = squares[..., NONZERO, :].round()  # a count went through a root and back
        return self.by_layer(squares * self._scales)

    @property
    def _buffer(self) -> Tensor:
        if self._kept is None:
            double = any(p.dtype in (torch.float64, torch.complex128) for p in self.parameters)
            dtype = torch.float64 if double else torch.float32
            with torch.inference_mode(False):  # one made in inference mode could not be written to out of it
                self._kept = torch.zeros(3, sum(self.slots), dtype=dtype, device=self.parameters[0].device)
        return self._kept

    def _read_weights(self, row: int) -> None:
        # What is kept of the old ones keeps their addresses from being used again.
        addresses = [p.data_ptr() for p in self.parameters]
        if addresses != self._addresses or not self._are_views:
            self._addresses = addresses
            self._weights = self._parts([p.detach() for p in self.parameters])
            self._are_views = all(p.is_contiguous() for p in self.parameters)
        self._gather(row, self._weights)

    def _parts(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [_part(tensor, stride) for tensor, stride in zip(tensors, self._strides, strict=True)]

    def _gather(self, row: int, parts: list[Tensor]) -> None:
        if self._scattered:
            parts = [part.to(self._buffer.device) for part in parts]
        torch.cat(parts, out=self._buffer[row])


def _gradient(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    assert gradient is not None  # the probe was made for those that have one
    return gradient.coalesce() if gradient.is_sparse else gradient


def _stored(tensor: Tensor) -> Tensor:
    return _real(tensor.values() if tensor.is_sparse else tensor)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _part(tensor: Tensor, stride: int) -> Tensor:
    # In the order of memory where that spares a copy of the whole.
    tensor = _real(tensor)
    if stride > 1 and tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    flat = tensor.reshape(-1)
    return flat if stride == 1 else flat[::stride]


def _stride(size: int, limit: int) -> int:
    # A stride that shares a factor with the width of the rows would see some columns alone.
    stride = -(-size // limit)
    while stride > 1 and math.gcd(stride, size) > 1:
        stride += 1
    return stride


KEPT = 4  # probes of one optimizer: which parameters get a gradient may change from step to step
MOST = 128  # parameters with a histogram: more nobody looks through, and each costs 1 kB a moment
PER_HISTOGRAM = 2048  # elements; their 26 counts are within 12 % of what all elements would give


@dataclass
class Moment:
    """A step that was read; what it holds is still on the device."""

    step: int  # on the loggers' axis
    probe: Probe  # who read it
    total: str  # what the sum over all layers is called
    gradients: Tensor  # norms of the gradients, a parameter each
    clipped: Tensor | None = None  # the same after clipping, if that was asked for
    follows: bool = False  # whether weights are read around the step
    updates: Tensor | None = None  # what `Probe.after` gave, if so
    samples: Tensor | None = None  # what `Probe.samples` gave, if it was time for histograms


@dataclass(eq=False)
class GradientReader:
    """Makes the probe for what one optimizer is about to change."""

    module: nn.Module  # gives the names
    sample: int  # elements of a parameter that are read, at most
    left_out: Callable[[Sequence[str]], None]  # told the names of the parameters that cannot be read

    def __post_init__(self) -> None:
        self._places = places(self.module)
        self._probes: dict[tuple[tuple[int, int, bool], ...], Probe | None] = {}

    def probe(self, optimizer: Optimizer) -> Probe | None:
        """Return the probe for the parameters that have a gradient now; None if none has."""
        found = [(p, p.grad) for group in optimizer.param_groups for p in group["params"]]
        # An id holds while the probe does.
        key = tuple([(id(p), p.numel(), grad.is_sparse) for p, grad in found if grad is not None])
        if key not in self._probes:
            if len(self._probes) >= KEPT:
                self._probes.clear()
            self._probes[key] = self._make([p for p, grad in found if grad is not None])
        return self._probes[key]

    def _make(self, live: list[Tensor]) -> Probe | None:
        skipped = {id(p) for p in sharded(live)}
        if any(p not in self._places for p in live):
            self._places = places(self.module)  # a parameter was added
        if skipped:
            self.left_out([self._place(p).name for p in live if id(p) in skipped])
        ordered = sorted((p for p in live if id(p) not in skipped), key=lambda p: self._place(p).index)
        if not ordered:
            return None
        probe = Probe(ordered, [self._place(p) for p in ordered], sample=self.sample)
        probe.whole = not skipped
        return probe

    def _place(self, parameter: Tensor) -> Place:
        outside = len(self._places)  # a parameter that the optimizer has and the module has not
        return self._places.get(parameter) or Place(outside, "elsewhere", f"elsewhere.{outside}")


def shown(probe: Probe) -> list[int]:
    """Return which parameters of a probe get histograms: all, or an even choice over the depth.

    A bias beside a matrix gets none: to write it costs as much as the matrix, and it tells less.
    """
    wide = {place.layer for p, place in zip(probe.parameters, probe.places, strict=True) if p.ndim > 1}
    places = enumerate(zip(probe.parameters, probe.places, strict=True))
    kept = [i for i, (p, place) in places if p.ndim > 1 or place.layer not in wide]
    return kept if len(kept) <= MOST else [kept[i * len(kept) // MOST] for i in range(MOST)]


BINS = 30  # TensorBoard's Histograms tab lays what it gets over 30 bins of its own

Whole = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def histograms(values: Array, sizes: Sequence[int]) -> list[Histogram | None]:
    """Return one for each of the groups of `sizes` that `values` consists of, none of them empty.

    Counts are of the finite values, between the smallest and the largest; None where there are none, or where they lie
    further apart than a number can tell. Bins are as many as Rice's rule says, twice the cube root of the numbers
    (https://en.wikipedia.org/wiki/Histogram#Rice_rule), and at most 30.
    """
    starts = np.cumsum([0, *sizes[:-1]])
    lows, highs = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    with np.errstate(over="ignore", invalid="ignore"):
        spans = highs - lows
    if np.isfinite(spans).all():
        return list(_finite(values, np.asarray(sizes), starts, lows=lows, highs=highs))
    found: list[Histogram | None] = []  # broken ones are dear, and rare
    for group in np.split(values, starts[1:]):
        kept = group[np.isfinite(group)]
        with np.errstate(over="ignore"):
            tellable = len(kept) > 0 and bool(np.isfinite(np.ptp(kept)))
        found += histograms(kept, [len(kept)]) if tellable else [None]
    return found


def _finite(values: Array, sizes: Whole, starts: Whole, *, lows: Array, highs: Array) -> list[Histogram]:
    margins = np.where(lows == highs, np.maximum(np.abs(lows) * 1e-3, 1e-12), 0.0)  # one value stands in the middle
    lows, highs = lows - margins, highs + margins
    bins = np.array([bins_for(int(size)) for size in sizes])
    firsts = np.cumsum(bins) - bins
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        places = ((values - np.repeat(lows, sizes)) * np.repeat(bins / (highs - lows), sizes)).astype(np.int64)
        squares = np.add.reduceat(values * values, starts).tolist()
    places = np.clip(places, 0, np.repeat(bins - 1, sizes)) + np.repeat(firsts, sizes)
    counts = np.bincount(places, minlength=int(bins.sum())).tolist()
    totals = np.add.reduceat(values, starts).tolist()
    edges = zip(lows.tolist(), highs.tolist(), firsts.tolist(), bins.tolist(), strict=True)
    return [
        Histogram(low, high, counts[first : first + many], total, square)
        for (low, high, first, many), total, square in zip(edges, totals, squares, strict=True)
    ]


def bins_for(size: int) -> int:
    """Return how many bins so many numbers get."""
    return min(math.ceil(2 * math.cbrt(size)), BINS)
