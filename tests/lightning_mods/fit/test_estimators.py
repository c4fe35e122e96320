"""The estimators keep scikit-learn's contract, train what the verb `fit` trains, and leave nothing behind."""

import copy
import csv
import logging
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from verbs_here import do, succeed

from callbacks.diagnosis import Diagnosis
from lightning_mods import MLPClassifierEstimator, MLPRegressorEstimator
from lightning_mods.cli.classes import own_arguments
from lightning_mods.runs import RunError

# Lightning 2.6 calls names of jsonargparse that go in version 5; pyproject.toml bounds it below that.
verbs = pytest.mark.filterwarnings(
    "ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"
)
QUICK = {"max_epochs": 5, "hidden_sizes": (16,)}
NOT_THE_SAME = {
    "check_sample_weight_equivalence_on_dense_data": "a row of weight 2 is held out or trained on as one row, and two "
    "rows each for themselves; mini-batches differ too. What weighs nothing is left out."
}


@parametrize_with_checks(
    [MLPClassifierEstimator(**QUICK), MLPRegressorEstimator(**QUICK)],
    expected_failed_checks=lambda estimator: NOT_THE_SAME,
)
def test_scikit_learn_finds_nothing_wrong(estimator, check):
    check(estimator)


@pytest.fixture
def frame():
    """Names, categories, gaps, booleans and dates, and string classes that the first columns tell apart."""
    rng = np.random.default_rng(0)
    rows = 240
    size = rng.normal(size=rows)
    colour = rng.choice(["red", "green", "blue"], rows)
    x = pd.DataFrame(
        {
            "size": np.where(rng.random(rows) < 0.1, np.nan, size),
            "colour": pd.Categorical(np.where(rng.random(rows) < 0.1, None, colour)),
            "name": [None if i % 9 == 0 else ("a", "b")[i % 2] for i in range(rows)],
            "flag": rng.random(rows) < 0.5,
            "day": pd.date_range("2024-02-01", periods=rows),
            "noise": rng.normal(size=rows),
        },
        index=rng.permutation(rows),
    )
    y = pd.Series(np.where(size + (colour == "red") > 0.3, "large", "small"), index=x.index, name="kind")
    return x, y


def test_a_frame_with_gaps_categories_and_string_classes_is_learned_as_it_is(frame):
    x, y = frame
    model = MLPClassifierEstimator(random_state=0, max_epochs=20).fit(x, y)
    assert model.score(x, y) > 0.85
    assert model.classes_.tolist() == ["large", "small"]
    assert model.feature_names_in_.tolist() == list(x)
    assert set(model.predict(x)) == {"large", "small"}
    assert isinstance(model.diagnosis_, Diagnosis)
    assert model.trainer_.current_epoch == 20
    assert "colour=red" in model.datamodule_.feature_names
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(x.drop(columns="noise"))


def test_probabilities_stand_in_the_order_of_the_classes():
    """A table orders the names "9" and "10" as numbers, `classes_` as text."""
    x, y = load_iris(return_X_y=True)
    names = np.array(["9", "10", "100"])[y]
    model = MLPClassifierEstimator(random_state=0, max_epochs=10).fit(x, names)
    assert model.classes_.tolist() == ["10", "100", "9"]
    assert (model.classes_[model.predict_proba(x).argmax(axis=1)] == names).mean() > 0.9
    assert model.score(x, names) > 0.9
    odd = np.array(["", " a", "a"])[y]  # which a table would not tell apart
    assert MLPClassifierEstimator(random_state=0, max_epochs=10).fit(x, odd).score(x, odd) > 0.9


def test_it_works_in_a_pipeline_a_search_and_the_importance_of_columns(frame):
    x, y = frame
    search = GridSearchCV(MLPClassifierEstimator(random_state=0, **QUICK), {"lr": [1e-4, 0.5]}, cv=2, n_jobs=2)
    search.fit(x, y)
    assert search.best_params_ == {"lr": 0.5}
    assert search.best_estimator_.diagnosis_ is not None
    found = permutation_importance(search.best_estimator_, x, y, n_repeats=2, random_state=0).importances_mean
    assert found.argmax() == 0
    scale = make_column_transformer((StandardScaler(), ["size"]), remainder="passthrough").set_output(
        transform="pandas"
    )
    piped = make_pipeline(scale, MLPClassifierEstimator(random_state=0, **QUICK))
    assert cross_val_score(piped, x, y, cv=2).min() > 0.6


def test_two_copies_come_out_alike_and_none_without_a_number(frame):
    x, y = frame
    one = MLPClassifierEstimator(random_state=3, **QUICK)
    found = [each.fit(x, y).predict_proba(x) for each in (one, clone(one), one)]
    assert all(np.array_equal(each, found[0]) for each in found)
    other = MLPClassifierEstimator(random_state=np.random.RandomState(0), **QUICK).fit(x, y)
    assert not np.array_equal(other.predict_proba(x), found[0])


