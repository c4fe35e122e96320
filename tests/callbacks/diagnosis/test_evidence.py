"""What a fit knows beside its curves: how it is weighed, and which changes it lets one expect something of."""

from dataclasses import fields, replace
from math import isnan, nan

import pytest

from callbacks.diagnosis import Fit, diagnose
from callbacks.diagnosis.changes import LEAST_GAIN, LEAST_LOWERS, RULES, expected_changes
from callbacks.diagnosis.curves import read_curve
from callbacks.diagnosis.evidence import Evidence, Settings
from callbacks.diagnosis.features import NAMES as CURVE_NAMES
from callbacks.diagnosis.fit_features import NAMES, fit_features
from callbacks.diagnosis.trees import shipped, total

TRIVIAL = 2.3
SETTINGS = Settings(
    optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, dropout=0.0, hidden_sizes=(32,), batch_size=32,
    max_epochs=20, lr_schedule="constant", ema_epochs=0.0, clip=0.0, members=1, train_rows=1000, in_features=20,
    classes=10,
)  # fmt: skip
# Both losses lie flat, close to each other, far above what trees reach on the same rows.
FLAT = [1.45 + 0.85 * 0.6**epoch for epoch in range(20)]
FAR_ABOVE = Evidence(
    reference_loss=0.4, fair_train_loss=FLAT[-1] - 0.02, val_rows=300, val_error=0.04, rise_error=0.0, keeps_best=True,
    settings=SETTINGS,
)  # fmt: skip


def _asked(evidence: Evidence | None, times: float = 1.0):
    train, val = [(v - 0.01) * times for v in FLAT], [v * times for v in FLAT]
    return diagnose(train, val, baseline_loss=TRIVIAL * times, evidence=evidence)


def test_a_high_plateau_is_good_by_its_curves_and_underfit_by_what_can_be_had():
    assert _asked(None).fit is Fit.GOOD
    assert _asked(FAR_ABOVE).fit is Fit.UNDERFIT


def test_a_plateau_below_the_reference_is_not_underfit():
    assert (
        _asked(replace(FAR_ABOVE, reference_loss=1.7)).probabilities[Fit.UNDERFIT]
        < (_asked(FAR_ABOVE).probabilities[Fit.UNDERFIT])
    )


def test_the_unit_of_the_losses_does_not_matter():
    scaled = {
        name: 1000 * getattr(FAR_ABOVE, name)
        for name in ("reference_loss", "fair_train_loss", "val_error", "rise_error")
    }
    before, after = _asked(FAR_ABOVE), _asked(replace(FAR_ABOVE, **scaled), times=1000)
    assert after.probabilities == before.probabilities
    assert after.changes == before.changes


@pytest.mark.parametrize("missing", [field.name for field in fields(Evidence) if field.name != "keeps_best"])
def test_whatever_is_missing_a_verdict_comes(missing):
    empty = Settings() if missing == "settings" else None
    found = _asked(replace(FAR_ABOVE, **{missing: empty}))
    assert found.fit in (Fit.UNDERFIT, Fit.GOOD, Fit.OVERFIT, Fit.UNKNOWN)
    assert sum(found.probabilities.values()) == pytest.approx(1)


def test_what_is_missing_is_nan_and_nothing_else_is():
    val = read_curve(FLAT)
    assert val is not None
    full, none = fit_features(None, val, TRIVIAL, FAR_ABOVE), fit_features(None, val, TRIVIAL, Evidence())
    assert len(full) == len(CURVE_NAMES) + len(NAMES)
    assert not any(map(isnan, full))
    told_by_curves = {"room_of_trivial", "gained", "rise"}
    assert {name for name, v in zip(NAMES, none[len(CURVE_NAMES) :], strict=True) if not isnan(v)} == told_by_curves


