"""The losses of many trials on the same rows: gradients at each step, and values as torch sums them up, at its end."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lightning_mods.layer_rules import CrossEntropy, LossRule

_aten = torch.ops.aten

Numbers = np.ndarray[Any, np.dtype[np.float32]]

_LEVELS, _STEP = 8, 16  # of the partial sums in torch's nll_loss


class GroupCrossEntropy:
    """Mean cross-entropy.

    Args:
        weights: Of the classes, shape (C,); None for all alike.
    """

    def __init__(self, weights: Tensor | None) -> None:
        self.weights = weights
        self._one = torch.ones(())
        self._counts: dict[int, Tensor] = {}

    def compared(self, outputs: Tensor, y: Tensor) -> Tensor:
        """What loss and gradient are made of, from outputs `[T, B, C]` and targets `[B]`: logarithms `[T, B, C]`."""
        return torch.log_softmax(outputs, -1)

    def gradient(self, logs: Tensor, y: Tensor) -> Tensor:
        """The loss's gradient with respect to the outputs `[T, B, C]`."""
        # The same rows for all trials, as they depend on the classes alone.
        rows = _aten.nll_loss_backward.default(self._one, logs[0], y, self.weights, 1, -100, self._mass(y))
        grad: Tensor = _aten._log_softmax_backward_data.default(rows.expand(logs.shape), logs, 2, logs.dtype)
        return grad

    def _mass(self, y: Tensor) -> Tensor:
        """What the rows weigh together, a scalar."""
        if self.weights is not None:
            return torch.from_numpy(_cascade(self.weights[y].numpy()[:, None]))[0]
        if len(y) not in self._counts:
            self._counts[len(y)] = torch.tensor(float(len(y)))
        return self._counts[len(y)]

    def values(self, logs: Tensor, ys: Tensor) -> Tensor:
        """The mean losses `[S, T]` of steps with as many rows: `[S, T, B, C]` and targets `[S, B]`."""
        steps, trials, rows, _ = logs.shape
        terms = logs.gather(-1, ys.view(steps, 1, rows, 1).expand(-1, trials, -1, 1)).squeeze(-1)
        if self.weights is not None:
            terms = terms * self.weights[ys].unsqueeze(1)
        total = torch.from_numpy(_cascade((-terms).permute(2, 0, 1).reshape(rows, -1).numpy())).view(steps, trials)
        if self.weights is None:
            return total / rows
        return total / torch.from_numpy(_cascade(self.weights[ys].t().numpy())).unsqueeze(1)


class GroupSquaredError:
    """Mean squared error on the standardised target.

    Args:
        mean: Of the target, in its units.
        std: Of the target, above 0.
    """

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def compared(self, outputs: Tensor, y: Tensor) -> Tensor:
        """What loss and gradient are made of, from outputs `[T, B, 1]` and targets `[B]`: differences `[T, B]`."""
        found = outputs.squeeze(-1)
        return found - ((y - self.mean) / self.std).to(found.dtype)

    def gradient(self, apart: Tensor, y: Tensor) -> Tensor:
        """The loss's gradient with respect to the outputs `[T, B, 1]`."""
        return (apart * (2.0 / apart.shape[1])).unsqueeze(-1)

    def values(self, apart: Tensor, ys: Tensor) -> Tensor:
        """The mean losses `[S, T]` of steps with as many rows: `[S, T, B]`."""
        return functional.mse_loss(apart, torch.zeros(()).expand_as(apart), reduction="none").mean(-1)


GroupLoss = GroupCrossEntropy | GroupSquaredError


def group_loss(rule: LossRule) -> GroupLoss:
    """The loss of many trials, from that of one."""
    if isinstance(rule, CrossEntropy):
        return GroupCrossEntropy(rule.weights)
    return GroupSquaredError(rule.mean, rule.std)


@np.errstate(over="ignore", invalid="ignore")  # of a trial that diverges, as in torch
def _cascade(values: Numbers) -> Numbers:
    """The sums over the first axis, in the order in which torch's nll_loss takes float32 numbers.

    It adds up 16 numbers, then 16 of these sums, and so on; the very first number is a sum by itself.
    """
    total = np.zeros(values.shape[1:], dtype=np.float32)
    for level in range(_LEVELS):
        whole = 0 if level == _LEVELS - 1 else (len(values) - 1) // _STEP * _STEP + 1
        total = total + _in_order(values[whole:])
        if not whole:
            break
        chunks = values[1:whole].reshape(-1, _STEP, *values.shape[1:])
        values = np.concatenate([values[:1], np.add.accumulate(chunks, axis=1)[:, -1]])
    return total


def _in_order(values: Numbers) -> Numbers:
    return np.add.accumulate(values, axis=0)[-1] if len(values) else np.zeros(values.shape[1:], dtype=np.float32)
