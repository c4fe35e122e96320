import doctest

import pytest

from callbacks import schedules
from callbacks.schedules import EarlyThen, Either, Every, Spread


def due(schedule, until=50):
    return [step for step in range(until) if schedule(step)]


def test_zero_is_never():
    assert due(Every(0)) == due(Spread(0)) == []
    assert due(EarlyThen(2, Every(0))) == [0, 1]


def test_one_is_always():
    assert due(Every(1), 5) == [0, 1, 2, 3, 4]


def test_schedules_nest_and_take_any_function():
    schedule = Either(EarlyThen(2, Every(20)), lambda step: step == 7)
    assert due(schedule) == [0, 1, 7, 20, 40]


def test_steps_between_two_grow_as_the_run_does():
    assert due(Spread(3), 200) == [3, 6, 12, 24, 48, 96, 192]


def test_they_are_values():
    assert EarlyThen(3, Every(5)) == EarlyThen(3, Every(5)) != EarlyThen(3, Every(6))
    assert repr(Every(5)) == "Every(n=5)"


@pytest.mark.parametrize(
    ("make", "name"), [(Every, "n"), (Spread, "first"), (lambda n: EarlyThen(n, Every(1)), "steps")]
)
def test_a_number_below_zero_is_refused(make, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0, not -1"):
        make(-1)


def test_the_examples_are_true():
    failed, tried = doctest.testmod(schedules)
    assert (failed, tried) == (0, 4)
