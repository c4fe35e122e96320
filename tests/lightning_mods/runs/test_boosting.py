import time

import numpy as np
import pytest

from lightning_mods.runs import boosting
from lightning_mods.runs.boosting import Boosting, Plan, modelled_seconds, sample

SHAPES = [(r, c, k) for r in (30, 1000, 50_000, 10**7) for c in (1, 30, 300) for k in (0, 2, 10)]


@pytest.mark.parametrize(("rows", "columns", "classes"), SHAPES)
def test_a_plan_keeps_to_the_budget(rows, columns, classes):
    plan = Plan.of(rows, columns, classes)
    assert plan is not None
    trees = plan.iterations * (classes if classes > 2 else 1)
    seconds = modelled_seconds(plan.rows, columns, classes, plan.iterations, plan.splits)
    assert seconds + 2 * plan.scored * trees * boosting._PREDICTED <= boosting.PLANNED * 1.001
    assert plan.rows == rows or plan.rows >= boosting.FEWEST_ROWS


def test_what_cannot_be_learned_within_the_budget_is_not_begun():
    assert Plan.of(10**6, 2000, 100) is None
    assert Plan.of(1000, 300, 20).iterations == boosting.FEWEST_ITERATIONS


def fitted(x, y, weights, **more):
    plan = Plan(rows=len(y), iterations=50, splits=3, scored=len(y))
    return Boosting(x, y, weights, **({"plan": plan, "seed": 0, "until": time.thread_time() + 60} | more))


def test_no_class_is_impossible():
    x = np.random.default_rng(0).normal(size=(200, 2))
    y = np.where(x[:, 0] > 0, 3, 0)
    y[0] = 1  # the only row of its class; one class has none
    found = fitted(x, y, np.ones(4)).predict(x)
    assert found.shape == (200, 4)
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(1), 1)
    assert np.log(found[np.arange(200), y]).mean() > -0.1


def test_more_iterations_than_help_are_not_made():
    x = np.random.default_rng(0).normal(size=(400, 3))
    noise, signal = x[:, 2], np.sin(3 * x[:, 0]) + x[:, 1]
    assert fitted(x[:, :2], noise, None).iterations < 5
    assert fitted(x[:, :2], signal, None).iterations > 10
    assert fitted(x[:40, :2], noise[:40], None).iterations < 10
    names = np.arange(400) // 2  # no class has a row to spare
    assert fitted(x[:6], names[:6], np.ones(3)).iterations == boosting.UNTOLD


def test_it_gives_up_in_time():
    x = np.random.default_rng(0).normal(size=(400, 3))
    with pytest.raises(TimeoutError):
        fitted(x, x[:, 0], None, until=time.thread_time())


def test_a_sample_has_all_classes_and_is_the_same_each_time():
    y = np.array([0] * 9000 + [1] * 990 + [2] * 10)
    found = sample(y, 1000, is_class=True, seed=3)
    assert np.bincount(y[found]).tolist() == [900, 99, 1]
    assert np.array_equal(found, sample(y, 1000, is_class=True, seed=3))
    amounts = np.linspace(0, 1, 10_000)
    assert abs(amounts[sample(amounts, 500, is_class=False, seed=0)].mean() - 0.5) < 0.01
    assert sample(amounts, 20_000, is_class=False, seed=0).tolist() == list(range(10_000))
