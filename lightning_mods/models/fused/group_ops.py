"""Activations of many trials at once, where they are to the last bit those of one trial after the other."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lightning_mods.models.fused.chain_rule import ALIGNED, RELU, Activation, CrossEntropy, LossRule
from lightning_mods.models.fused.steps import Learner, LossSums, add_loss

_aten = torch.ops.aten

Numbers = np.ndarray[Any, np.dtype[np.float32]]

_LEVELS, _STEP = 8, 16  # of the partial sums in torch's nll_loss


class GroupCrossEntropy:
    """Mean cross-entropy; weights of the classes have shape (C,)."""

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
    """Mean squared error on the standardised target, whose mean and std are in its units."""

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
    """Return the loss of many trials, from that of one."""
    if isinstance(rule, CrossEntropy):
        return GroupCrossEntropy(rule.weights)
    return GroupSquaredError(rule.mean, rule.std)


_FLUSH = 64  # steps whose losses are summed up at once


class GroupLossSums:
    """The mean of many trials' training loss over an epoch, as the module sums it up."""

    def __init__(self, learner: Learner, loss: GroupLoss) -> None:
        self._learner, self._loss = learner, loss
        self._terms: list[Tensor] = []
        self._ys: list[Tensor] = []
        self._sums: LossSums = (0.0, 0.0)

    def add(self, terms: Tensor, y: Tensor) -> None:
        """Add a step: what its loss is made of, and its targets `[B]`."""
        if self._terms and (len(self._terms) >= _FLUSH or len(self._ys[-1]) != len(y)):
            self._flush()
        self._terms.append(terms)
        self._ys.append(y)

    def _flush(self) -> None:
        losses = self._loss.values(torch.stack(self._terms), torch.stack(self._ys))
        for loss, y in zip(losses, self._ys, strict=True):
            self._sums = add_loss(self._sums, loss, self._learner.loss_weight(y))
        self._terms, self._ys = [], []

    def mean(self) -> Tensor:
        """Return the mean so far, `[T]`."""
        self._flush()
        return torch.as_tensor(self._sums[0] / self._sums[1])


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


_TRIED = 3  # trials of the comparison


