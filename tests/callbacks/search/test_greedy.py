"""Greedy selection, with answers that can be worked out by hand."""

import numpy as np
import pytest

from callbacks.search.greedy import greedy_counts


def squared(target):
    return lambda found: float(np.mean((found - np.asarray(target)) ** 2))


def test_two_models_that_err_in_opposite_ways_beat_the_best_one():
    target = np.zeros(4)
    best = np.array([0.5, 0.5, 0.5, 0.5])
    over, under = np.array([1.0, -1.0, 1.0, -1.0]), np.array([-1.0, 1.0, -1.0, 1.0])
    assert greedy_counts([over, under], squared(target)) == [1, 1]
    # The best one is taken first, and no mean of three or four cancels out as well as what later rounds reach.
    counts = greedy_counts([best, over, under], squared(target))
    mean = (counts[0] * best + counts[1] * over + counts[2] * under) / sum(counts)
    assert counts[1] == counts[2] > 0
    assert squared(target)(mean) < 0.01 < squared(target)(best)


def test_counts_are_the_weights_of_the_best_mixture():
    # 3/4 of the first and 1/4 of the second are without error.
    assert greedy_counts([np.array([1.0]), np.array([-3.0])], squared([0.0])) == [3, 1]


def test_the_best_model_alone_stays_alone():
    assert greedy_counts([np.array([2.0]), np.array([0.0]), np.array([5.0])], squared([0.0])) == [0, 1, 0]


def test_of_equal_models_the_first_is_taken_once():
    assert greedy_counts([np.array([1.0])] * 3, squared([0.0])) == [1, 0, 0]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_model_without_finite_predictions_is_never_taken(wrong):
    models = [np.array([wrong, 0.0]), np.array([1.0, 0.0])]
    assert greedy_counts(models, squared([0.0, 0.0])) == [0, 1]
    assert greedy_counts(models[:1], squared([0.0, 0.0])) == [0]


def test_no_more_models_are_taken_than_there_are_rounds():
    models = [np.array([1.0]), np.array([-6.0])]
    assert sum(greedy_counts(models, squared([0.0]), rounds=3)) <= 3
    assert greedy_counts(models, squared([0.0]), rounds=7) == [6, 1]


def test_it_is_never_worse_than_the_best_model():
    draw = np.random.default_rng(0)
    target, models = draw.normal(size=50), list(draw.normal(size=(12, 50)))
    counts = greedy_counts(models, squared(target))
    mean = sum(n * each for n, each in zip(counts, models, strict=True)) / sum(counts)
    assert squared(target)(mean) < 0.7 * min(map(squared(target), models))


def test_no_models_give_no_counts():
    assert greedy_counts([], squared([])) == []
