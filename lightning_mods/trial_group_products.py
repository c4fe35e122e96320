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
    """The same values, aligned; a copy only if they are not."""
    # The stride of a lone trial is whatever made it.
    if values.shape[0] == 1 or (values.stride(0) % 16 == 0 and values[0].is_contiguous()):
        return values
    copied = aligned(*values.shape, device=values.device)
    return copied.copy_(values)


def forward(biases: Tensor, x: Tensor, weights: Tensor, out: Tensor) -> Tensor:
    """`x @ weights' + bias` for each trial.

    Args:
        biases: `[T, O]`.
        x: `[T, B, I]`, or `[B, I]` if all trials see the same.
        weights: `[T, O, I]`.
        out: `[T, B, O]`, to be written.
    """
    rows, inner = x.shape[-2:]
    if _is_equal("forward", rows, inner, weights.shape[1], x.dim() == 2, weights.device):
        return _forward(biases, x, weights, out)
    for t, (bias, matrix) in enumerate(zip(biases, weights, strict=True)):
        torch.addmm(bias, x if x.dim() == 2 else x[t], matrix.t(), out=out[t])
    return out


def weight_gradient(grads: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """`grads' @ x` for each trial: `[T, B, O]` and `[T, B, I]` or `[B, I]` into `[T, O, I]`."""
    rows, inner = x.shape[-2:]
    if _is_equal("weight", rows, inner, grads.shape[2], x.dim() == 2, grads.device):
        return _weight(grads, x, out)
    for t, grad in enumerate(grads):
        # The transposed product: so autograd computes it, and the other way round rounds differently.
        torch.mm(grad.t(), x if x.dim() == 2 else x[t], out=out[t])
    return out


def input_gradient(grads: Tensor, weights: Tensor, out: Tensor) -> Tensor:
    """`grads @ weights` for each trial: `[T, B, O]` and `[T, O, I]` into `[T, B, I]`."""
    if _is_equal("input", grads.shape[1], weights.shape[2], weights.shape[1], False, weights.device):
        return torch.bmm(grads, weights, out=out)
    for t, grad in enumerate(grads):
        torch.mm(grad, weights[t], out=out[t])
    return out


def _forward(biases: Tensor, x: Tensor, weights: Tensor, out: Tensor) -> Tensor:
    every = x.expand(len(weights), *x.shape[-2:])
    return torch.baddbmm(biases.unsqueeze(1), every, weights.transpose(1, 2), out=out)


def _weight(grads: Tensor, x: Tensor, out: Tensor) -> Tensor:
    return torch.bmm(grads.transpose(1, 2), x.expand(len(grads), *x.shape[-2:]), out=out)


@cache
def _is_equal(kind: str, rows: int, inner: int, outer: int, shared: bool, device: torch.device) -> bool:
    """Whether the batched product of these widths equals the single ones, tried on random numbers.

    It does not with one output, whose matrices can be read either way round, nor where a product is so small that torch
    has loops of its own for it; and other libraries of linear algebra may differ elsewhere.
    """
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return aligned(_TRIED, *shape, device=device).copy_(torch.randn(_TRIED, *shape, generator=draw))

    weights, biases, x, grads = random(outer, inner), random(outer), random(rows, inner), random(rows, outer)
    if kind == "input":
        batched = torch.bmm(grads, weights, out=aligned(_TRIED, rows, inner, device=device))
        return _same(batched, [torch.mm(grads[t].clone(), weights[t].clone()) for t in range(_TRIED)])
    xs = [x[0].clone() if shared else x[t].clone() for t in range(_TRIED)]
    given = xs[0] if shared else x
    if kind == "forward":
        batched = _forward(biases, given, weights, aligned(_TRIED, rows, outer, device=device))
        pairs = zip(biases, xs, weights, strict=True)
        return _same(batched, [torch.addmm(b.clone(), each, w.clone().t()) for b, each, w in pairs])
    batched = _weight(grads, given, aligned(_TRIED, outer, inner, device=device))
    return _same(batched, [torch.mm(g.clone().t(), each) for g, each in zip(grads, xs, strict=True)])


def _same(batched: Tensor, single: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(batched, single, strict=True))
