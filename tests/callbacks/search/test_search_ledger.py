"""The books of a study, over every order of events that a kill can leave behind."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from callbacks.search.claims import Claim, TrialHistory


@dataclass
class Trial:
    number: int
    named: str
    user_attrs: dict = field(default_factory=dict)

    @property
    def state(self):
        return SimpleNamespace(name=self.named)


def again(number, named, origin, attempt, **attrs):
    return Trial(number, named, {"origin": origin, "attempt": attempt, **attrs})


def failed(number):
    return Trial(number, "FAIL", {"reason": "ValueError"})


def books(*trials, n_trials=3, retries=2):
    return TrialHistory(trials, n_trials, retries)


def test_an_empty_study_begins_with_its_first_place():
    assert books().next() == Claim(0)
    assert books().settled == []


def test_what_failed_by_itself_counts_and_what_was_lost_is_tried_again():
    lost = Trial(1, "FAIL")
    ledger = books(Trial(0, "COMPLETE"), lost, failed(2))
    assert [trial.number for trial in ledger.settled] == [0, 2]
    assert ledger.next() == Claim(1, 1, lost=lost)
    assert ledger.origin(1) == 1


def test_a_second_attempt_takes_the_place_of_the_first():
    ledger = books(Trial(0, "FAIL"), Trial(1, "PRUNED"), again(2, "COMPLETE", 0, 1))
    assert [trial.number for trial in ledger.settled] == [2, 1]
    assert ledger.place_of(2) == 0
    assert ledger.place_of(0) is None
    assert ledger.next() == Claim(2)


def test_a_running_trial_holds_its_place_and_is_not_settled():
    ledger = books(Trial(0, "RUNNING"), Trial(1, "COMPLETE"), Trial(2, "RUNNING"))
    assert ledger.next() is None
    assert [trial.number for trial in ledger.settled] == [1]


def test_of_two_that_started_at_once_the_lower_number_counts():
    ledger = books(Trial(0, "FAIL"), Trial(1, "RUNNING"), again(2, "RUNNING", 0, 1), again(3, "RUNNING", 0, 1))
    assert ledger.place_of(2) == 0
    assert ledger.place_of(3) is None
    late = books(*(Trial(number, "RUNNING") for number in range(4)))
    assert late.place_of(2) == 2
    assert late.place_of(3) is None


def test_a_surplus_trial_never_counts_and_serves_when_more_are_asked_for():
    trials = [Trial(0, "COMPLETE"), Trial(1, "COMPLETE"), Trial(2, "COMPLETE"), Trial(3, "FAIL")]
    assert books(*trials).next() is None
    assert len(books(*trials).settled) == 3
    assert books(*trials, n_trials=5).next() == Claim(3, 1, lost=trials[3])


def test_a_place_that_is_lost_too_often_counts_as_failed():
    chain = [Trial(0, "FAIL"), again(1, "FAIL", 0, 1), again(2, "FAIL", 0, 2)]
    assert books(*chain, retries=2).next() == Claim(1)
    assert [trial.number for trial in books(*chain, retries=2).settled] == [2]
    assert books(*chain, retries=3).next() == Claim(0, 3, lost=chain[2])


def test_what_somebody_queued_is_taken_out_first():
    queued = Trial(1, "WAITING")
    assert books(Trial(0, "COMPLETE"), queued).next() == Claim(1, 0, waiting=queued)


@pytest.mark.parametrize("retries", [0, 1])
def test_no_retry_is_given_beyond_those_allowed(retries):
    chain = [Trial(0, "FAIL"), again(1, "FAIL", 0, 1)][: retries + 1]
    assert books(*chain, n_trials=1, retries=retries).next() is None
