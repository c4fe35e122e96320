import doctest

import pytest

from callbacks.readers import pacing as schedules
from callbacks.readers.pacing import NEVER, AnyOf, Every


def due(schedule, until=50):
    return [step for step in range(until) if schedule(step)]


def test_zero_is_never():
    assert due(Every(0)) == due(AnyOf((Every(0), Every(0)))) == due(AnyOf(())) == []
    assert Every(0).upcoming(3) == AnyOf((Every(0),)).upcoming(3) == AnyOf(()).upcoming(3) == NEVER


def test_one_is_always():
    assert due(Every(1), 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("schedule", [Every(1), Every(7), AnyOf((Every(4), Every(0), Every(6)))])
def test_the_upcoming_step_is_the_first_that_is_due(schedule):
    for step in range(30):
        assert schedule.upcoming(step) == next(later for later in range(step, 60) if schedule(later))


def test_they_are_values():
    assert AnyOf((Every(5),)) == AnyOf((Every(5),)) != AnyOf((Every(6),))
    assert repr(Every(5)) == "Every(n=5)"


def test_a_number_below_zero_is_refused():
    with pytest.raises(ValueError, match="n must be at least 0, not -1"):
        Every(-1)


def test_the_examples_are_true():
    failed, tried = doctest.testmod(schedules)
    assert (failed, tried) == (0, 2)
