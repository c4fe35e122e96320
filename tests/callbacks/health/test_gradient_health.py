import math

import pytest

from callbacks.health.facts import Cut, Facts, Head, LayerReading, OptimizerFacts, Reading, Units, WeightStart
from callbacks.health.faults import Fault, explained
from callbacks.health.rules.training import (
    BLOCKS,
    LossCourse,
    findings_of,
    judge_blow_up,
    judge_course,
    judge_epochs,
    judge_start,
    judge_units,
)

NAN = math.nan


def course(values):
    kept = LossCourse()
    for value in values:
        kept.extend([value])
    return kept


FALLING = [2.3 * 0.98**step for step in range(100)]
LEVEL = [2.3 + 0.01 * (step % 3) for step in range(100)]


def matrix(name="a", **values):
    usual = {"weight": 0.1, "start": 0.1, "gradient": 1e-2, "update": 1e-4, "travelled": 1e-2}
    return LayerReading(name, True, **{**usual, **values})


def facts(*layers, **values):
    return Facts(readings=[Reading(step, layers or (matrix(),)) for step in range(8)], **values)


def start(name="a", *, fan_in=64, rms=0.07, alike=False, columns=False, trainable=True):
    return WeightStart(name, fan_in, 64 * fan_in, rms, 2 * rms, alike, trainable, 64, columns)


ZERO = {"rms": 0.0, "alike": True, "columns": True}


def named(said):
    return [fault for fault, _, _ in said]


USUAL = OptimizerFacts("Adam", 1e-3, 1e-8, 1e-8, 0.0)


@pytest.mark.parametrize(
    "given",
    [
        Facts(),
        Facts(weights=(start(), start("b", **ZERO))),  # a last layer that starts at zero
        Facts(weights=(start(), start("b", alike=True, columns=True))),  # or alike: each unit has a target of its own
        Facts(weights=(start(alike=True), start("b")), hidden={"a"}),  # the next layer tells units apart
        Facts(weights=(start(alike=True, columns=True), start("b", alike=True, columns=True))),  # side by side
        Facts(weights=(start(**ZERO),)),  # logistic regression
        Facts(weights=(start(), start("b", **ZERO), start("c", **ZERO))),  # ends of branches
        Facts(weights=(start(rms=0.18), start("b", rms=0.0025))),  # He's, and one small head
        Facts(optimizers=(USUAL,), dropouts={"drop": 0.5}),
        Facts(head=Head(2.6, math.log(10), NAN, NAN)),
        Facts(head=Head(NAN, NAN, 1.4, 0.1)),
        Facts(head=Head(NAN, NAN, NAN, NAN), optimizers=(OptimizerFacts("SGD", 0.1, NAN, NAN, 1e-4),)),
    ],
)
def test_a_usual_start_says_nothing(given):
    assert named(judge_start(given)) == []


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (Facts(weights=(start(alike=True), start("b", columns=True)), hidden={"a"}), Fault.CONSTANT_INITIALISATION),
        (Facts(weights=(start(**ZERO), start("b", **ZERO)), hidden={"a"}), Fault.CONSTANT_INITIALISATION),
        (Facts(weights=(start(rms=1.0), start("b", rms=1.0))), Fault.WRONG_INITIALISATION),
        (Facts(weights=(start(rms=1e-3), start("b", rms=1e-3))), Fault.WRONG_INITIALISATION),
        (Facts(optimizers=(OptimizerFacts("Adam", 1e-3, 1e-16, 1e-8, 0.0),)), Fault.OPTIMIZER_EPSILON),
        (Facts(head=Head(20.0, math.log(10), NAN, NAN)), Fault.OUTPUTS_OVERSCALED),
        (Facts(head=Head(NAN, NAN, 30.0, 1.0)), Fault.OUTPUTS_OVERSCALED),
    ],
)
def test_each_fault_of_the_start_is_named_once(given, fault):
    assert named(judge_start(given)) == [fault]


SPIKES = [0.6, *[1.0, 1.1, 0.9, 9.0] * 6]  # a lucky first batch, and batches of a single row


