"""Splits that keep groups together, or hold out the newest rows."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules import DataError, TabularDataModule
from datamodules.splits import split_by_group, split_by_time

SHARES = st.sampled_from([(0.15, 0.15), (0.2, 0.0), (0.0, 0.3), (0.4, 0.1)])


def sets(splits):
    return splits.train, splits.val, splits.test


def is_a_partition(splits, rows):
    return np.array_equal(np.sort(np.concatenate(sets(splits))), rows)


@given(seed=st.integers(0, 10**6), n_groups=st.integers(12, 60), shares=SHARES)
def test_a_group_is_never_on_both_sides(seed, n_groups, shares):
    rng = np.random.default_rng(seed)
    groups = np.concatenate([np.arange(n_groups), rng.integers(0, n_groups, 300)])
    rows = np.arange(len(groups)) * 2
    found = split_by_group(rows, groups, rng.integers(0, 3, len(groups)), shares, seed)
    assert is_a_partition(found, rows)
    there = [{*groups[part // 2].tolist()} for part in sets(found)]
    assert not (there[0] & there[1])
    assert not (there[0] & there[2])
    assert not (there[1] & there[2])
    for part, share in zip(sets(found)[1:], shares, strict=True):
        assert abs(len(part) / len(rows) - share) < 0.1
    again = split_by_group(rows, groups, rng.integers(0, 1, len(groups)), shares, seed)
    assert is_a_partition(again, rows)


@given(seed=st.integers(0, 10**6), days=st.integers(12, 500), shares=SHARES)
def test_what_is_held_out_is_never_older_than_what_is_trained_on(seed, days, shares):
    rng = np.random.default_rng(seed)
    times = np.concatenate([np.arange(days), rng.integers(0, days, 300)]).astype(float)
    rows = np.arange(len(times))
    found = split_by_time(rows, times, shares)
    assert is_a_partition(found, rows)
    parts = [times[part] for part in sets(found) if len(part)]
    assert all(older.max() < newer.min() for older, newer in itertools.pairwise(parts))
    order = rng.permutation(len(rows))
    shuffled = split_by_time(rows, times[order], shares)
    assert [np.sort(order[part]).tolist() for part in sets(shuffled)] == [part.tolist() for part in sets(found)]


@pytest.fixture
def sales(tmp_path):
    rng = np.random.default_rng(0)
    n = 300
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 500, n), "D")
    table = pd.DataFrame({"shop": [f"shop {i}" for i in rng.integers(0, 30, n)], "day": day.strftime("%d.%m.%Y")})
    table["size"] = rng.normal(size=n)
    table["price"] = table["size"] * 3 + rng.normal(size=n)
    table.to_csv(tmp_path / "sales.csv", index=False)
    return str(tmp_path / "sales.csv"), table


def test_the_groups_of_a_table_are_no_feature_and_the_split_is_that_of_the_checkpoint(sales):
    path, table = sales
    data = TabularDataModule(path, "price", group="shop")
    assert data.learned.encoding.dropped["shop"] == "groups of the split"
    assert "groups of 'shop' together" in data.description
    splits = data._work.splits
    shops = [{*table["shop"].iloc[part]} for part in sets(splits)]
    assert all(shops)
    assert not (shops[0] & shops[1])
    assert not (shops[0] & shops[2])
    assert not (shops[1] & shops[2])
    later = TabularDataModule(path, "price")
    later.load_state_dict(data.state_dict())
    assert all(map(np.array_equal, sets(later._work.splits), sets(splits)))


def test_the_newest_rows_of_a_table_are_tested_on(sales):
    path, table = sales
    data = TabularDataModule(path, "price", time="day")
    assert "the newest by 'day' held out" in data.description
    days = pd.to_datetime(table["day"], format="%d.%m.%Y")
    train, val, test = (days.iloc[part] for part in sets(data._work.splits))
    assert train.max() < val.min() <= val.max() < test.min()
    assert len(test) == pytest.approx(45, abs=3)
    later = TabularDataModule(path, "price")
    later.load_state_dict(data.state_dict())
    assert all(map(np.array_equal, sets(later._work.splits), sets(data._work.splits)))


def test_a_state_without_such_a_split_is_as_before_there_were_any(sales):
    state = TabularDataModule(sales[0], "price").state_dict()
    assert not {"group", "time"} & {*state}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"group": "shp"}, "--data.group names 'shp'; .* has 'shop'"),
        ({"time": "price"}, "--data.time names the target 'price'"),
        ({"time": "day", "group": "shop"}, "--data.group and --data.time are two ways to split; give one"),
        ({"time": "shop"}, "--data.time=shop: 300 rows of .* have none there"),
        ({"group": "one"}, "1 groups are too few to hold out"),
        ({"time": "one"}, "1 different times are too few to hold out"),
        ({"group": "gaps"}, "--data.group=gaps: 100 rows of .* have none there, the first is row 1"),
    ],
)
def test_a_split_that_cannot_be_is_one_line(sales, tmp_path, given, line):
    table = sales[1].assign(one=1, gaps=[None if i % 3 == 0 else "a" for i in range(300)])
    table.to_csv(tmp_path / "more.csv", index=False)
    with pytest.raises(DataError, match=line):
        _ = TabularDataModule(str(tmp_path / "more.csv"), "price", **given).description