def test_a_missing_number_goes_where_the_tree_sends_it():
    low, high = [0, 0.5, -1.0, 1.0, 1], [0, 0.5, -1.0, 1.0]
    assert total({"start": 10.0, "trees": [low]}, [nan]) == 9.0
    assert total({"start": 10.0, "trees": [high]}, [nan]) == 11.0
    assert total({"start": 10.0, "trees": [low, high]}, [0.5]) == 8.0


def _changes(settings: Settings) -> tuple[str, ...]:
    val = read_curve(FLAT)
    assert val is not None
    row = fit_features(None, val, TRIVIAL, replace(FAR_ABOVE, settings=settings))
    return tuple(change.name for change in expected_changes(row, settings))


def test_a_run_far_above_what_can_be_had_is_told_changes_the_best_first():
    changes = _asked(FAR_ABOVE).changes
    assert changes
    assert all(change.gain >= LEAST_GAIN and change.lowers >= LEAST_LOWERS for change in changes)
    assert {change.setting for change in changes} <= {field.name for field in fields(Settings)}


@pytest.mark.parametrize(
    ("name", "done"),
    [
        ("ensemble", {"members": 5}),
        ("ensemble", {"members": None}),
        ("cosine", {"lr_schedule": "cosine"}),
        ("averaged", {"ema_epochs": 2.0}),
        ("dropout_off", {"dropout": 0.0}),
        ("decay_off", {"weight_decay": 0.0}),
        ("wider", {"hidden_sizes": ()}),
        ("batch_down", {"batch_size": 4}),
        ("batch_up", {"batch_size": 1000}),
    ],
)
def test_what_is_done_already_or_cannot_be_is_no_change(name, done):
    assert name not in _changes(replace(SETTINGS, **done))
    assert not RULES[name][1](replace(SETTINGS, **done))


def test_every_change_says_what_it_sets():
    assert set(RULES) == set(shipped("fits")["changes"])
    known = {name: value(SETTINGS) for name, (_, _, value) in RULES.items()}
    assert known["longer"] == 80
    assert known["lr_down"] == pytest.approx(0.01 / 3, rel=1e-2)
    assert known["wider"] == (128,)
    assert known["deeper"] == (32, 32)
    assert known["decay_up"] == pytest.approx(1e-3)
    unknown = {name: value(Settings()) for name, (_, _, value) in RULES.items()}
    assert {name for name, value in unknown.items() if value is not None} == {
        "decay_off", "dropout_off", "cosine", "averaged", "ensemble",
    }  # fmt: skip


def test_curves_alone_are_less_sure_than_a_fit():
    sure, alone = _asked(FAR_ABOVE), _asked(Evidence(keeps_best=True, kept_epoch=19))
    assert alone.probabilities == _asked(None).probabilities
    assert alone.probabilities[alone.fit] < sure.probabilities[sure.fit]


def test_the_reason_of_an_underfit_names_what_can_be_had():
    assert "the reference reaches 0.4 on the same rows" in _asked(FAR_ABOVE).reason


def test_a_loss_that_worsens_while_the_metric_holds_is_overfit_in_a_fit_and_good_by_its_curves():
    val = [2.0 - 0.2 * epoch for epoch in range(8)] + [0.6 + 0.12 * epoch for epoch in range(1, 13)]
    train = [2.0 * 0.75**epoch for epoch in range(20)]
    accuracy = [min(0.9, 0.3 + 0.1 * epoch) for epoch in range(20)]
    known = replace(FAR_ABOVE, reference_loss=0.55, fair_train_loss=0.005, rise_error=0.05)
    in_a_fit, by_curves = (
        diagnose(train, val, val_metric=accuracy, baseline_loss=TRIVIAL, evidence=evidence)
        for evidence in (known, None)
    )
    assert (in_a_fit.fit, in_a_fit.cause) == (Fit.OVERFIT, "overconfident")
    assert (by_curves.fit, by_curves.cause) == (Fit.GOOD, "overconfident")