def test_a_fit_draws_no_random_numbers_of_others_says_nothing_and_writes_nothing(tmp_path, monkeypatch, capfd, frame):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), torch.get_num_threads()
    level = logging.getLogger("pytorch_lightning").level
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        MLPClassifierEstimator(random_state=0, **QUICK).fit(*frame).predict(frame[0])
    assert [str(each.message) for each in warned] == []
    assert logging.getLogger("pytorch_lightning").level == level
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), torch.get_num_threads()) == before[1:]
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_asked_for_gets_the_curves_the_verdict_and_a_checkpoint(tmp_path, frame):
    x, y = frame
    model = MLPClassifierEstimator(random_state=0, default_root_dir=tmp_path, **QUICK).fit(x, y)
    (run,) = (tmp_path / "lightning_logs").iterdir()
    assert (run / "diagnosis.json").is_file()
    assert list(run.glob("events*"))
    kept = MLPClassifierEstimator.load(run / "checkpoints" / "best.ckpt")
    assert np.array_equal(kept.predict_proba(x), model.predict_proba(x))


@pytest.mark.parametrize("ensemble", [1, 2])
@pytest.mark.parametrize("kind", [MLPClassifierEstimator, MLPRegressorEstimator])
def test_what_is_saved_or_pickled_predicts_the_same(kind, ensemble, tmp_path):
    x, y = (load_iris if kind is MLPClassifierEstimator else load_diabetes)(return_X_y=True, as_frame=True)
    model = kind(random_state=0, ensemble=ensemble, categorical=[x.columns[1]], **QUICK).fit(x, y)
    model.save(tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=True)
    loaded = kind.load(tmp_path / "model.ckpt")
    others = [loaded, pickle.loads(pickle.dumps(model)), copy.deepcopy(loaded)]  # noqa: S301  # our own
    for other in others:
        assert np.array_equal(other.predict(x), model.predict(x))
        assert other.get_params() == {**model.get_params(), "hidden_sizes": other.hidden_sizes}
        assert other.feature_names_in_.tolist() == list(x)
        assert other.predict(x).dtype == model.predict(x).dtype
    assert others[1].diagnosis_ == model.diagnosis_
    assert len(pickle.dumps(model)) < 2**20
    assert not hasattr(others[1], "trainer_")


def test_a_file_of_another_estimator_is_refused_in_one_line(tmp_path):
    with pytest.raises(NotFittedError):
        MLPClassifierEstimator().save(tmp_path / "model.ckpt")
    MLPClassifierEstimator(**QUICK).fit(*load_iris(return_X_y=True)).save(tmp_path / "model.ckpt")
    with pytest.raises(
        RunError, match=r"holds MLPClassifierEstimator; needed is a file that MLPRegressorEstimator.save"
    ):
        MLPRegressorEstimator.load(tmp_path / "model.ckpt")


@verbs
def test_it_trains_what_the_verb_trains(tmp_path, monkeypatch, frame):
    monkeypatch.chdir(tmp_path)
    x, y = frame
    x.assign(kind=y).to_parquet("table.parquet", index=False)
    model = MLPClassifierEstimator(random_state=3, max_epochs=4, accelerator="cpu").fit(x, y)
    flags = ["--data.path=table.parquet", "--data.target=kind", "--data.test_fraction=0", "--seed_everything=3"]
    succeed("fit", *flags, "--trainer.max_epochs=4", "--trainer.accelerator=cpu", "--reference=false")
    kept = torch.load("lightning_logs/version_0/checkpoints/best.ckpt", weights_only=True)
    assert kept["state_dict"].keys() == model.model_.state_dict().keys()
    assert all(torch.equal(value, model.model_.state_dict()[name]) for name, value in kept["state_dict"].items())
    assert kept["TabularDataModule"]["encoding"] == model.datamodule_.state_dict()["encoding"]


