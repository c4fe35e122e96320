"""Counts units that are zero for every sample and units that are saturated, from the graph behind a loss."""

from collections.abc import Sequence

from torch import Tensor

from callbacks._health_facts import Units
from callbacks._loss_graph import Op

WINDOW = 12  # samplings a judgement rests on; then it starts anew, so that late deaths are seen
_CHANNELS_SECOND = ("Convolution", "NativeBatchNorm", "CudnnBatchNorm", "NativeGroupNorm", "MkldnnConvolution")
FLAT = {"Sigmoid": (0.01, 0.99), "Tanh": (-0.99, 0.99)}  # beyond these the slope is below 4 % and 2 % of its greatest


class UnitWatch:
    """Which units of hidden layers were ever alive, and what share of values is saturated, over a window."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._alive: dict[str, Tensor] = {}
        self._saturated: dict[str, list[float]] = {}
        self._kinds: dict[str, str] = {}
        self._samplings = 0

    def look(self, ops: Sequence[Op]) -> None:
        """Take in one batch."""
        self._samplings += 1
        times: dict[str, int] = {}
        for op in ops:
            if not op.hidden or op.kind not in ("Relu", *FLAT):
                continue
            times[op.layer] = times.get(op.layer, 0) + 1
            key = op.layer if times[op.layer] == 1 else f"{op.layer} ({times[op.layer]})"
            result = op.result()
            if result is not None and result.ndim > 1 and result.numel():
                self._kinds[key] = op.kind
                self._take(key, op, result)

    def _take(self, key: str, op: Op, result: Tensor) -> None:
        if op.kind == "Relu":
            unit = _unit_dimension(op, result)
            alive = (result > 0).any([i for i in range(result.ndim) if i != unit])
            old = self._alive.get(key)
            self._alive[key] = alive if old is None or old.shape != alive.shape else old | alive
        else:
            low, high = FLAT[op.kind]
            share = ((result < low) | (result > high)).float().mean().item()
            self._saturated.setdefault(key, []).append(share)

    def full(self) -> bool:
        """Whether a window's worth of batches was seen."""
        return self._samplings >= WINDOW

    def read(self) -> tuple[Units, ...]:
        """What the window shows; begins the next."""
        found = [
            Units(layer, "relu", len(alive), 1 - alive.float().mean().item(), self._samplings)
            for layer, alive in self._alive.items()
        ]
        found += [
            Units(layer, self._kinds[layer].lower(), 0, sorted(shares)[len(shares) // 2], self._samplings)
            for layer, shares in self._saturated.items()
        ]
        self._begin()
        return tuple(found)


def _unit_dimension(op: Op, result: Tensor) -> int:
    """Channels come second after a convolution and in pictures, and last elsewhere."""
    convolved = op.before is not None and op.before.kind in _CHANNELS_SECOND
    return 1 if result.ndim > 3 or (convolved and result.ndim == 3) else result.ndim - 1
