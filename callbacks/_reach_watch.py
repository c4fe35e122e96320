"""Which parameters ever got a gradient, and whether an optimizer has them."""

from collections.abc import Sequence
from itertools import chain

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

ENOUGH = 12  # samplings without a gradient; modules that are used now and then have had their turn
STRANGER = 3  # samplings with one


class ReachWatch:
    """Counts, per trainable parameter, the samplings in which its gradient was not zero.

    Args:
        module: Whose parameters to watch.
    """

    def __init__(self, module: nn.Module) -> None:
        self._named = [(n, p) for n, p in module.named_parameters() if p.requires_grad and not is_lazy(p)]
        self._times = [0] * len(self._named)
        self._samplings = 0

    def look(self) -> None:
        """Look at the gradients before a step; parameters that were seen often enough are passed by."""
        self._samplings += 1
        for i, (_, p) in enumerate(self._named):
            if self._times[i] < STRANGER and p.grad is not None and (p.grad.is_sparse or bool(p.grad.any())):
                self._times[i] += 1

    def read(self, optimizers: Sequence[Optimizer]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Parameters that get gradients in no optimizer, and parameters in one that never got any."""
        known = {id(p) for p in chain.from_iterable(g["params"] for o in optimizers for g in o.param_groups)}
        rows = [(n, id(p) in known, times) for (n, p), times in zip(self._named, self._times, strict=True)]
        strangers = tuple(n for n, held, times in rows if not held and times >= STRANGER)
        unreached = tuple(n for n, held, times in rows if held and not times) if self._samplings >= ENOUGH else ()
        return strangers, unreached
