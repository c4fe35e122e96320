"""Activations of many trials at once, where they are to the last bit those of one trial after the other."""

from functools import cache

import torch
from torch import Tensor, nn

from lightning_mods.layer_rules import Activation, activation_of
from lightning_mods.trial_group_products import aligned, as_aligned

_aten = torch.ops.aten
_RELU = activation_of(nn.ReLU())
_TRIED = 3  # trials of the comparison


class GroupActivation:
    """An activation of values `[T, B, W]`.

    Args:
        rule: Of one trial.
    """

    def __init__(self, rule: Activation) -> None:
        self._rule = rule

    def forward(self, z: Tensor) -> Tensor:
        """From the sums to the values; may write into z."""
        if self._is_equal(z):
            return self._rule.forward(z)
        return torch.stack([self._rule.forward(each) for each in z])

    def backward(self, grad: Tensor, z: Tensor, h: Tensor) -> Tensor:
        """From the gradient of the values, which may be overwritten, to that of the sums; aligned."""
        if self._rule is _RELU:  # in place: a new tensor of this size is new memory each time, and costs the tenfold
            in_place: Tensor = _aten.threshold_backward.grad_input(grad, h, 0, grad_input=grad)
            return in_place
        if self._is_equal(z):
            return as_aligned(self._rule.backward(grad, z, h))
        parts = zip(grad, z, h, strict=True)
        return as_aligned(torch.stack([self._rule.backward(*part) for part in parts]))

    def _is_equal(self, z: Tensor) -> bool:
        return _is_equal(self._rule, z.shape[1], z.shape[2], z.device)


@cache
def _is_equal(rule: Activation, rows: int, width: int, device: torch.device) -> bool:
    """Whether all trials at once give what each alone does, tried on random numbers.

    GELU does not where a trial's values end within a vector: torch hands it to oneDNN only if it lies in one piece.
    """
    draw = torch.Generator().manual_seed(0)

    def random() -> Tensor:
        values = torch.randn(_TRIED, rows, width, generator=draw)
        return aligned(_TRIED, rows, width, device=device).copy_(values)

    z, grad = random(), random()
    single = [(each.clone(), g.clone()) for each, g in zip(z, grad, strict=True)]
    h = rule.forward(z)
    slope = rule.backward(grad, z, h)
    for t, (each, g) in enumerate(single):
        value = rule.forward(each)
        if not (torch.equal(value, h[t]) and torch.equal(rule.backward(g, each, value), slope[t])):
            return False
    return True
