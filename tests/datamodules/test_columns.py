"""Summaries gathered in pieces say what one look at the whole says."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.columns.cells import kind_of
from datamodules.columns.summary import MAX_TRACKED, ColumnSummary, Moments

moderate = st.floats(-1e9, 1e9, allow_subnormal=False)  # half of the smallest is nothing


def summary(values, *, pieces=1, forced=False, rows=None):
    array = pa.array(values) if not isinstance(values, pa.Array) else values
    found = ColumnSummary("c", kind_of(array.type), forced=forced)
    train = np.arange(len(array)) if rows is None else np.asarray(rows)
    edges = np.linspace(0, len(array), pieces + 1).astype(int)
    for low, high in pairwise(edges):
        inside = train[(train >= low) & (train < high)] - low
        found.add(array.slice(low, high - low), inside, int(low))
    return found


@given(st.lists(moderate, min_size=1, max_size=60), st.integers(0, 60))
def test_moments_of_two_pieces_are_those_of_the_whole(values, cut):
    pieces, whole = Moments(), np.array(values)
    pieces.add(whole[:cut])
    pieces.add(whole[cut:])
    assert pieces.n == len(whole)
    assert pieces.mean == pytest.approx(whole.mean(), rel=1e-9, abs=1e-9 * np.abs(whole).max())
    if whole.max() - whole.min() > 1e-6 * np.abs(whole).max():
        assert pieces.std == pytest.approx(whole.std(), rel=1e-6)


def test_a_small_spread_around_a_large_mean_is_kept():
    values = 1e9 + np.array([0.0, 1.0, 2.0])
    moments = Moments()
    moments.add(values)
    assert moments.std == pytest.approx(np.std([0, 1, 2]), rel=1e-12)
    assert not moments.constant


@pytest.mark.parametrize("values", [[1e300, -1e300, 0.0], [1e-200, 2e-200], [1.7e308, -1.7e308]])
def test_numbers_whose_squares_leave_float64_have_a_usable_spread(values):
    moments = Moments()
    moments.add(np.array(values))
    scaled = (np.array(values) / moments.std) - moments.center / moments.std
    assert np.isfinite(scaled).all()
    assert 0.5 < np.abs(scaled).max() < 10


def test_rounding_noise_is_constant():
    moments = Moments()
    moments.add(np.array([0.1 + 0.2, 0.3]))
    assert moments.constant


def test_only_training_rows_count_but_infinities_are_found_everywhere():
    found = summary([1.0, 100.0, 3.0, float("inf"), float("-inf")], rows=[0, 2], pieces=3)
    assert (found.n, found.moments.mean, found.n_infinite, found.first_infinite) == (2, 2.0, 2, 3)


@pytest.mark.parametrize("pieces", [1, 3, 5])
def test_names_are_counted_over_all_pieces(pieces):
    found = summary(["a", "b", "a", None, "a"], pieces=pieces)
    assert (found.counts, found.n_missing) == ({"a": 3, "b": 1}, 1)


@pytest.mark.parametrize("pieces", [1, 4])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("text", [False, True])
def test_a_row_number_is_recognised_by_its_training_rows(first, pieces, text):
    numbers = [i + first for i in range(50)]
    values = [str(i) for i in numbers] if text else numbers
    assert summary(values, pieces=pieces, rows=[1, 2, 5, 30, 49]).is_row_number


@pytest.mark.parametrize("values", [[5, 6, 7, 8], [1, 2, 4, 3], [1, 2, None, 4], [1.5, 2.5, 3.5, 4.5]])
def test_other_rising_numbers_are_no_row_number(values):
    assert not summary(values).is_row_number


def test_more_names_than_can_be_remembered_overflow_unless_the_user_wants_them():
    names = [f"n{i}" for i in range(MAX_TRACKED + 1)]
    assert summary(names).overflow
    assert summary(names, pieces=2).overflow
    assert len(summary(names, forced=True).counts) == MAX_TRACKED + 1


@pytest.mark.parametrize(
    "value",
    [
        "2013-01-01",
        "2013-1-1 05:00:00",
        "2013-01-01T05:00:00.25Z",
        "1/31/2013",
        "31.12.99",
        "05:30",
        "2013/01/31 5:30 PM",
    ],
)
def test_dates_are_recognised_as_they_are_usually_written(value):
    assert summary([value, value, value]).may_be_dates


@pytest.mark.parametrize("value", ["2013", "12-34", "a-b-c", "1.5", "10/20", "1:2:3:4"])
def test_other_text_is_no_date(value):
    assert not summary([value, value]).may_be_dates


def test_the_scale_is_the_deviation_unless_the_range_is_more_than_ten_of_them():
    even, tailed = Moments(), Moments()
    even.add(np.linspace(0, 1, 100))
    tailed.add(np.array([0.0] * 999 + [20.0]))
    assert even.scale == even.std
    assert tailed.scale == pytest.approx(2.0)
    assert tailed.std < tailed.scale