@pytest.mark.parametrize("losses", [FALLING, LEVEL, SPIKES, [NAN] * 50, []])
def test_usual_updates_say_nothing_whatever_the_loss_does(losses):
    assert named(judge_course(facts(), course(losses), seen_epoch=True)) == []


@pytest.mark.parametrize(("reachable", "said"), [(LEVEL[-1] + 0.1, []), (LEVEL[-1] - 0.1, [Fault.OVER_REGULARISED])])
def test_weights_that_a_decay_shrank_are_no_fault_where_no_other_model_does_better(reachable, said):
    given = facts(matrix(weight=0.02), reachable=reachable)
    assert named(judge_course(given, course(LEVEL), seen_epoch=True)) == said


@pytest.mark.parametrize(
    ("given", "losses", "fault"),
    [
        (facts(matrix(update=0.2)), LEVEL, Fault.LEARNING_RATE_TOO_HIGH),
        (facts(matrix(update=0.01)), [2.3, *[30.0] * 60], Fault.LEARNING_RATE_TOO_HIGH),
        (facts(matrix(travelled=1e-5)), LEVEL, Fault.LEARNING_RATE_TOO_LOW),
        (facts(matrix(weight=0.02)), LEVEL, Fault.OVER_REGULARISED),
        (facts(matrix(weight=1e-3)), FALLING, Fault.OVER_REGULARISED),  # the penalty is part of the loss
        (facts(kept_gradients=3), FALLING, Fault.GRADIENTS_NOT_ZEROED),
        (facts(dropouts={"drop": 0.95}), LEVEL, Fault.OVER_REGULARISED),
        (facts(unreached=("a.weight",), cut=Cut(("a",), "b")), FALLING, Fault.NOT_UPDATING),
        (facts(unoptimized=("a.weight",)), FALLING, Fault.NOT_UPDATING),
        (facts(matrix(gradient=1e-9), matrix("b"), matrix("c"), matrix("d")), LEVEL, Fault.VANISHING_GRADIENT),
        (facts(matrix(gradient=1e4), matrix("b"), matrix("c"), matrix("d")), LEVEL, Fault.EXPLODING_GRADIENT),
    ],
)
def test_each_fault_of_the_course_is_named_once(given, losses, fault):
    assert named(judge_course(given, course(losses), seen_epoch=True)) == [fault]


def test_a_gradient_that_reaches_the_values_beside_idle_queries_and_keys_did_not_vanish():
    def block(values):
        names = ("query", "key", "value", "output", "up", "down", "head")
        sizes = (1e-8, 1e-8, values, 1e-2, 1e-2, 1e-2, 1e-2)
        return facts(*[matrix(name, gradient=size) for name, size in zip(names, sizes, strict=True)])

    assert named(judge_course(block(1e-3), course(LEVEL), seen_epoch=True)) == []
    assert named(judge_course(block(1e-6), course(LEVEL), seen_epoch=True)) == [Fault.VANISHING_GRADIENT]


def test_a_loss_that_rises_under_usual_steps_was_meant_to():
    assert named(judge_course(facts(), course([2.3, *[30.0] * 60]), seen_epoch=True)) == []


def test_gates_may_be_shut_in_a_net_that_learns():
    shut = Facts(units=(Units("a", "sigmoid", 0, 0.95, 12),))
    assert named(judge_units(shut, course(FALLING))) == []
    assert named(judge_units(shut, course(LEVEL))) == [Fault.SATURATED_UNITS]


def test_much_dropout_is_no_fault_where_the_loss_falls():
    given = facts(dropouts={"drop": 0.95})
    assert [*judge_start(given), *judge_course(given, course(FALLING), seen_epoch=True)] == []


def test_little_progress_is_no_fault_before_every_row_was_seen():
    assert named(judge_course(facts(matrix(travelled=1e-5)), course(LEVEL), seen_epoch=False)) == []


def test_several_losses_that_play_against_each_other_are_not_judged():
    given = facts(matrix(update=0.2, travelled=1e-5), alone=False)
    assert named(judge_course(given, course(LEVEL), seen_epoch=True)) == []


def test_large_updates_that_train_are_no_fault():
    assert named(judge_course(facts(matrix(update=0.2)), course(FALLING), seen_epoch=True)) == []


