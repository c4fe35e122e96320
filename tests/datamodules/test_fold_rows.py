"""Folds of a table: which rows each holds out, and that what is learned comes from the others alone."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import DataError, TabularDataModule
from datamodules.splits import Fold, hold_out_fold, split_target
from datamodules.tabular import val_rows
from datamodules.targets import Target

SHARES = st.sampled_from([(0.15, 0.15), (0.0, 0.0), (0.0, 0.3), (0.4, 0.1)])


def target_of(task, rows, rng):
    if task == "regression":
        return Target(task, np.where(rng.random(rows) < 0.05, np.nan, rng.standard_normal(rows).round(1)))
    values = np.concatenate([np.repeat(np.arange(3), 40), rng.integers(-1, 3, rows - 120)])
    return Target(task, rng.permutation(values), ("a", "b", "c"))


@settings(deadline=None)  # groups are dealt out one by one
@given(
    task=st.sampled_from(["classification", "regression"]),
    seed=st.integers(-(10**6), 10**9).filter(lambda seed: seed >= 0),
    rows=st.integers(150, 300),
    folds=st.integers(2, 12),
    shares=SHARES,
    grouped=st.booleans(),
)
def test_folds_hold_out_each_row_that_is_not_for_test_once(task, seed, rows, folds, shares, grouped):
    rng = np.random.default_rng(seed)
    target = target_of(task, rows, rng)
    groups = rng.integers(0, 60, rows) if grouped else None
    whole = split_target(target, shares, seed, groups=groups)
    parts = [hold_out_fold(whole, target, Fold(k, folds), seed, groups=groups) for k in range(1, folds + 1)]
    rest = np.setdiff1d(np.flatnonzero(~target.missing), whole.test)
    assert np.array_equal(np.sort(np.concatenate([each.val for each in parts])), rest)
    for each in parts:
        assert np.array_equal(each.test, whole.test)
        assert np.array_equal(np.sort(np.concatenate([each.train, each.val])), rest)
        assert np.array_equal(each.val, np.sort(each.val))
        if groups is not None:
            assert not {*groups[each.val]} & {*groups[each.train]}
    if groups is None:
        assert np.ptp([len(each.val) for each in parts]) <= 1
    if groups is None and task == "classification":
        counts = np.array([np.bincount(target.values[each.val], minlength=3) for each in parts])
        assert (np.ptp(counts, axis=0) <= 1).all()
    every = hold_out_fold(whole, target, Fold(0, folds), seed, groups=groups)
    assert np.array_equal(every.train, rest)
    assert len(every.val) == 0
    assert np.array_equal(every.test, whole.test)


@pytest.fixture
def frame():
    rng = np.random.default_rng(1)
    colour = rng.choice(["red", "green", "blue"], 120)
    size = rng.standard_normal(120)
    return pd.DataFrame({"size": size, "colour": colour, "price": 3 * size + (colour == "red")})


def test_what_stands_in_a_held_out_row_changes_nothing_that_is_learned(frame):
    data = TabularDataModule(data=frame, target="price", folds=4, fold=2, bins=4, test_fraction=0)
    before, held = data.learned, val_rows(data)
    other = frame.copy()
    other.loc[held[0], ["size", "colour"]] = [1e6, "violet"]
    after = TabularDataModule(data=other, target="price", folds=4, fold=2, bins=4, test_fraction=0).learned
    assert after == before
    trained = frame["price"].drop(index=held)
    assert before.target_mean == pytest.approx(trained.mean(), rel=1e-12)
    assert before.target_std == pytest.approx(trained.std(ddof=0), rel=1e-12)
    other = frame.copy()
    other.loc[np.setdiff1d(np.arange(120), held)[0], "size"] = 1e6
    assert TabularDataModule(data=other, target="price", folds=4, fold=2, bins=4, test_fraction=0).learned != before


def test_a_checkpoint_of_a_fold_finds_its_rows_again(frame):
    data = TabularDataModule(data=frame, target="price", folds=4, fold=2, seed=7)
    data.setup()
    twin = TabularDataModule(data=frame, target="price")
    twin.load_state_dict(data.state_dict())
    assert np.array_equal(val_rows(twin), val_rows(data))
    assert (twin.val_dataloader().dataset.x == data.val_dataloader().dataset.x).all()
    assert (twin.test_dataloader().dataset.x == data.test_dataloader().dataset.x).all()
    assert "fold 2 of 4 for validation" in " ".join(data.description.split())


def test_validation_rows_come_in_the_order_of_their_numbers(frame):
    data = TabularDataModule(data=frame, target="price", folds=3, fold=3)
    data.setup()
    assert data.val_dataloader().dataset.y.numpy() == pytest.approx(frame["price"][val_rows(data)].to_numpy())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"folds": 1}, "--data.folds must be a whole number, 0 (none) or at least 2; got 1"),
        ({"folds": -3}, "--data.folds must be a whole number, 0 (none) or at least 2; got -3"),
        ({"folds": True}, "--data.folds must be a whole number, 0 (none) or at least 2; got True"),
        ({"fold": 1}, "--data.fold=1 needs --data.folds of at least that; got 0"),
        ({"folds": 3, "fold": 4}, "--data.fold=4 needs --data.folds of at least that; got 3"),
        ({"folds": 3, "time": "size"}, "--data.folds does not go with --data.time"),
        ({"folds": 3, "val_path": "other.csv"}, "--data.folds and --data.val_path are two ways to validate"),
        ({"folds": 121, "fold": 1}, "--data.folds=121 needs at least as many rows that are not for test"),
        ({"folds": 9, "fold": 1, "group": "colour"}, "--data.folds=9 needs at least as many groups outside the test"),
        ({"folds": 5, "fold": 1, "target": "rare"}, "class 'yes' has 4: give --data.folds=4, or leave it out"),
        ({"folds": 5, "fold": 1, "target": "lone"}, "class 'yes' has 1: give it more rows, or leave it out"),
    ],
)
def test_folds_that_cannot_be_are_one_line(frame, given, words):
    frame["rare"] = ["yes"] * 4 + ["no"] * 116
    frame["lone"] = ["yes"] * 1 + ["no"] * 119
    with pytest.raises(DataError) as raised:
        _ = TabularDataModule(data=frame, **{"target": "price", "test_fraction": 0, "val_fraction": 0, **given}).learned
    assert words in str(raised.value)
