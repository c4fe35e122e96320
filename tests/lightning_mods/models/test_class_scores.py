import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchmetrics.functional.classification import multiclass_f1_score

from lightning_mods.models.metrics import ClassScores, _rank_sums_on_device, class_mean_auroc, class_mean_f1


def score(probabilities, classes):
    metric = ClassScores(probabilities.shape[1])
    for at in range(0, len(classes), 13):
        metric.update(probabilities[at : at + 13], classes[at : at + 13])
    return float(metric.compute()["auroc"])


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_it_is_scikit_learns_one_against_the_rest(n_classes):
    torch.manual_seed(0)
    probabilities, classes = torch.randn(200, n_classes).softmax(1).double(), torch.randint(0, n_classes, (200,))
    truth = probabilities[:, 1] if n_classes == 2 else probabilities
    expected = roc_auc_score(classes.numpy(), truth.numpy(), multi_class="ovr")
    assert score(probabilities, classes) == pytest.approx(expected, abs=1e-6)


def test_a_class_without_rows_does_not_count_against_the_others():
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.9, 0.0, 0.1], [0.1, 0.6, 0.3]])
    assert score(probabilities, torch.tensor([0, 1, 0, 1])) == 1


def test_rows_of_one_class_alone_give_nan():
    assert math.isnan(score(torch.rand(5, 3), torch.zeros(5).long()))


@pytest.mark.parametrize("n_classes", [2, 5])
def test_accuracy_and_f1_are_torchmetrics(n_classes):
    torch.manual_seed(1)
    probabilities, classes = torch.randn(60, n_classes).softmax(1), torch.randint(0, n_classes, (60,))
    metric = ClassScores(n_classes)
    others = {
        "accuracy": MulticlassAccuracy(n_classes, average="micro"),
        "f1": MulticlassF1Score(n_classes, average="macro"),
    }
    for at in range(0, 60, 25):
        for each in (metric, *others.values()):
            each.update(probabilities[at : at + 25], classes[at : at + 25])
    found = metric.compute()
    assert {name: float(found[name]) for name in others} == {
        name: pytest.approx(float(other.compute()), abs=1e-7) for name, other in others.items()
    }


def test_ties_count_half():
    probabilities = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.2, 0.8], [0.5, 0.5]])
    assert score(probabilities, torch.tensor([0, 1, 1, 0])) == (1 + 1 + 0.5 + 0.5) / 4


def test_a_probability_that_is_no_number_ranks_nothing():
    probabilities = torch.full((4, 2), float("nan"))
    assert math.isnan(score(probabilities, torch.tensor([0, 1, 1, 0])))


@pytest.mark.parametrize("n_classes", [2, 10])
def test_the_area_is_the_same_to_the_bit_whoever_sorts(n_classes, monkeypatch):
    for seed in range(5):
        torch.manual_seed(seed)
        probabilities = torch.randn(150, n_classes).mul(4).round().softmax(1)  # with ties
        classes = torch.randint(0, n_classes, (150,)) % (n_classes - seed % 2)  # with a class that has no rows
        found = class_mean_auroc(probabilities, classes)
        with monkeypatch.context() as patch:
            patch.setattr("lightning_mods.models.metrics._rank_sums", _rank_sums_on_device)
            torch.testing.assert_close(found, class_mean_auroc(probabilities, classes), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("n_classes", [2, 3, 10, 40])
def test_f1_is_torchmetrics_to_the_bit(n_classes):
    for seed in range(20):
        torch.manual_seed(seed)
        found, classes = torch.randint(0, n_classes, (2, 31))
        expected = multiclass_f1_score(found, classes, n_classes, average="macro")
        assert torch.equal(class_mean_f1(found, classes, n_classes), expected)