@verbs
def test_the_verbs_take_its_checkpoint(tmp_path, monkeypatch, frame):
    monkeypatch.chdir(tmp_path)
    x, y = frame
    model = MLPClassifierEstimator(random_state=0, **QUICK).fit(x.iloc[:200], y.iloc[:200])
    model.save("model.ckpt")
    new = x.iloc[200:]
    new.to_csv("new.csv", index=False)
    succeed("predict", "--ckpt_path=model.ckpt", "--data.predict_path=new.csv")
    with Path("predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] for row in rows] == model.predict(new).tolist()
    shares = np.array([[float(row[f"probability_{name}"]) for name in model.classes_] for row in rows])
    assert np.abs(shares - model.predict_proba(new)).max() < 1e-6
    new.assign(kind=y.iloc[200:]).to_csv("test.csv", index=False)
    out, _ = succeed("test", "--ckpt_path=model.ckpt", "--data.test_path=test.csv")
    assert f"{model.score(new, y.iloc[200:]):.4g}" in out
    code, _, err = do("validate", "--ckpt_path=model.ckpt")
    assert (code, err.count("\n")) == (2, 1)
    assert "The table was one in memory, <Table>; give a file of its rows" in err


def test_rows_that_weigh_nothing_are_not_there_and_equal_weights_change_nothing(frame):
    x, y = frame
    model, some = MLPClassifierEstimator(random_state=0, **QUICK), np.arange(len(y)) % 3 > 0
    without = clone(model).fit(x[some], y[some]).predict_proba(x)
    assert np.array_equal(model.fit(x, y, sample_weight=2.0 * some).predict_proba(x), without)
    heavy = np.where(y == "large", 50.0, 1.0)
    more, less = (clone(model).fit(x, y, sample_weight=each).predict(x) for each in (heavy, 1 / heavy))
    assert (more == "large").sum() > (less == "large").sum()
    with pytest.raises(ValueError, match=r"at least 0, not all of them zero; the least is -1\.0"):
        model.fit(x, y, sample_weight=-some.astype(float))


def test_weights_of_classes_are_given_by_class(frame):
    x, y = frame
    y = y.where(np.arange(len(y)) % 4 > 0, "small")
    model = MLPClassifierEstimator(random_state=0, **QUICK)
    plain, heavy, even = (
        (clone(model).set_params(class_weight=weight).fit(x, y).predict(x) == "large").sum()
        for weight in (None, {"large": 20.0}, "balanced")
    )
    assert heavy > plain
    assert even >= plain


def test_what_cannot_be_learned_from_is_one_line(frame):
    x, y = frame
    for kind, target, how, said in [
        (MLPClassifierEstimator, y.where(y == "small", "small"), {}, "needs two classes; y has one class, 'small'"),
        (MLPRegressorEstimator, np.ones(len(x)), {}, "is 1 in all"),
        (MLPRegressorEstimator, y, {}, "could not convert string to float"),
        (MLPClassifierEstimator, y, {"categorical": ["none"]}, "--data.categorical names 'none'"),
        (MLPClassifierEstimator, y, {"lr": -1.0}, "lr"),
    ]:
        with pytest.raises(ValueError, match=said):
            kind(**{**QUICK, **how}).fit(x, target)


def test_without_a_validation_share_the_last_weights_stay():
    x, y = load_diabetes(return_X_y=True)
    model = MLPRegressorEstimator(validation_fraction=0.0, random_state=0, max_epochs=20).fit(x, y)
    assert model.datamodule_.n_train == len(x)
    assert model.score(x, y) > 0.4


def test_numbers_and_names_of_an_array_are_learned(frame):
    x, y = frame
    array = x[["size", "name", "flag"]].to_numpy()
    model = MLPClassifierEstimator(random_state=0, **QUICK).fit(array, y)
    assert model.datamodule_.learned.encoding.inputs == ["X_0", "X_1", "X_2"]
    assert model.score(array, y) > 0.6


def test_polars_frames_are_learned(frame):
    polars = pytest.importorskip("polars", reason="not installed: pip install polars")
    x, y = frame
    model = MLPClassifierEstimator(random_state=0, **QUICK).fit(polars.from_pandas(x), polars.from_pandas(y))
    theirs = MLPClassifierEstimator(random_state=0, **QUICK).fit(x, y)
    assert np.array_equal(model.predict_proba(polars.from_pandas(x)), theirs.predict_proba(x))
    assert model.feature_names_in_.tolist() == list(x)


def test_the_data_of_a_table_in_memory_are_no_flag():
    from datamodules import TabularDataModule

    assert "target" in own_arguments(TabularDataModule)
    assert "data" not in own_arguments(TabularDataModule)


def test_the_package_loads_neither_torch_nor_scikit_learn_for_their_names():
    code = (
        "import sys, lightning_mods as m; assert 'MLPClassifierEstimator' in m.__all__; "
        "print([name for name in ('torch', 'sklearn', 'pandas', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x, y = load_breast_cancer(return_X_y=True, as_frame=True)
    train_x, test_x, train_y, test_y = train_test_split(x, y, random_state=0)
    model = MLPClassifierEstimator(random_state=0).fit(train_x, train_y)
    assert model.score(test_x, test_y) > 0.94
    assert model.diagnosis_.fit in ("good", "overfit", "underfit")
