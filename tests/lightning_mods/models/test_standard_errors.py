import math

import numpy as np
import pytest
import torch

from lightning_mods import MLPEnsemble, MLPRegressor
from lightning_mods.models.metrics import ClassScores, class_errors, regression_errors

DRAWS = 400


def bootstrap(scores, rows, generator):
    """Return the deviation of each score over rows drawn again, the plain and slow way."""
    drawn = [scores(torch.randint(rows, (rows,), generator=generator)) for _ in range(DRAWS)]
    return {name: np.std([each[name] for each in drawn]) for name in drawn[0]}


@pytest.mark.parametrize("num_classes", [2, 4])
def test_errors_of_class_scores_are_those_of_a_bootstrap(num_classes):
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(num_classes, (150,), generator=generator)
    outputs = torch.randn(150, num_classes, generator=generator) + torch.nn.functional.one_hot(y, num_classes)
    p = outputs.softmax(1)

    def scores(at):
        metric = ClassScores(num_classes)
        metric.update(p[at], y[at])
        return {name: float(value) for name, value in metric.compute().items()}

    assert class_errors(p, y, num_classes) == pytest.approx(bootstrap(scores, 150, generator), rel=0.15)


def test_errors_of_numbers_are_those_of_a_bootstrap():
    generator = torch.Generator().manual_seed(0)
    y = 5 + 3 * torch.randn(200, generator=generator)
    found = y + 2 * torch.randn(200, generator=generator)

    def scores(at):
        off = found[at] - y[at]
        mse = float(off.square().mean())
        r2 = 1 - mse / float(y[at].var(unbiased=False))
        return {"mse": mse, "rmse": math.sqrt(mse), "mae": float(off.abs().mean()), "r2": r2}

    assert regression_errors(found, y) == pytest.approx(bootstrap(scores, 200, generator), rel=0.15)


def test_twelve_right_of_twelve_is_no_certainty():
    y = torch.tensor([0, 1] * 6)
    found = class_errors(torch.eye(2)[y], y, 2)
    assert found["accuracy"] == pytest.approx(math.sqrt(0.875 * 0.125 / 16))
    assert (found["f1"], found["auroc"]) == (0, 0)


def test_what_has_no_score_has_no_error():
    one = torch.zeros(3, dtype=torch.long)
    assert math.isnan(class_errors(torch.full((3, 2), 0.5), one, 2)["auroc"])
    assert math.isnan(class_errors(torch.full((3, 2), math.nan), one, 2)["auroc"])
    assert math.isnan(regression_errors(torch.ones(3), torch.ones(3))["r2"])
    assert all(math.isnan(error) for error in regression_errors(torch.ones(1), torch.zeros(1)).values())


@pytest.mark.parametrize("settings", [{}, {"class_weight": [1.0, 3.0]}], ids=["alike", "weighted"])
def test_the_loss_of_an_ensemble_of_classifiers_has_an_error(settings):
    model = MLPEnsemble("MLPClassifier", [{"in_features": 2, "num_classes": 2, **settings}] * 2)
    p, y = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]), torch.tensor([0, 1, 1])
    losses = -np.log([0.9, 0.6, 0.3])
    weights = np.array([1, 3, 3] if settings else [1, 1, 1])
    mean = (weights * losses).sum() / weights.sum()
    expected = np.std(weights * (losses - mean) / weights.mean(), ddof=1) / math.sqrt(3)
    assert model.metric_errors(p, y)["ensemble_loss"] == pytest.approx(expected, rel=1e-5)
    numbers = MLPEnsemble("MLPRegressor", [{"in_features": 2}] * 2)
    assert numbers.metric_errors(p[:, 0], y)["ensemble_loss"] == numbers.metric_errors(p[:, 0], y)["mse"]


def test_a_module_tells_the_errors_on_some_batches():
    model = MLPRegressor(3, 5.0, 2.0, hidden_sizes=[], dropout=0.5).train().double()
    x, y = torch.randn(7, 3), torch.randn(7) + 5
    rows, errors = model.standard_errors([(x[:4], y[:4]), (x[4:], y[4:])])
    assert rows == 7
    assert errors.keys() == {"loss", "mse", "rmse", "mae", "r2"}
    with torch.no_grad():
        off = (model(x.double()) - y).square()
    assert errors["loss"] == pytest.approx(errors["mse"], rel=1e-5)
    assert errors["loss"] == pytest.approx(float(off.std()) / math.sqrt(7), rel=1e-5)