def test_a_huge_epsilon_is_why_nothing_moves():
    given = facts(matrix(travelled=1e-5), optimizers=(OptimizerFacts("Adam", 1e-3, 10.0, 1e-8, 0.0),))
    assert named(judge_course(given, course(LEVEL), seen_epoch=True)) == [Fault.OPTIMIZER_EPSILON]


def test_dead_and_saturated_layers_are_named_in_one_line_each():
    units = (
        Units("a", "relu", 100, 0.9, 12),
        Units("b", "relu", 100, 1.0, 12),
        Units("c", "relu", 100, 0.4, 12),
        Units("d", "tanh", 0, 0.9, 12),
        Units("e", "sigmoid", 0, 0.3, 12),
    )
    said = list(judge_units(Facts(units=units), course(LEVEL)))
    assert [(fault, where) for fault, where, _ in said] == [(Fault.DEAD_UNITS, "a"), (Fault.SATURATED_UNITS, "d")]
    assert "90 of 100" in said[0][2]
    assert "`b`" in said[0][2]
    assert "`c`" not in said[0][2]


MEMORISED = [(0.01, 1.5)] * 3


@pytest.mark.parametrize(
    ("given", "epochs", "accuracy", "faults"),
    [
        (Facts(), MEMORISED, NAN, [Fault.UNDER_REGULARISED]),
        (Facts(), MEMORISED, 0.6, [Fault.UNDER_REGULARISED]),
        (Facts(), MEMORISED, 0.97, []),
        (Facts(regularised=True), MEMORISED, NAN, []),
        (Facts(), MEMORISED[:2], NAN, []),
        (Facts(), [(0.01, 0.3)] * 3, NAN, []),
        (Facts(), [(0.01, NAN)] * 3, NAN, []),
        (Facts(), [(1.0, 900.0), *[(0.01, 40.0)] * 3], NAN, []),  # validated in another unit
        (Facts(), [(NAN, 1.5)] * 3, NAN, []),
    ],
)
def test_overfitting_is_a_fault_when_nothing_regularises_and_it_costs_something(given, epochs, accuracy, faults):
    assert named(judge_epochs(given, 2.3, epochs, accuracy)) == faults


def test_a_run_that_blew_up_had_too_high_a_rate():
    assert named(judge_blow_up(course([2.3, 9.0, 80.0, 1e6]), None)) == [Fault.LEARNING_RATE_TOO_HIGH]
    assert named(judge_blow_up(course([2.3]), Reading(0, (matrix(update=9.0),)))) == [Fault.LEARNING_RATE_TOO_HIGH]
    assert named(judge_blow_up(course([2.3, 2.2, 2.1]), Reading(2, (matrix(),)))) == []


def test_a_symptom_is_quiet_beside_its_cause():
    assert explained(Fault.DEAD_UNITS, [Fault.LEARNING_RATE_TOO_HIGH])
    assert explained(Fault.EXPLODING_GRADIENT, [Fault.INPUTS_UNSCALED])
    assert not explained(Fault.LEARNING_RATE_TOO_HIGH, [Fault.DEAD_UNITS])
    assert not explained(Fault.NON_FINITE, list(Fault))


def test_every_fault_that_can_be_said_has_advice():
    tiny = OptimizerFacts("Adam", 1e-3, 1e-16, 1e-8, 0.0)
    dead = Facts(units=(Units("a", "relu", 9, 1.0, 12),))
    said = [*judge_start(Facts(optimizers=(tiny,))), *judge_units(dead, course(LEVEL))]
    assert all(found.advice and found.step == 7 for found in findings_of(iter(said), 7))


def test_the_course_of_a_long_run_stays_small_and_true():
    kept = course([1.0, NAN, math.inf, *[3.0] * 10_000])
    assert kept.count == 10_001
    assert len(kept.means) <= BLOCKS
    assert (kept.start, kept.peak, kept.recent) == (1.0, 3.0, 3.0)
    again = LossCourse()
    again.load(kept.state())
    assert again.state() == kept.state()


@pytest.mark.parametrize(("values", "still"), [(LEVEL, True), (FALLING, False), ([2.3], False), ([1, 3] * 50, True)])
def test_a_loss_that_only_trembles_stands_still(values, still):
    assert course(values).stands_still is still
