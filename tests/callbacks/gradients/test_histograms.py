import numpy as np
import pytest

from callbacks.gradients.probe import BINS, bins_for, histograms


def test_counts_are_those_of_numpy():
    groups = [np.random.default_rng(seed).normal(size=size) for seed, size in enumerate((2048, 128, 10, 2))]
    found = histograms(np.concatenate(groups), [len(group) for group in groups])
    for one, group in zip(found, groups, strict=True):
        counts, edges = np.histogram(group, bins_for(len(group)))
        assert one.counts == counts.tolist()
        assert (one.low, one.high) == (edges[0], edges[-1])
        assert one.total == pytest.approx(group.sum())
        assert one.squares == pytest.approx((group**2).sum())


def test_bins_grow_with_the_numbers_up_to_what_is_drawn():
    assert [bins_for(size) for size in (1, 8, 1000, 10**9)] == [2, 4, 20, BINS]


def test_what_is_not_finite_is_left_out_and_the_other_groups_are_whole():
    inf, nan = np.inf, np.nan
    broken, none, whole, far = histograms(
        np.array([1.0, nan, 2.0, nan, inf, 3.0, 4.0, -1.7e308, 1.7e308]), [3, 2, 2, 2]
    )
    assert (broken.low, broken.high, sum(broken.counts), broken.total) == (1.0, 2.0, 2, 3.0)
    assert none is None
    assert (whole.low, whole.high, sum(whole.counts)) == (3.0, 4.0, 2)
    assert far is None  # further apart than a number can tell


def test_one_value_alone_stands_between_the_edges():
    (one,) = histograms(np.zeros(5), [5])
    assert one.low < 0 < one.high
    assert sum(one.counts) == 5
