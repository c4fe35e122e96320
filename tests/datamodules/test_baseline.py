"""The trivial prediction's scores, against scikit-learn's and torchmetrics'."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, mean_absolute_error, r2_score, root_mean_squared_error
from torchmetrics.functional.classification import multiclass_f1_score

from datamodules.targets import majority_metrics, mean_metrics


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 4))
def test_majority_scores_are_those_of_the_libraries(codes, majority):
    codes = np.array(codes)
    scores = majority_metrics(codes, majority)
    guess = np.full_like(codes, majority)
    assert scores["accuracy"] == pytest.approx(accuracy_score(codes, guess))
    f1 = multiclass_f1_score(torch.tensor(guess), torch.tensor(codes), num_classes=5, average="macro")
    assert scores["f1"] == pytest.approx(f1.item(), abs=1e-6)


def test_auroc_of_a_constant_is_a_half_and_unknown_for_one_class():
    assert majority_metrics(np.array([0, 1]), 0)["auroc"] == 0.5
    assert math.isnan(majority_metrics(np.array([1, 1]), 0)["auroc"])


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60), st.floats(-1e6, 1e6))
def test_mean_scores_are_those_of_scikit_learn(values, mean):
    values = np.array(values)
    guess = np.full_like(values, mean)
    scores = mean_metrics(values, mean)
    assert scores["rmse"] == pytest.approx(root_mean_squared_error(values, guess))
    assert scores["mae"] == pytest.approx(mean_absolute_error(values, guess))
    if np.ptp(values) > 1e-3:
        assert scores["r2"] == pytest.approx(r2_score(values, guess), rel=1e-6)


def test_r2_of_one_value_and_scores_without_rows_are_nan():
    assert math.isnan(mean_metrics(np.array([2.0, 2.0]), 1.0)["r2"])
    assert all(map(math.isnan, mean_metrics(np.zeros(0), 1.0).values()))
    assert all(map(math.isnan, majority_metrics(np.zeros(0, dtype=np.int64), 0).values()))
