"""Picks an ensemble among models that are there, by what they predict for validation rows."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDS = 25  # members are counted in shares of a twenty-fifth at the finest

Predictions = NDArray[np.floating[Any]]


def greedy_counts(
    predictions: Sequence[Predictions], loss: Callable[[Predictions], float], rounds: int = ROUNDS
) -> list[int]:
    """Return how often each model is taken into an ensemble that averages predictions, chosen to lower a loss.

    It begins empty; in each round that model joins, perhaps again, with which the mean has the lowest loss (of equals
    the first). The ensemble is that of the round with the lowest loss, of equals the smallest: never above the best
    single model's. Source: Caruana, Niculescu-Mizil, Crew and Ksikes 2004, "Ensemble selection from libraries of
    models", https://doi.org/10.1145/1015330.1015432. A model with a loss that is no finite number is never taken.

    Args:
        predictions: What each model predicts, arrays of one shape.
        loss: The loss of predictions, to be low.
        rounds: Most models to take, repeated ones counted.

    Returns:
        One count a model; all 0 if none has a finite loss.
    """
    open_to = [at for at, each in enumerate(predictions) if math.isfinite(loss(each))]
    taken: list[int] = []
    best, best_size = math.inf, 0
    total: Predictions = np.zeros(1)
    for size in range(1, rounds + 1 if open_to else 0):
        found = {at: loss((total + predictions[at]) / size) for at in open_to}
        joins = min(found, key=found.__getitem__)
        taken.append(joins)
        total = total + predictions[joins]
        if found[joins] < best:
            best, best_size = found[joins], size
    return [taken[:best_size].count(at) for at in range(len(predictions))]
