"""Rows that count differently: `--data.weight`, from the file to the loss, the reference and the estimators."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import Trainer
from sklearn.metrics import log_loss, mean_squared_error
from verbs_here import do, succeed

from datamodules import TabularDataModule
from lightning_mods import MLPClassifier, MLPEnsemble, MLPRegressor
from lightning_mods.runs.boosting import Boosting, Plan
from lightning_mods.runs.reference import reference_scores

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's CLI and jsonargparse warn of each other
BEST = Path("lightning_logs/version_0/checkpoints/best.ckpt")
QUICK = ("--watch=[]", "--reference=false", "--trainer.max_epochs=3", "--trainer.logger=false")
ALL = {"val_fraction": 0.0, "test_fraction": 0.0, "batch_size": "full", "seed": 0}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(rows: int = 120, *, classes: bool, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 2))
    total = x[:, 0] - x[:, 1] + rng.normal(size=rows)
    y = np.where(total > 0.5, "up", np.where(total > -0.5, "mid", "down")) if classes else 10 * total
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "count": rng.integers(0, 4, rows), "y": y})


def model_for(data, **more):
    torch.manual_seed(0)
    if data.task == "classification":
        return MLPClassifier(data.in_features, data.num_classes, data.class_counts, hidden_sizes=(4,), **more)
    return MLPRegressor(data.in_features, data.target_mean, data.target_std, hidden_sizes=(4,), **more)


def trained(data, model=None, **more):
    model = model_for(data, **more) if model is None else model
    trainer = Trainer(
        max_epochs=5, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(model, datamodule=data)
    return model, float(trainer.callback_metrics["train_loss"])


@pytest.mark.parametrize(("classes", "more"), [(True, {}), (True, {"class_weight": [1.0, 2.0, 5.0]}), (False, {})])
def test_a_row_of_weight_two_is_two_rows_to_gradient_descent(classes, more):
    frame = table(classes=classes)
    copies = frame.loc[frame.index.repeat(frame["count"])].drop(columns="count")
    weighed = TabularDataModule(data=frame, target="y", weight="count", **ALL)
    copied = TabularDataModule(data=copies, target="y", **ALL)
    kept = frame[frame["count"] > 0]
    # The columns are standardised by rows, not by what these count.
    for one, other in zip(weighed.learned.encoding.columns, copied.learned.encoding.columns, strict=True):
        object.__setattr__(other, "mean", one.mean)
        object.__setattr__(other, "scale", one.scale)
    decay = {"weight_decay": 0.0}
    (one, one_loss), (other, other_loss) = trained(weighed, **more, **decay), trained(copied, **more, **decay)
    assert one_loss == pytest.approx(other_loss, rel=1e-5)
    assert one.baseline_loss == pytest.approx(other.baseline_loss, rel=1e-6)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    alike, _ = trained(TabularDataModule(data=kept.drop(columns="count"), target="y", **ALL), **more, **decay)
    assert any(not torch.allclose(a, b, atol=1e-3) for a, b in zip(one.parameters(), alike.parameters(), strict=True))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-12, 1.0, 1e12]))
def test_only_the_proportions_of_weights_count(seed, scale):
    frame = table(classes=False, seed=seed)
    one, other = (
        TabularDataModule(data=frame.assign(count=frame["count"] * by), target="y", weight="count", seed=seed)
        for by in (1.0, scale)
    )
    sets = [[loader().dataset for loader in (d.train_dataloader, d.val_dataloader)] for d in (one, other)]
    for a, b in zip(*sets, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.allclose(a.weight, b.weight)
        assert (a.weight > 0).all()
    assert float(sets[0][0].weight.mean()) == pytest.approx(1, rel=1e-5)
    assert one.target_std == pytest.approx(other.target_std)


def predictions_for(frame: pd.DataFrame) -> pd.DataFrame:
    frame.drop(columns=["y", "count"]).to_csv("new.csv", index=False)  # who predicts knows no weights
    succeed("predict", "--data.predict_path=new.csv")
    return pd.read_csv("predictions.csv")


@pytest.mark.parametrize("classes", [True, False])
def test_the_losses_told_are_weighted_and_nothing_else_is(classes):
    frame = table(400, classes=classes)
    frame[:300].to_csv("train.csv", index=False)
    frame[300:].to_csv("test.csv", index=False)
    flags = ("--data.path=train.csv", "--data.target=y", "--data.weight=count", "--data.test_path=test.csv")
    _, err = succeed("fit", *flags, *QUICK, "--ensemble=2", "--calibrate=true")
    said = " ".join(err.split())
    assert "left out: count (weights of the rows)" in said
    assert "each counts its 'count'" in said
    assert f"{(frame[:300]['count'] == 0).sum()} of weight 0 left out" in said
    own = frame[300:][frame[300:]["count"] > 0]
    found = predictions_for(own)
    model, data = MLPEnsemble.load_from_checkpoint(BEST), TabularDataModule.load_from_checkpoint(BEST)
    assert data.weight == "count"
    (told,) = Trainer(logger=False, accelerator="cpu").test(model, data, verbose=False)
    if classes:
        shares = found[["probability_down", "probability_mid", "probability_up"]].to_numpy()
        weighted = log_loss(own["y"], shares, sample_weight=own["count"])
        assert told["test_accuracy"] == pytest.approx((found["prediction"].to_numpy() == own["y"]).mean(), abs=1e-6)
    else:
        weighted = mean_squared_error(own["y"], found["prediction"], sample_weight=own["count"])
        assert told["test_rmse"] == pytest.approx(mean_squared_error(own["y"], found["prediction"]) ** 0.5, rel=1e-5)
    losses = model.val_row_losses
    assert float(losses.mean()) == pytest.approx(told["test_loss"], rel=1e-5)
    assert told["test_loss"] >= weighted * (1 - 1e-6)  # the mean member's, which is no less than the ensemble's


@pytest.mark.parametrize("classes", [True, False])
def test_one_model_s_loss_is_scikit_learn_s_with_these_weights(classes):
    data = TabularDataModule(data=table(400, classes=classes), target="y", weight="count", seed=3)
    model, _ = trained(data)
    (told,) = Trainer(logger=False, accelerator="cpu").test(model, data, verbose=False)
    rows = data.test_dataloader().dataset
    with torch.no_grad():
        found = model(rows.x)
    y, weight = rows.y.numpy(), rows.weight.numpy()
    measure = log_loss if classes else mean_squared_error
    assert told["test_loss"] == pytest.approx(measure(y, found.double().numpy(), sample_weight=weight), rel=1e-5)
    # The best constant prediction of the training rows, and what it is worth there.
    train = data.train_dataloader().dataset
    mass = np.bincount(train.y, train.weight) if classes else None
    constant = mass / mass.sum() if classes else np.average(train.y, weights=train.weight)
    trivial = np.broadcast_to(constant, (len(train), *np.shape(constant)))
    assert model.baseline_loss == pytest.approx(measure(train.y, trivial, sample_weight=train.weight), rel=1e-5)
    trivial = np.broadcast_to(constant, (len(y), *np.shape(constant)))
    told = model.baseline_on(rows.y, rows.weight)
    assert told["loss"] == pytest.approx(measure(y, trivial, sample_weight=weight), rel=1e-5)


def test_rows_on_disk_have_their_weights(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    table(300, classes=True).to_csv("t.csv", index=False)
    for _ in range(2):  # written, and found again
        sets = [
            {stage: getattr(data, f"{stage}_dataloader")().dataset for stage in ("train", "val", "test")}
            for data in (TabularDataModule("t.csv", "y", weight="count", memory_map=kept) for kept in (False, True))
        ]
        for stage in sets[0]:
            assert torch.equal(sets[0][stage].weight, sets[1][stage].weight)
            assert torch.equal(sets[0][stage].y, sets[1][stage].y)


def test_boosted_trees_learn_what_counts():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 1)).astype(np.float32)
    doubt = rng.random(600) < 0.5  # rows that say the opposite, and count nearly nothing
    y = np.where(doubt, -x[:, 0], x[:, 0])
    plan = Plan(600, 50, 1, 600)
    own = np.where(doubt, 1e-3, 1.0).astype(np.float32)
    for target, weights in ((y, None), ((y > 0).astype(np.int64), np.ones(2))):
        heeded, not_heeded = (
            Boosting(x, target, weights, each, plan=plan, seed=0, until=np.inf).predict(x) for each in (own, None)
        )
        heeded, not_heeded = (each if weights is None else each[:, 1] for each in (heeded, not_heeded))
        assert np.corrcoef(heeded, x[:, 0])[0, 1] > 0.8
        assert abs(np.corrcoef(not_heeded, x[:, 0])[0, 1]) < 0.5


def test_the_reference_is_scored_as_the_model_is():
    data = TabularDataModule(data=table(400, classes=False), target="y", weight="count", seed=3)
    scores = reference_scores(model_for(data), data)
    rows = data.val_dataloader().dataset
    trivial = np.average((rows.y - data.target_mean) ** 2, weights=rows.weight)
    assert 0 < scores["val"]["loss"] < trivial


def test_a_run_is_resumed_validated_and_searched_with_weights():
    table(200, classes=True).to_csv("t.csv", index=False)
    flags = ("--data.path=t.csv", "--data.target=y", "--data.weight=count")
    succeed("fit", *flags, *QUICK, "--reference=true", "--watch=[fit]", "--importance=true", "--calibrate=true")
    succeed("validate")
    succeed("fit", *flags, *QUICK, "--trainer.max_epochs=4", "--reference=true", "--watch=[fit]", "--ckpt_path=last")
    study = ("--study.n_trials=3", "--study.folds=2", "--trainer.logger=false")
    out, err = succeed("study", *flags, "--trainer.max_epochs=2", *study)
    assert "3 trials" in out + err
    code, _, err = do("study", *flags, "--trainer.max_epochs=2", "--study.n_trials=3", "--ensemble=greedy")
    assert (code, err.count("\n")) == (2, 1)
    assert "needs rows that count alike, and --data.weight is given" in err


@pytest.mark.parametrize(
    ("column", "line"),
    [
        ("wait", "names 'wait'; 't.csv' has"),
        ("y", "names the target"),
        ("debt", "needs numbers from 0 to 1e+18, some above 0; row 3 holds -1."),
        ("none", "needs numbers from 0 to 1e+18, some above 0; all are 0."),
        ("gap", "1 rows of 't.csv' have none there, the first is row 2"),
        ("word", "120 rows of 't.csv' have none there, the first is row 1"),
    ],
)
def test_weights_that_are_none_are_one_line(column, line):
    frame = table(classes=False).assign(debt=1.0, none=0, gap=1.0, word="heavy")
    frame.loc[2, "debt"], frame.loc[1, "gap"] = -1.0, np.nan
    frame.to_csv("t.csv", index=False)
    code, _, err = do("fit", "--data.path=t.csv", "--data.target=y", f"--data.weight={column}", *QUICK)
    assert (code, err.count("\n")) == (2, 1)
    assert "--data.weight" in err
    assert line in err


def test_a_file_to_test_on_has_weights_too():
    frame = table(classes=False)
    frame.to_csv("t.csv", index=False)
    frame.drop(columns="count").to_csv("test.csv", index=False)
    flags = ("--data.path=t.csv", "--data.target=y", "--data.weight=count", "--data.test_path=test.csv")
    code, _, err = do("fit", *flags, *QUICK)
    assert (code, err.count("\n")) == (2, 1)
    assert "--data.weight names 'count'; 'test.csv' has" in err


class WithoutRows(MLPRegressor):
    """A loss of one's own, whose parts nobody knows."""

    def loss(self, outputs, y):
        return super().loss(outputs, y).sqrt()


def test_a_loss_of_one_s_own_that_cannot_be_weighted_says_so():
    data = TabularDataModule(data=table(classes=False), target="y", weight="count")
    model = WithoutRows(data.in_features, data.target_mean, data.target_std)
    with pytest.raises(ValueError, match="weights of rows need `row_losses`, which WithoutRows does not have"):
        trained(data, model)
