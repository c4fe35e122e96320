"""What a fit and a test leave to look at: importance of the columns, tables of the classes, residuals, pictures."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.datasets import load_iris
from sklearn.inspection import permutation_importance
from verbs_here import succeed

from datamodules import TabularDataModule
from lightning_mods import MLPRegressor
from lightning_mods.runs.inspection.classes import ClassTable
from lightning_mods.runs.inspection.importance import importance_of

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's CLI and jsonargparse warn of each other
RUN = Path("lightning_logs/version_0")
QUICK = ("--reference=false", "--watch=[fit]")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def planted(n=700):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(n, 5)), columns=["strong", "weak", "noise 1", "noise 2", "noise 3"])
    frame["kind"] = rng.choice(["a", "b", "c"], n)
    frame["y"] = 3 * frame["strong"] + frame["weak"] + 4 * (frame["kind"] == "a") + 0.1 * rng.normal(size=n)
    return frame


def rows_of(path):
    with Path(path).open() as file:
        return [*csv.DictReader(file)]


def test_the_columns_that_were_planted_are_found():
    planted().to_csv("t.csv", index=False)
    _, said = succeed("fit", "--data.path=t.csv", "--data.target=y", "--importance", *QUICK)
    rows = rows_of(RUN / "importance.csv")
    assert [row["column"] for row in rows][:3] == ["strong", "kind", "weak"]
    drops = {row["column"]: float(row["r2_drop"]) for row in rows}
    assert all(abs(drops[f"noise {i}"]) < 0.02 < 0.05 < drops["weak"] for i in (1, 2, 3))
    assert int(next(row["features"] for row in rows if row["column"] == "kind")) == 3
    assert "importance: each column shuffled 5 times among 105 validation rows" in said
    for name in ("importance", "predicted_vs_true"):
        assert (RUN / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert float(rows_of(RUN / "residuals_test.csv")[0]["rows"]) == 105
    succeed("test", "--importance")
    assert [row["column"] for row in rows_of(RUN / "importance_test.csv")][:3] == ["strong", "kind", "weak"]


class Wrapped(RegressorMixin, BaseEstimator):
    def __init__(self, model=None):
        self.model = model
        self.is_fitted_ = True

    def fit(self, x, y):
        return self

    def predict(self, x):
        with torch.no_grad():
            return self.model(torch.as_tensor(np.asarray(x)).float()).numpy()


def test_importance_is_that_of_scikit_learn_within_its_noise():
    frame = planted().drop(columns="kind")
    data = TabularDataModule(data=frame, target="y", val_fraction=0.4, batch_size=32)
    torch.manual_seed(0)
    model = MLPRegressor(data.in_features, data.target_mean, data.target_std, hidden_sizes=(16,)).eval()
    x, y = data.train_dataloader().dataset[:]
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(200):
        optimizer.zero_grad()
        model.loss(model.network(x), y).backward()
        optimizer.step()
    found = importance_of(model, data, "val", repeats=20)
    x, y = data.val_dataloader().dataset[:]
    theirs = permutation_importance(Wrapped(model), x.numpy(), y.numpy(), n_repeats=20, random_state=0)
    names = data.feature_names
    for name, drops in zip(found.columns, found.score, strict=True):
        mean, std = (theirs[f"importances_{each}"][names.index(name)] for each in ("mean", "std"))
        assert abs(drops.mean() - mean) < 4 * (std + drops.std()) / np.sqrt(20) + 1e-4


def test_a_classifiers_classes_are_tables_and_pictures():
    succeed("fit", "--data.path=iris", "--trainer.max_epochs=10", *QUICK)
    for stage in ("val", "test"):
        table = rows_of(RUN / f"classes_{stage}.csv")
        assert [row["class"] for row in table] == ["setosa", "versicolor", "virginica"]
        matrix = rows_of(RUN / f"confusion_{stage}.csv")
        counts = [int(row[name]) for row in matrix for name in load_iris().target_names]
        assert sum(counts) == sum(int(row["rows"]) for row in table) == 22
    for name in ("confusion_matrix", "calibration"):
        assert (RUN / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    out, said = succeed("test")
    assert "expected calibration error: " in said
    assert "precision" not in out  # which scripts read


def test_nobody_looking_on_draws_no_picture():
    succeed("fit", "--data.path=iris", "--trainer.max_epochs=1", "--reference=false", "--watch=[]")
    assert not [*RUN.glob("*.png")]
    assert (RUN / "classes_val.csv").is_file()


def test_scores_of_classes_are_those_of_scikit_learn():
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    rng = np.random.default_rng(0)
    probabilities, y = rng.dirichlet(np.ones(4), 300), rng.integers(0, 4, 300)
    table = ClassTable.of(probabilities, y, "abcd")
    precision, recall, f1, rows = precision_recall_fscore_support(y, probabilities.argmax(1))
    assert np.allclose(table.precision, precision)
    assert np.allclose(table.recall, recall)
    assert np.allclose(table.f1, f1)
    assert np.array_equal(table.true, rows)
    assert np.array_equal(table.confusion, confusion_matrix(y, probabilities.argmax(1)))
