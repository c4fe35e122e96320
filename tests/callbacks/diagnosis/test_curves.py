import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbacks.diagnosis import curves

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


def noisy(values, sigma, seed=0):
    r = random.Random(seed)
    return [v + r.gauss(0, sigma) for v in values]


def test_missing_values_leave_a_hole_in_the_epochs():
    assert curves.finite([1.0, None, math.nan, 2.0, math.inf]) == ([0, 3], [1.0, 2.0])


def test_a_curve_without_a_number_is_none():
    assert curves.read_curve([None, math.nan]) is None
    assert curves.read_curve([]) is None


def test_the_noise_of_white_noise_on_a_slope_is_found():
    values = noisy([3 - 0.01 * i for i in range(400)], 0.05)
    assert curves.noise(values) == pytest.approx(0.05, rel=0.2)


def test_a_straight_line_has_no_noise():
    assert curves.noise([1.0 * i for i in range(20)]) == 0.0


def test_one_wild_value_does_not_move_the_slope():
    line = [2.0 - 0.1 * i for i in range(21)]
    line[7] = 50.0
    assert curves.slope(line) == pytest.approx(-0.1, rel=0.15)


def test_a_lucky_dip_is_not_the_best_epoch():
    values = noisy([math.exp(-i / 10) + 0.002 * i for i in range(60)], 0.003)
    values[50] = 0.01
    read = curves.read_curve(values)
    assert 25 <= read.best_epoch <= 48


def test_a_monotone_curve_is_left_as_it_is_by_despiking():
    values = [1 / (1 + i) for i in range(30)]
    assert curves.despike(values) == pytest.approx(values, abs=0.02)
    assert curves.despike(values)[:-1] == values[:-1]


def test_smoothing_keeps_a_line_a_line_up_to_its_ends():
    line = [0.5 * i for i in range(15)]
    assert curves.smoothed(line, 4) == pytest.approx(line)


def test_a_long_curve_is_thinned_and_ends_with_its_last_epoch():
    read = curves.read_curve([1 / (1 + i) for i in range(1000)])
    assert len(read.values) <= curves.MOST_POINTS
    assert read.epochs[-1] == 999
    assert read.count == 1000
    assert read.best_epoch == 999


def test_the_best_epoch_of_a_thinned_curve_is_an_epoch_and_no_block():
    values = [abs(i - 437) / 1000 + 1 for i in range(1000)]
    assert curves.read_curve(values).best_epoch == 437


def test_rows_written_twice_are_found_and_a_plateau_is_not_taken_for_them():
    assert curves.repeats("aabbcc") == 2
    assert curves.repeats("aaabbbccc") == 3
    assert curves.repeats("abbbb") == 1
    assert curves.repeats("aaaa") == 1


def test_infinity_at_the_end_is_told_from_infinity_before():
    assert curves.ends_infinite([1.0, math.inf, None])
    assert curves.ends_infinite([1.0, -math.inf, math.nan])
    assert not curves.ends_infinite([math.inf, 1.0])


def test_nan_between_validations_is_not_an_end_in_nan():
    nan = math.nan
    assert curves.ends_in_nan([1.0, 0.9, nan, nan])
    assert not curves.ends_in_nan([1.0, nan, nan, 0.9, nan, nan])
    assert not curves.ends_in_nan([1.0, 0.9, nan])
    assert not curves.ends_in_nan([1.0, None, None])


@given(numbers)
def test_whatever_is_read_lies_within_the_values(values):
    read = curves.read_curve(values)
    low, high = min(values), max(values)
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    assert all(low - slack <= v <= high + slack for v in read.values + read.smooth)
    assert 0 <= read.best_epoch < len(values)
    assert read.noise >= 0


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=300), st.sampled_from([0.25, 2.0, 1024.0]))
def test_a_change_of_unit_changes_the_unit_alone(values, factor):
    one, other = curves.read_curve(values), curves.read_curve([factor * v for v in values])
    assert other.best_epoch == one.best_epoch
    assert other.noise == pytest.approx(factor * one.noise)
    assert other.end == pytest.approx(factor * one.end, abs=1e-9)
