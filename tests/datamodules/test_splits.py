"""Splits are disjoint, complete, in proportion, and a function of the seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.splits import MIN_ROWS_TO_SHARE, quantile_bins, split_rows

strata_lists = st.lists(st.integers(0, 6), min_size=20, max_size=300)


def split(strata, val=0.15, test=0.15, seed=0, rows=None):
    strata = np.asarray(strata, dtype=np.int64)
    rows = np.arange(len(strata)) if rows is None else rows
    return split_rows(rows, strata, val_fraction=val, test_fraction=test, seed=seed)


@given(strata_lists, st.floats(0, 0.45), st.floats(0, 0.45), st.integers(0, 2**40))
def test_the_sets_are_disjoint_and_together_all_rows(strata, val, test, seed):
    rows = np.arange(len(strata)) * 3 + 5
    try:
        sets = split(strata, val, test, seed, rows)
    except DataError:
        assert max(np.bincount(strata)) < 2 * MIN_ROWS_TO_SHARE
        return
    together = np.concatenate([sets.train, sets.val, sets.test])
    assert sorted(together.tolist()) == rows.tolist()
    assert all((np.diff(part) > 0).all() for part in (sets.train, sets.val, sets.test))


@given(strata_lists, st.floats(0, 0.45), st.floats(0, 0.45), st.integers(0, 99))
def test_no_class_leaves_training(strata, val, test, seed):
    try:
        sets = split(strata, val, test, seed)
    except DataError:
        return
    assert set(np.asarray(strata)[sets.train]) == set(strata)


@given(st.lists(st.integers(20, 200), min_size=2, max_size=5), st.integers(0, 99))
def test_every_class_is_shared_out_in_proportion_up_to_one_row(sizes, seed):
    strata = np.repeat(np.arange(len(sizes)), sizes)
    sets = split(strata, 0.2, 0.1, seed)
    for c, size in enumerate(sizes):
        assert abs((strata[sets.val] == c).sum() - 0.2 * size) < 1
        assert abs((strata[sets.test] == c).sum() - 0.1 * size) < 1
    assert len(sets.val) == round(0.2 * sum(sizes))
    assert len(sets.test) == round(0.1 * sum(sizes))


def test_the_same_seed_gives_the_same_sets_and_another_gives_others():
    strata = np.arange(200) % 3
    assert np.array_equal(split(strata, seed=4).val, split(strata, seed=4).val)
    assert not np.array_equal(split(strata, seed=4).val, split(strata, seed=5).val)


def test_a_class_with_too_few_rows_stays_in_training_and_is_named():
    sets = split([0] * 50 + [1] * 50 + [2] * 2)
    assert sets.unshared == (2,)
    assert {100, 101} <= set(sets.train.tolist())


def test_nothing_is_called_unshared_when_nothing_is_held_out():
    assert split([0] * 9 + [1], 0, 0).unshared == ()


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.15), (0.15, 0.0), (0.0, 0.0)])
def test_a_fraction_of_zero_gives_an_empty_set(val, test):
    sets = split(np.arange(40) % 2, val, test)
    assert (len(sets.val), len(sets.test)) == (round(40 * val), round(40 * test))


def test_a_small_table_still_fills_every_set():
    sets = split(np.arange(20) % 2, 0.02, 0.02)
    assert (len(sets.train), len(sets.val), len(sets.test)) == (18, 1, 1)


def test_too_few_rows_for_the_sets_asked_for_is_an_error():
    with pytest.raises(DataError, match="2 rows with a target are too few"):
        split([0, 1])


@given(st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=400))
def test_quantile_bins_are_equally_full_whatever_the_ties(values):
    bins = quantile_bins(np.array(values))
    counts = np.bincount(bins)
    assert len(counts) == min(max(len(values) // 20, 1), 10)
    assert counts.max() - counts.min() <= 1


def test_higher_bins_hold_higher_numbers():
    values = np.random.default_rng(0).normal(size=500)
    bins = quantile_bins(values)
    assert all(values[bins == i].max() <= values[bins == i + 1].min() for i in range(bins.max()))
