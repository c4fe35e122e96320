"""The one rule by which a trial is hopeless, and what is kept of it; no trainer runs here."""

import math

import pytest

from callbacks.tuning.observer import TrialObserver


def watched(losses, *, baseline=1.0, others_learn=True, epochs=None):
    """The observer of a fit with these validation losses, and what it says after each epoch."""
    observer = TrialObserver(
        "val_loss", high=False, val_loss="val_loss", prunes=True, others_learn=lambda: others_learn
    )
    observer.baseline = baseline
    said = []
    for epoch in range(len(losses)):
        seen = losses[: epoch + 1]
        observer.take({"train_loss": seen, "val_loss": seen})
        said.append(observer.hopeless(epochs or len(losses)))
    return observer, said


def test_a_loss_far_above_the_trivial_one_has_diverged_at_once():
    observer, said = watched([0.95, 102.0])
    assert not said[0]
    assert said[1].startswith("diverged, exploded: val_loss is 102")
    assert observer.verdict()[:2] == ("diverged", "exploded")


def test_a_loss_that_is_no_number_is_diverged_however_short_the_fit():
    observer, _ = watched([0.9, math.nan])
    assert observer.verdict()[0] == "diverged"
    assert (observer.best_epoch, observer.best["val_loss"]) == (0, 0.9)


@pytest.mark.parametrize("others_learn", [True, False])
def test_a_trial_that_learns_nothing_is_hopeless_only_where_others_learn_and_after_a_quarter(others_learn):
    losses = [1.0 + 0.001 * (epoch % 2) for epoch in range(12)]
    observer, said = watched(losses, others_learn=others_learn, epochs=32)
    assert observer.verdict()[1] == "not_learning"
    assert [bool(why) for why in said] == [others_learn and epoch >= 7 for epoch in range(12)]


def test_a_trial_that_has_learned_is_let_go_on_without_a_verdict(monkeypatch):
    monkeypatch.setattr("callbacks.tuning.observer.diagnose", None)
    _, said = watched([0.8, 0.7, 0.85])
    assert said == ["", "", ""]