def aligned(trials: int, *shape: int, device: torch.device | None = None) -> Tensor:
    """Zeros `[trials, *shape]` of which each trial begins where a tensor of its own would, on a multiple of 128 bytes.

    Products of matrices go other ways from other places in memory, and elementwise functions at the end of a tensor:
    so each trial needs a beginning and an end of its own.
    """
    size = torch.Size(shape).numel()
    room = -(-size // ALIGNED) * ALIGNED
    return shaped(torch.zeros(trials, room, device=device)[:, :size], shape)


def shaped(flat: Tensor, shape: Sequence[int]) -> Tensor:
    """A view of `[T, N]` as `[T, *shape]`."""
    return flat.view(len(flat), *shape)


def as_aligned(values: Tensor) -> Tensor:
    """The same values `[T, B, W]`, aligned; a copy only if they are not."""
    # The stride of a lone trial is whatever made it.
    if values.shape[0] == 1 or (values.stride(0) % 16 == 0 and values.stride(1) == values.shape[2]):
        return values
    return aligned(*values.shape, device=values.device).copy_(values)


class Linear:
    """A linear layer of all trials, and room for what it makes of so many rows.

    Weights and their gradients, which are to be written, have shape `[T, O, I]`, biases `[T, O]`. The input is
    `[T, B, I]`, that of the first layer `[B, I]`, the same for all trials.
    """

    def __init__(
        self, weights: Tensor, biases: Tensor, weight_grads: Tensor, bias_grads: Tensor, *, rows: int, first: bool
    ) -> None:
        trials, outer, inner = weights.shape
        self._weights, self._transposed = weights, weights.transpose(1, 2)
        self._biases, self._raised = biases, biases.unsqueeze(1)
        self._weight_grads, self._bias_grads = weight_grads, bias_grads
        self._out = aligned(trials, rows, outer, device=weights.device)
        self._below = aligned(trials, 0 if first else rows, inner, device=weights.device)
        self._first = first
        shape = (rows, inner, outer, first, weights.device)
        self._forward_is_equal, self._weight_is_equal = (is_equal(kind, *shape) for kind in ("forward", "weight"))
        self._input_is_equal = first or is_equal("input", *shape)

    def forward(self, x: Tensor) -> Tensor:
        """`x @ weights' + bias` for each trial, `[T, B, O]`; overwritten by the next."""
        if self._forward_is_equal:
            every = x.expand(len(self._weights), -1, -1) if self._first else x
            return torch.baddbmm(self._raised, every, self._transposed, out=self._out)
        for t, (bias, matrix) in enumerate(zip(self._biases, self._weights, strict=True)):
            torch.addmm(bias, x if self._first else x[t], matrix.t(), out=self._out[t])
        return self._out

    def gradients(self, grads: Tensor, x: Tensor) -> None:
        """Write those of weights and biases, from those of the output `[T, B, O]` and the input."""
        torch.sum(grads, 1, out=self._bias_grads)
        # The transposed product: so autograd computes it, and the other way round rounds differently.
        if self._weight_is_equal:
            every = x.expand(len(grads), -1, -1) if self._first else x
            torch.bmm(grads.transpose(1, 2), every, out=self._weight_grads)
            return
        for t, grad in enumerate(grads):
            torch.mm(grad.t(), x if self._first else x[t], out=self._weight_grads[t])

    def input_gradient(self, grads: Tensor) -> Tensor:
        """`grads @ weights` for each trial, `[T, B, I]`; overwritten by the next. Not for the first layer."""
        if self._input_is_equal:
            return torch.bmm(grads, self._weights, out=self._below)
        for t, grad in enumerate(grads):
            torch.mm(grad, self._weights[t], out=self._below[t])
        return self._below


def _random(device: torch.device, *shapes: Sequence[int]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    drawn = (torch.randn(_TRIED, *shape, generator=draw) for shape in shapes)
    return [aligned(*values.shape, device=device).copy_(values) for values in drawn]


@cache
def is_equal(kind: str, rows: int, inner: int, outer: int, shared: bool, device: torch.device) -> bool:
    """Whether the batched product `forward`, `weight` or `input` equals the single ones, tried on random numbers.

    It does not with one output, whose matrices can be read either way round, nor where a product is so small that torch
    has loops of its own for it; and other libraries of linear algebra may differ elsewhere. With `shared`, all trials
    have the same input.
    """
    weights, biases, x, grads = _random(device, (outer, inner), (outer,), (rows, inner), (rows, outer))
    every = x[:1].expand_as(x) if shared else x
    parts = [tuple(each[t].clone() for each in (weights, biases, every, grads)) for t in range(_TRIED)]
    out = aligned(_TRIED, *{"forward": (rows, outer), "weight": (outer, inner), "input": (rows, inner)}[kind])
    if kind == "forward":
        torch.baddbmm(biases.unsqueeze(1), every, weights.transpose(1, 2), out=out)
        single = [torch.addmm(b, own, w.t()) for w, b, own, _ in parts]
    elif kind == "weight":
        torch.bmm(grads.transpose(1, 2), every, out=out)
        single = [torch.mm(g.t(), own) for _, _, own, g in parts]
    else:
        torch.bmm(grads, weights, out=out)
        single = [torch.mm(g, w) for w, _, _, g in parts]
    return all(torch.equal(one, other) for one, other in zip(out, single, strict=True))


class GroupActivation:
    """An activation of values `[T, B, W]`, from its rule for one trial."""

    def __init__(self, rule: Activation) -> None:
        self._rule = rule

    def forward(self, z: Tensor) -> Tensor:
        """From the sums to the values; may write into z."""
        if self._is_equal(z):
            return self._rule.forward(z)
        return torch.stack([self._rule.forward(each) for each in z])

    def backward(self, grad: Tensor, z: Tensor, h: Tensor) -> Tensor:
        """From the gradient of the values, which may be overwritten, to that of the sums; aligned."""
        if self._rule is RELU:  # in place: a new tensor of this size is new memory each time, and costs the tenfold
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
    z, grad = _random(device, (rows, width), (rows, width))
    single = [(each.clone(), g.clone()) for each, g in zip(z, grad, strict=True)]
    h = rule.forward(z)
    slope = rule.backward(grad, z, h)
    for t, (each, g) in enumerate(single):
        value = rule.forward(each)
        if not (torch.equal(value, h[t]) and torch.equal(rule.backward(g, each, value), slope[t])):
            return False
    return True
