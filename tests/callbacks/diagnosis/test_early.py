"""What one, two or three evaluations of a fit can tell, as a trial has that was pruned."""

import math

import pytest

from callbacks.diagnosis.early import diagnose_early


@pytest.mark.parametrize(
    ("train", "val", "base", "said"),
    [
        ([1.2, 0.9, 0.7], [1.0, 0.8, 0.6], 1.1, "underfit still_improving"),
        ([1.2], [0.5], 1.1, "underfit still_improving"),
        ([0.9, 0.7], [0.8, 0.6], None, "underfit still_improving"),
        ([1.1, 1.1, 1.1], [1.1, 1.099, 1.1], 1.1, "underfit not_learning"),
        ([1.3], [1.2], 1.1, "underfit not_learning"),
        ([2.1, 18.0, 1952.0], [6.9, 184.0, 85e4], 2.3, "diverged exploded"),
        ([0.57, 0.05, 0.38], [0.25, 0.56, 0.83], 1.09, "diverged exploded"),
        ([0.9, math.nan], [0.9, math.nan], 1.1, "diverged exploded"),
        ([math.nan], [math.nan], None, "diverged exploded"),
        ([1e30], [math.inf], 1.1, "diverged exploded"),
        ([0.5, 0.2, 0.1], [0.5, 0.4, 0.6], 1.1, "overfit memorising"),
        ([0.5, 0.2, 0.1], [0.5, 0.4, 3.0], 1.1, "overfit memorising"),
        ([0.6, 0.13, 0.09], [0.18, 0.139, 0.138], 1.09, "good healthy"),
        ([], [0.18, 0.139, 0.138], math.inf, "good healthy"),
        ([0.5], [0.5], None, "unknown too_few_epochs"),
        ([0.5], [None], 1.0, "unknown too_few_epochs"),
        ([], [], 1.0, "unknown too_few_epochs"),
    ],
)
def test_a_few_evaluations_tell_who_lies_at_the_trivial_loss_who_falls_and_who_explodes(train, val, base, said):
    fit, cause, reason = diagnose_early(train, val, baseline_loss=base)
    assert f"{fit} {cause}" == said
    assert reason


def test_the_verdict_knows_no_unit():
    train, val = [1.2, 0.9, 0.7], [1.0, 0.8, 0.79]
    for scale in (1e-6, 1.0, 1e6):
        args = [scale * v for v in train], [scale * v for v in val]
        assert diagnose_early(*args, baseline_loss=1.1 * scale)[:2] == diagnose_early(train, val, baseline_loss=1.1)[:2]
