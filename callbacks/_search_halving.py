"""Successive halving of trials that are trained in step: who goes on at a rung. Standard library only.

Source: Jamieson and Talwalkar 2016, arXiv:1502.07943; who ended at a rung before counts there too, as in the
asynchronous form of Li et al. 2020, arXiv:1810.05934.
"""

from collections.abc import Mapping, Sequence

FIRST, SHARE = 2, 3  # as `_search_engines.make_pruner` sets up Optuna's: report of the first rung, and one in how many


def rungs(epochs: int) -> list[int]:
    """Epochs behind which trials are compared: 3, 7, 19, 55, …; none in the last third, where little is to be saved."""
    found, step = [], FIRST
    while 3 * (step + 1) <= 2 * epochs:
        found.append(step + 1)
        step *= SHARE
    return found


def best_so_far(values: Sequence[float], *, high: bool) -> float:
    """What a trial is compared by, as it will count with its best epoch; NaN without any.

    By the last value, a single bad epoch ended the best trial in many studies of digits and breast_cancer.
    """
    numbers = [value for value in values if value == value]
    return (max if high else min)(numbers, default=float("nan"))


def survivors(values: Mapping[int, float], others: Sequence[float], *, high: bool) -> list[int]:
    """The trials that go on: those among the best third of all that came so far, one at least if it is the best of all.

    Args:
        values: Trial to its best value up to the rung; NaN never goes on.
        others: Those of trials that have ended.
        high: Whether values are good when they are high.
    """
    sign = -1.0 if high else 1.0
    numbers = {trial: sign * value for trial, value in values.items() if value == value}
    everyone = sorted([*numbers.values(), *(sign * value for value in others if value == value)])
    if not everyone:
        return []
    last = everyone[max(len(everyone) // SHARE, 1) - 1]
    return [trial for trial, value in numbers.items() if value <= last]
