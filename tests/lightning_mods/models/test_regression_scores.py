"""R² of few rows, of targets that are one, of a small spread around a large mean."""

import math

import pytest
import pytorch_lightning as pl
import torch
from sklearn.metrics import r2_score

from datamodules import TabularDataModule
from lightning_mods import MLPRegressor
from lightning_mods.models.metrics import R2


def score(predictions, targets):
    metric = R2()
    for at in range(0, len(targets), 7):
        metric.update(predictions[at : at + 7], targets[at : at + 7])
    return float(metric.compute())


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (1e6, 1.0), (0.0, 1e-4), (-3e8, 50.0)])
def test_it_is_scikit_learns_whatever_the_mean_and_the_spread(mean, spread):
    torch.manual_seed(0)
    targets = mean + spread * torch.randn(50, dtype=torch.float64)
    predictions = targets + 0.3 * spread * torch.randn(50, dtype=torch.float64)
    assert score(predictions, targets) == pytest.approx(r2_score(targets, predictions), abs=1e-6)


@pytest.mark.parametrize("targets", [[2.0], [0.1, 0.1, 0.1], []])
def test_it_is_nan_where_there_are_no_two_different_targets(targets):
    metric = R2()
    metric.update(torch.zeros(len(targets)), torch.tensor(targets))
    assert math.isnan(metric.compute())


def test_a_prediction_that_is_nan_makes_it_nan():
    assert math.isnan(score(torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0])))


def test_one_row_to_validate_and_one_to_test_on_are_scored_but_for_r2(tmp_path):
    rows = [f"{i % 7},{i % 5},{i % 11 + i / 9:.3f}" for i in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
    data = TabularDataModule(str(tmp_path / "t.csv"), "y")
    model = MLPRegressor(data.in_features, data.target_mean, data.target_std, hidden_sizes=[4])
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=1, enable_checkpointing=False, **quiet)
    trainer.fit(model, datamodule=data)
    (scores,) = trainer.test(model, datamodule=data, verbose=False)
    assert math.isfinite(scores["test_rmse"])
    assert math.isnan(scores["test_r2"])
    assert math.isnan(trainer.callback_metrics["test_r2"])
    assert "val_r2 will be NaN: there is one target in all 1 rows" in data.description
    assert "test_r2 will be NaN" in data.description
