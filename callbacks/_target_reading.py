"""Reads what a loss compares with into plain numbers, and finds it in the batch."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from callbacks._head_facts import Loss, Target, Term


def read_target(target: Tensor) -> Target:
    """A target as plain numbers."""
    target = target.detach()
    values = target.reshape(-1)[:4096].double()
    if not len(values):
        return Target(tuple(target.shape))
    margin = 0.05 * float(values.std(correction=0)) if len(values) > 1 else 0.0
    numbers = torch.stack(
        [
            values.min(),
            values.max(),
            (values < -margin).double().mean(),
            (values > 1.05).double().mean(),
            (values.abs() > 1.05).double().mean(),
        ]
    ).tolist()
    low, high, *beyond = (float(number) for number in numbers)
    return Target(
        tuple(target.shape),
        not target.is_floating_point(),
        low,
        high,
        min(len(torch.unique(values)), 64),
        is_one_hot(target),
        False,
        target.data_ptr(),
        (beyond[0], beyond[1], beyond[2]),
    )


def is_one_hot(target: Tensor) -> bool:
    """Whether every row is one 1 among zeros, of more than two rows that are not all the same."""
    if target.ndim != 2 or target.shape[1] < 2 or target.shape[0] < 3:
        return False
    row = target.detach().float()
    ones = (row == 1).sum(1) == 1
    zeros = (row == 0).sum(1) == target.shape[1] - 1
    return bool((ones & zeros).all())


def with_batch(loss: Loss, batch: Sequence[Tensor]) -> Loss:
    """The same facts, after seeing which targets stand in the batch; its first tensor is no target but the input."""
    classes = any(tensor.dtype == torch.long and tensor.ndim == 1 for tensor in batch[1:])
    return replace(loss, terms=tuple(_found(term, batch[1:], classes=classes) for term in loss.terms))


def _found(term: Term, batch: Sequence[Tensor], *, classes: bool) -> Term:
    if term.target is not None:
        given = classes or term.target.address in {tensor.data_ptr() for tensor in batch}
        return replace(term, target=replace(term.target, given=given))
    sides = _sides(term.shape)
    fits = [tensor for tensor in batch if tensor.is_floating_point() and _sides(tuple(tensor.shape)) == sides]
    if term.kind == "regression" and sides and len(fits) == 1:  # a difference taken by hand keeps no target
        return replace(term, target=replace(read_target(fits[0]), given=True))
    return term


def _sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(side for side in shape if side != 1)
