import pytest

from callbacks.readers import pacing as spare_time
from callbacks.readers.pacing import SpareTime


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(spare_time, "monotonic", lambda: now[0])
    return now


def test_work_is_done_again_when_it_was_a_small_enough_share_of_the_time(clock):
    spare = SpareTime(0.1)
    assert spare.is_due
    with spare.work():
        clock[0] += 2
    for seconds, due in ((0, False), (19, False), (1, True)):
        clock[0] += seconds
        assert spare.is_due is due


def test_a_guess_holds_back_the_first_time(clock):
    spare = SpareTime(0.5, guess=3)
    assert not spare.is_due
    clock[0] += 6
    assert spare.is_due


def test_work_that_fails_counts_too(clock):
    spare = SpareTime(1.0)

    def fails():
        clock[0] += 1
        raise OSError("full")

    with pytest.raises(OSError, match="full"), spare.work():
        fails()
    assert not spare.is_due
