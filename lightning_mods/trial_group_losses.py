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

    def terms(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What makes up the loss of each row `[T, B]`, and what `gradient` needs; `y` is `[B]`."""
        logs = torch.log_softmax(outputs, -1)
        return self._picked(logs, y), logs

    def _picked(self, logs: Tensor, y: Tensor) -> Tensor:
        picked = logs.gather(-1, y.view(1, -1, 1).expand(len(logs), -1, 1)).squeeze(-1)
        return picked if self.weights is None else picked * self.weights[y]

    def gradient(self, logs: Tensor, y: Tensor) -> Tensor:
        """The loss's gradient with respect to the outputs `[T, B, C]`."""
        first = logs[0]
        mass = self._mass(y)
        # The same for all trials, as it depends on the classes alone.
        rows = _aten.nll_loss_backward.default(self._one, first, y, self.weights, 1, -100, mass)
        every = rows.expand(len(logs), *rows.shape)
        grad: Tensor = _aten._log_softmax_backward_data.default(every, logs, 2, logs.dtype)
        return grad

    def _mass(self, y: Tensor) -> Tensor:
        if self.weights is None:
            return torch.tensor(float(len(y)))
        return torch.from_numpy(np.asarray(_cascade(self.weights[y].numpy()[:, None])))[0]

    def values(self, terms: Tensor, ys: Tensor) -> Tensor:
        """The mean losses `[S, T]` of steps with as many rows: their terms `[S, T, B]` and targets `[S, B]`."""
        steps, trials, rows = terms.shape
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

    def terms(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What makes up the loss of each row `[T, B]`, and what `gradient` needs; `y` is `[B]`."""
        found = outputs.squeeze(-1)
        apart = found - ((y - self.mean) / self.std).to(found.dtype)
        return apart, apart

    def gradient(self, apart: Tensor, y: Tensor) -> Tensor:
        """The loss's gradient with respect to the outputs `[T, B, 1]`."""
        return (apart * (2.0 / apart.shape[1])).unsqueeze(-1)

    def values(self, terms: Tensor, ys: Tensor) -> Tensor:
        """The mean losses `[S, T]` of steps with as many rows: their terms `[S, T, B]`."""
        return functional.mse_loss(terms, torch.zeros(()).expand_as(terms), reduction="none").mean(-1)


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
