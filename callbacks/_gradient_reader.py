"""Finds what an optimizer is about to change, and keeps a probe ready for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from callbacks._gradient_norms import Probe
from callbacks._layers import Place, outside, places, sharded

KEPT = 4  # probes of one optimizer: which parameters get a gradient may change from step to step
MOST = 128  # parameters with a histogram: more nobody looks through, and each costs 1 kB a moment
PER_HISTOGRAM = 2048  # elements; their 26 counts are within 12 % of what all elements would give


@dataclass
class Moment:
    """A step that was read; what it holds is still on the device.

    Args:
        step: On the loggers' axis.
        probe: Who read it.
        total: What the sum over all layers is called.
        gradients: Norms of the gradients, a parameter each.
        clipped: The same after clipping, if that was asked for.
        follows: Whether weights are read around the step.
        updates: What `Probe.after` gave, if so.
        samples: What `Probe.samples` gave, if it was time for histograms.
    """

    step: int
    probe: Probe
    total: str
    gradients: Tensor
    clipped: Tensor | None = None
    follows: bool = False
    updates: Tensor | None = None
    samples: Tensor | None = None


class GradientReader:
    """Makes the probe for what one optimizer is about to change.

    Args:
        module: Gives the names.
        sample: Elements of a parameter that are looked at, at most.
        left_out: Told the names of the parameters that cannot be looked at.
    """

    def __init__(self, module: nn.Module, *, sample: int, left_out: Callable[[Sequence[str]], None]) -> None:
        self._module = module
        self._sample = sample
        self._left_out = left_out
        self._places = places(module)
        self._probes: dict[tuple[tuple[int, int, bool], ...], Probe | None] = {}

    def probe(self, optimizer: Optimizer) -> Probe | None:
        """The probe for the parameters that have a gradient now; None if none has."""
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
            self._places = places(self._module)  # a parameter was added
        if skipped:
            self._left_out([self._place(p).name for p in live if id(p) in skipped])
        ordered = sorted((p for p in live if id(p) not in skipped), key=lambda p: self._place(p).index)
        return Probe(ordered, [self._place(p) for p in ordered], sample=self._sample) if ordered else None

    def _place(self, parameter: Tensor) -> Place:
        return self._places.get(parameter) or outside(len(self._places))


def shown(probe: Probe) -> list[int]:
    """Which parameters of a probe get histograms: all, or an even choice over the depth.

    A bias beside a matrix gets none: to write it costs as much as the matrix, and it tells less.
    """
    wide = {place.layer for p, place in zip(probe.parameters, probe.places, strict=True) if p.ndim > 1}
    places = enumerate(zip(probe.parameters, probe.places, strict=True))
    kept = [i for i, (p, place) in places if p.ndim > 1 or place.layer not in wide]
    return kept if len(kept) <= MOST else [kept[i * len(kept) // MOST] for i in range(MOST)]
