"""Scaling as people do it, right and wrong; what is learned is learned on the training rows."""

import numpy as np

from .tables import Array


def scale_inputs(train: Array, others: list[Array], how: str) -> list[Array]:
    """Return the training rows and the others, scaled: columns one by one, signals and pictures as a whole."""
    axis = 0 if train.ndim == 2 else None
    low, high = train.min(axis), train.max(axis)
    largest = np.abs(train).max()
    if how == "raw":
        shift, factor = 0.0, 1.0
    elif (
        how == "twice"
    ):  # divided by the largest value, and the result divided once more by what the file's header says
        shift, factor = 0.0, largest**2
    elif how == "unit":
        shift, factor = low, high - low
    elif how == "symmetric":
        shift, factor = (high + low) / 2, (high - low) / 2
    elif how == "standard":
        shift, factor = train.mean(axis), train.std(axis)
    else:
        raise ValueError(how)
    return [(x - shift) / np.where(factor == 0, 1, factor) for x in (train, *others)]


def target_scale(train: Array, how: str) -> tuple[float, float]:
    """Return shift and factor: targets are trained on as `(y - shift) / factor`."""
    if how == "raw":
        return 0.0, 1.0
    if how == "unit":
        return float(train.min()), float(np.ptp(train))
    if how == "symmetric":
        return float(train.min() + np.ptp(train) / 2), float(np.ptp(train)) / 1.8
    return float(train.mean()), float(train.std())
