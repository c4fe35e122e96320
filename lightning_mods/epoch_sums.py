"""The losses of an epoch as they are summed up, mini-batch after mini-batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Sums = tuple[Tensor | float, Tensor | float]
"""Of the losses, each times what it weighs; and of what they weigh."""


def sums_with(sums: Sums, losses: Tensor, weights: Sequence[Tensor | int]) -> Sums | None:
    """The sums over an epoch with some mini-batches more, to the bit as if one after the other had been added.

    Args:
        sums: Those so far.
        losses: Of the mini-batches `[K]`.
        weights: What each of them counts.

    Returns:
        The sums; None where they have to be added one by one: on another device than the CPU, or with weights that are
        no whole numbers.
    """
    if losses.device.type != "cpu" or not all(isinstance(weight, int) for weight in weights):
        return None
    found = losses.numpy()
    terms = found * np.array(weights, dtype=found.dtype)
    start = np.asarray(sums[0], dtype=terms.dtype).reshape(1)
    # One after the other in float32; `sum` and `cumsum` add in another order or in double.
    total = np.add.accumulate(np.concatenate([start, terms]))[-1]
    return torch.tensor(total), sums[1] + sum(weights)
