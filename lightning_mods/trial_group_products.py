"""Products of matrices for many trials at once, where they are to the last bit those of one trial after the other."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

_ALIGNED = 32  # floats: torch's own tensors begin on 16, and elementwise loops go by 32 at most
_TRIED = 3  # trials of the comparison


def aligned(trials: int, *shape: int, device: torch.device | None = None) -> Tensor:
    """Zeros `[trials, *shape]` of which each trial begins where a tensor of its own would, on a multiple of 128 bytes.

    Products of matrices go other ways from other places in memory, and elementwise functions at the end of a tensor:
    so each trial needs a beginning and an end of its own.
    """
    size = torch.Size(shape).numel()
    room = -(-size // _ALIGNED) * _ALIGNED
    return shaped(torch.zeros(trials, room, device=device)[:, :size], shape)


def shaped(flat: Tensor, shape: Sequence[int]) -> Tensor:
    """A view of `[T, N]` as `[T, *shape]`."""
    return flat.view(len(flat), *shape)


def as_aligned(values: Tensor) -> Tensor:
    """The same values `[T, B, W]`, aligned; a copy only if they are not."""
    # The stride of a lone trial is whatever made it.
    if values.shape[0] == 1 or (values.stride(0) % 16 == 0 and values.stride(1) == values.shape[2]):
        return values
    copied = aligned(*values.shape, device=values.device)
    return copied.copy_(values)


class Linear:
    """A linear layer of all trials, and room for what it makes of so many rows.

    Args:
        weights: `[T, O, I]`.
        biases: `[T, O]`.
        weight_grads: `[T, O, I]`, to be written.
        bias_grads: `[T, O]`, to be written.
        rows: Rows of a mini-batch, B.
        first: Whether its input is `[B, I]`, the same for all trials; else it is `[T, B, I]`.
    """

    def __init__(
        self,
        weights: Tensor,
        biases: Tensor,
        *,
        weight_grads: Tensor,
        bias_grads: Tensor,
        rows: int,
        first: bool,
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


@cache
def is_equal(kind: str, rows: int, inner: int, outer: int, shared: bool, device: torch.device) -> bool:
    """Whether the batched product of these widths equals the single ones, tried on random numbers.

    It does not with one output, whose matrices can be read either way round, nor where a product is so small that torch
    has loops of its own for it; and other libraries of linear algebra may differ elsewhere.

    Args:
        kind: `forward`, `weight` or `input`.
        rows: Rows of a mini-batch.
        inner: Width of the layer's input.
        outer: Width of its output.
        shared: Whether all trials have the same input.
        device: Where.
    """
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return aligned(_TRIED, *shape, device=device).copy_(torch.randn(_TRIED, *shape, generator=draw))

    weights, biases, x, grads = random(outer, inner), random(outer), random(rows, inner), random(rows, outer)
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
