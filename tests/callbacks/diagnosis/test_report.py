from dataclasses import dataclass

import pytest

from callbacks.diagnosis import Diagnosis, Fit
from callbacks.diagnosis.evidence import Change
from callbacks.diagnosis.report import FitPart, HealthPart, last_word, merged, report
from callbacks.diagnosis.words.advice import Course, Knobs, advice_for

KNOBS = Knobs({"model.lr": 0.5, "model.weight_decay": 0.01, "model.dropout": 0.2, "trainer.max_epochs": 20})


@dataclass(frozen=True)
class Fault:
    fault: str
    why: str = "numbers"
    advice: str = "do something"


def diagnosis(fit, cause, *changes):
    plan = advice_for(cause, KNOBS, Course(epochs=20, is_kept=True), changes)
    return Diagnosis(fit, cause, {fit: 1.0}, 3, None, "Because.", tuple(a.text for a in plan), changes, plan)


def change(name, setting):
    return Change(name, 0.9, 0.0, 0.3, setting)


def health(*faults):
    return HealthPart(f"{len(faults)} found over 9 steps.", tuple(map(Fault, faults)), faults)


def said(found, *faults, **more):
    return report([FitPart(found, "headline", knobs=KNOBS), health(*faults)], **more).splitlines()


def test_a_fault_that_explains_the_verdict_leads_it():
    lines = said(diagnosis(Fit.UNDERFIT, "not_learning"), "unshuffled", "learning_rate_too_low", "labels_unbalanced")
    assert lines[:3] == ["verdict      headline", "because      unshuffled", "Because."]
    assert lines[3:6] == ["health       3 found over 9 steps.", "broken       learning_rate_too_low",
                          "broken       labels_unbalanced"]  # fmt: skip
    assert lines[6:8] == ["  1. Do something.", "  2. Do something (--model.lr=5)."]


def test_a_number_that_is_none_is_the_reason_where_there_was_no_time_for_a_validation():
    lines = said(diagnosis(Fit.UNKNOWN, "no_validation"), "learning_rate_too_high", "non_finite")
    assert lines[1] == "because      learning_rate_too_high"
    assert "  1. Do something (--model.lr=0.05)." in lines
    assert not any("Hold out" in line for line in lines)


def test_a_healthy_fit_says_so_between_reason_and_advice():
    lines = report([FitPart(diagnosis(Fit.GOOD, "healthy"), "headline"), HealthPart("nothing wrong over 9 steps.")])
    assert lines.splitlines()[1:3] == ["Because.", "health       nothing wrong over 9 steps."]


def test_a_fault_that_explains_the_verdict_wins_over_a_measured_change():
    found = diagnosis(Fit.OVERFIT, "memorising", change("decay_off", "weight_decay"), change("lr_down", "lr"))
    names = [each.change for each in merged(found, [Fault("under_regularised")], KNOBS)]
    assert names[:2] == ["dropout_up", "lr_down"]
    assert "decay_off" not in names


def test_what_was_measured_is_told_in_the_place_of_what_a_fault_asks_for_at_large():
    measured = change("lr_down", "lr"), change("dropout_up", "dropout")
    found = merged(diagnosis(Fit.OVERFIT, "memorising", *measured), [Fault("under_regularised")], KNOBS)
    assert [each.change for each in found[:2]] == ["dropout_up", "lr_down"]
    assert found[0].gain == 0.3
    assert not any("Do something" in each.text for each in found)


def test_a_fault_that_does_not_explain_it_is_told_without_contradicting_advice():
    found = diagnosis(Fit.OVERFIT, "memorising", change("decay_up", "weight_decay"))
    lines = said(found, "over_regularised")
    assert "broken       over_regularised" in lines
    assert not any("Do something" in line for line in lines)
    assert any("--model.weight_decay=0.1" in line for line in lines)


@pytest.mark.parametrize("cause", ["memorising", "not_learning", "healthy", "exploded"])
@pytest.mark.parametrize("fault", ["over_regularised", "under_regularised", "learning_rate_too_low", "dead_units"])
def test_decay_and_rate_are_never_to_be_raised_and_lowered_at_once(cause, fault):
    every = [change(f"{name}_{way}", setting) for name, setting in (("lr", "lr"), ("decay", "weight_decay"))
             for way in ("up", "down" if name == "lr" else "off")]  # fmt: skip
    for changes in (every, every[::-1]):
        names = {each.change for each in merged(diagnosis(Fit.GOOD, cause, *changes), [Fault(fault)], KNOBS)}
        assert not {"lr_up", "lr_down"} <= names
        assert not {"decay_up", "decay_off"} <= names


def test_the_command_to_run_next_follows_the_first_advice_that_flags_can_do():
    found = diagnosis(Fit.UNDERFIT, "still_improving", change("longer", "max_epochs"))
    lines = said(found, "inputs_unscaled", command=lambda flags: f"run {flags}")
    assert lines[-1] == "next         run (('trainer.max_epochs', '80'),)"
    assert not any(line.startswith("next") for line in said(diagnosis(Fit.GOOD, "healthy"), command=str))


class Monitor:
    def __init__(self, part=None, closing=True):
        self.closing, self.closing_part = closing, part


def test_the_monitor_that_ends_last_speaks_for_all():
    fit, watch = Monitor(), Monitor()
    fit.closing_part = FitPart(diagnosis(Fit.GOOD, "healthy"), "headline")
    assert last_word([fit, watch, object()]) == ""
    watch.closing_part = HealthPart("nothing wrong over 9 steps.")
    assert last_word([fit, watch]).startswith("verdict      headline")
    assert last_word([watch, Monitor(closing=False)]) == "GradientMonitor: nothing wrong over 9 steps."
    assert last_word([watch, Monitor(FitPart())]) == "GradientMonitor: nothing wrong over 9 steps."
