import gzip
import json
import math
import random
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callbacks.diagnosis.evidence import Evidence
from callbacks.diagnosis.verdict import Diagnosis, Fit, diagnose

SAMPLE = Path(__file__).with_name("labelled_runs.json.gz")


def falling(n, end=0.3, start=1.0, speed=8.0):
    """An exponential fall from `start` that has levelled off at `end` after `n` epochs."""
    return [end + (start - end) * math.exp(-speed * i / n) for i in range(n)]


def noisy(values, share, seed=0):
    r = random.Random(seed)
    return [v * (1 + share * r.gauss(0, 1)) for v in values]


def rising_after(values, epoch, rise):
    """The curve, climbing by `rise` in all after an epoch."""
    rest = len(values) - 1 - epoch
    return [v + max(0, i - epoch) / rest * rise for i, v in enumerate(values)]


TRAIN = falling(60, end=0.02)
VAL = falling(60)
OVER = rising_after(VAL, 20, 0.4)


# What it must see.


def test_a_curve_that_has_levelled_off_is_good():
    d = diagnose(falling(60, end=0.25), VAL, baseline_loss=1.0)
    assert (d.fit, d.cause, d.onset_epoch) == (Fit.GOOD, "healthy", None)


def test_a_rise_after_the_best_while_training_falls_is_memorising():
    d = diagnose(TRAIN, OVER, baseline_loss=1.0)
    assert (d.fit, d.cause) == (Fit.OVERFIT, "memorising")
    assert 15 <= d.best_epoch <= 25
    assert d.best_epoch < d.onset_epoch < 40
    assert f"epoch {d.best_epoch}," in d.advice[0]


def test_two_curves_still_falling_together_are_still_improving():
    line = [1 - 0.01 * i for i in range(30)]
    d = diagnose(line, [v + 0.02 for v in line], baseline_loss=1.1)
    assert (d.fit, d.cause) == (Fit.UNDERFIT, "still_improving")
    assert d.advice


def test_a_loss_that_stays_at_chance_is_not_learning_where_chance_is_known():
    loss = noisy([math.log(2)] * 50, 0.001)
    d = diagnose(loss, noisy(loss, 0.001, seed=1), baseline_loss=math.log(2))
    assert (d.fit, d.cause) == (Fit.UNDERFIT, "not_learning")
    assert "learning rate" in d.advice[0]


def test_losses_that_end_as_no_number_have_exploded():
    nan = math.nan
    assert diagnose([1, 0.9, nan, nan], [1, 0.9, nan, nan]).cause == "exploded"
    assert diagnose([1, 0.9, math.inf], [1, 0.9, 0.8]).fit is Fit.DIVERGED
    assert diagnose([nan, nan, nan], [nan, nan, nan]).fit is Fit.DIVERGED


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ([1, 0.9, 0.8, math.nan], [1, 0.9, 0.8, 0.8]),  # one NaN at the end of a training loss suffices
        ([1, 0.9, 0.8, None], [1, 0.9, 0.8, math.nan]),  # an epoch that was broken off
        ([math.nan], [math.nan]),
        ([], [math.nan]),
        ([math.nan] * 5, [None] * 5),
    ],
)
def test_a_training_loss_that_ends_as_no_number_has_exploded(train, val):
    assert diagnose(train, val).fit is Fit.DIVERGED


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ([*TRAIN], [*VAL[:-1], math.nan]),  # the last validation may be missing
        ([v if i % 2 else math.nan for i, v in enumerate([*TRAIN, math.nan])], [*VAL, VAL[-1]]),  # and every other row
        ([], [*VAL[:-1], math.nan]),
    ],
)
def test_a_nan_where_one_may_be_missing_is_no_explosion(train, val):
    assert diagnose(train, val, baseline_loss=1.0).fit is not Fit.DIVERGED


@pytest.mark.parametrize("with_train", [False, True])
@pytest.mark.parametrize("times", [None, 0.5, 2.0])
def test_noise_is_no_verdict(with_train, times):
    """`benchmarks/runs/noise.py` asks more of them."""
    r, unknown = random.Random(0), 0
    shapes = [lambda: r.gauss(0, 1), lambda: r.uniform(-2, 2), lambda: r.expovariate(1) - 1]
    for _ in range(120):
        n, share, shape = r.choice([5, 8, 12, 30, 80, 500]), r.choice([0.01, 0.1, 0.3]), r.choice(shapes)
        train, val = ([1 + share * shape() for _ in range(n)] for _ in range(2))
        unknown += diagnose(train if with_train else [], val, baseline_loss=times).fit is Fit.UNKNOWN
    assert unknown >= 0.95 * 120


@pytest.mark.parametrize("baseline", [None, 0.0, 0.7])
@pytest.mark.parametrize("level", [0.0, 0.3])
@pytest.mark.parametrize("train", [[0.0] * 20, [], falling(20)])
def test_constants_are_no_verdict(level, train, baseline):
    d = diagnose(train, [level] * 20, baseline_loss=baseline)
    assert (d.fit, d.cause) == (Fit.UNKNOWN, "no_signal")
    assert f"{level:.4g} in all 20 evaluations" in d.reason
    assert d.advice


def test_a_jump_of_the_weights_at_the_end_counts_where_the_training_loss_jumps_too():
    r = random.Random(3)
    jumps = [0.01 * r.gauss(0, 1) for _ in range(49)] + [0.035]
    train, val = ([v + j for v, j in zip(falling(50, end=end), jumps, strict=True)] for end in (0.4, 0.45))
    assert diagnose(train, val, baseline_loss=1.0).fit is Fit.OVERFIT
    assert diagnose(falling(50, end=0.4), val, baseline_loss=1.0).fit is not Fit.OVERFIT


def test_losses_that_climb_far_above_where_they_began_have_exploded():
    climb = [0.7, 0.6, 0.8, 2.0, 9.0, 11.0, 12.0, 11.5]
    assert diagnose(climb, climb, baseline_loss=0.7).cause == "exploded"


def test_a_validation_loss_that_worsens_while_accuracy_holds_is_overconfident():
    accuracy = [0.5 + 0.4 * (1 - math.exp(-8 * i / 60)) for i in range(60)]
    d = diagnose(TRAIN, OVER, val_metric=accuracy, baseline_loss=1.0)
    assert (d.fit, d.cause) == (Fit.GOOD, "overconfident")
    assert any("probabilities" in line for line in d.advice)


def test_accuracy_that_falls_with_the_loss_does_not_excuse_it():
    accuracy = [0.9 - 0.3 * v for v in OVER]
    assert diagnose(TRAIN, OVER, val_metric=accuracy, baseline_loss=1.0).fit is Fit.OVERFIT


def test_a_metric_to_be_low_is_read_upside_down():
    error = [v - 1 for v in VAL]
    d = diagnose(TRAIN, OVER, val_metric=error, metric_mode="min", baseline_loss=1.0)
    assert d.cause == "overconfident"
    with pytest.raises(ValueError, match='"max" or "min"'):
        diagnose(TRAIN, OVER, metric_mode="up")


def test_without_validation_it_says_so():
    d = diagnose(TRAIN, [])
    assert (d.fit, d.cause, d.best_epoch) == (Fit.UNKNOWN, "no_validation", None)
    assert diagnose(TRAIN, [None] * 60).cause == "no_validation"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_up_to_three_evaluations_are_too_few(n):
    assert diagnose(TRAIN[:n], VAL[:n]).cause == "too_few_epochs"


def test_a_training_loss_that_rises_is_no_measure_of_fit():
    gan = noisy([0.5 + 0.02 * i for i in range(40)], 0.02)
    d = diagnose(gan, noisy([1.0 - 0.01 * i for i in range(40)], 0.02, seed=1))
    assert (d.fit, d.cause) == (Fit.UNKNOWN, "loss_is_no_fit")


@pytest.mark.parametrize("n", [2, 3])
def test_two_or_three_training_values_cannot_say_that_it_rose(n):
    sparse = [None] * 60
    for i in range(n):
        sparse[i * 59 // (n - 1)] = 0.5 + 0.1 * i
    assert diagnose(sparse, VAL, baseline_loss=1.0).cause != "loss_is_no_fit"


# What it must not be fooled by.


@pytest.mark.parametrize("share", [0.01, 0.03, 0.05])
@pytest.mark.parametrize("seed", range(8))
def test_noise_makes_no_overfitting(share, seed):
    d = diagnose(falling(50, end=0.28), noisy(falling(50), share, seed), baseline_loss=1.0)
    assert d.fit is not Fit.OVERFIT


@pytest.mark.parametrize("seed", range(8))
def test_noise_hides_no_overfitting(seed):
    assert diagnose(TRAIN, noisy(OVER, 0.05, seed), baseline_loss=1.0).fit is Fit.OVERFIT


def test_a_lucky_dip_is_the_epoch_that_is_kept_but_no_start_of_overfitting():
    val = noisy(falling(60), 0.005)
    val[15] = 0.2
    d = diagnose(falling(60, end=0.28), val, baseline_loss=1.0)
    assert d.fit is Fit.GOOD
    assert (d.best_epoch, d.onset_epoch) == (15, None)


def test_the_best_epoch_is_the_first_with_the_lowest_value_as_it_is_logged():
    val = noisy(OVER, 0.02)
    d = diagnose(TRAIN, val, baseline_loss=1.0)
    assert d.best_epoch == val.index(min(val)) < d.onset_epoch
    assert f"lowest in epoch {d.best_epoch} ({min(val):.4g})" in d.reason


def test_the_best_epoch_is_the_one_whose_checkpoint_is_kept():
    d = diagnose(TRAIN, OVER, baseline_loss=1.0, evidence=Evidence(keeps_best=True, kept_epoch=30))
    assert (d.fit, d.best_epoch) == (Fit.OVERFIT, 30)
    assert d.onset_epoch > 30
    assert f"in epoch 30 ({OVER[30]:.4g})" in d.reason


@pytest.mark.parametrize("seed", range(20))
def test_the_onset_comes_after_the_best_epoch(seed):
    val = noisy(OVER, 0.2, seed)  # its lowest value lies anywhere
    d = diagnose(TRAIN, val, baseline_loss=1.0)
    assert d.onset_epoch is None or d.onset_epoch > d.best_epoch


def test_validation_below_training_is_no_matter():
    train = [v + 0.1 for v in falling(60)]
    assert diagnose(train, VAL, baseline_loss=1.0).fit is Fit.GOOD


@pytest.mark.parametrize("gap", [0.1, 0.5, 2.0])
def test_a_constant_gap_is_not_overfitting(gap):
    assert diagnose(VAL, [v + gap for v in VAL]).fit is Fit.GOOD


def test_a_step_down_at_a_drop_of_the_rate_is_not_overfitting():
    val = [v + (0.1 if i < 30 else 0.0) for i, v in enumerate(falling(60))]
    train = [v + (0.1 if i < 30 else 0.0) for i, v in enumerate(falling(60, end=0.25))]
    assert diagnose(train, val, baseline_loss=1.1).fit is not Fit.OVERFIT


def test_a_cosine_end_is_not_overfitting():
    cosine = [0.3 + 0.35 * (1 + math.cos(math.pi * i / 49)) for i in range(50)]
    assert diagnose([v - 0.02 for v in cosine], cosine, baseline_loss=1.0).fit is not Fit.OVERFIT


def test_warm_restarts_are_not_overfitting():
    val = [0.3 + 0.5 * math.exp(-i / 15) + 0.05 * (1 - (i % 20) / 19) for i in range(80)]
    assert diagnose([v - 0.03 for v in val], val, baseline_loss=0.9).fit is not Fit.OVERFIT


def test_a_double_descent_that_came_down_again_is_not_overfitting():
    hump = [0.25 * math.exp(-(((i - 40) / 12) ** 2)) for i in range(120)]
    val = [v + h - 0.001 * i for i, (v, h) in enumerate(zip(falling(120, speed=20), hump, strict=True))]
    d = diagnose(falling(120, end=0.05), val, baseline_loss=1.0)
    assert d.fit is not Fit.OVERFIT
    assert d.best_epoch > 100


def test_a_best_epoch_of_zero_is_said_to_be_zero():
    d = diagnose(TRAIN, [0.5 + 0.01 * i for i in range(60)], baseline_loss=0.7)
    assert (d.fit, d.best_epoch) == (Fit.OVERFIT, 0)


def test_a_lucky_first_epoch_is_not_the_best_where_later_ones_are_lower():
    # A real run on the diabetes table: the first epoch's loss is averaged with no other, and looked lowest.
    val = [2994, 6169, 4023, 2934, 3612, 3239, 2808, 2937, 3152, 3337, 3182, 3507, *(3550 + 35 * i for i in range(28))]
    d = diagnose([5193 * 0.93**i for i in range(40)], val, baseline_loss=5852)
    assert (d.fit, d.best_epoch) == (Fit.OVERFIT, 6)
    assert d.onset_epoch > 6
    assert "lowest in epoch 6 (2808)" in d.reason
    assert "epoch 6," in d.advice[0]


@pytest.mark.parametrize("shift", [-0.3, -0.65, -5.0, -1e4])
def test_losses_near_zero_and_below_are_judged_alike(shift):
    train, val = [v + shift for v in TRAIN], [v + shift for v in OVER]
    assert diagnose(train, val, baseline_loss=1.0 + shift).fit is Fit.OVERFIT


@pytest.mark.parametrize("scale", [1e-12, 1e9])
def test_tiny_and_huge_losses_are_judged_alike(scale):
    d = diagnose([scale * v for v in TRAIN], [scale * v for v in OVER], baseline_loss=scale)
    assert d.fit is Fit.OVERFIT


def test_a_loss_of_exactly_zero_crashes_nothing():
    assert isinstance(diagnose([0.0] * 20, [0.0] * 20), Diagnosis)
    assert isinstance(diagnose([0.0] * 20, [0.0] * 20, baseline_loss=0.0), Diagnosis)


@pytest.mark.parametrize("n", range(5, 11))
def test_a_few_evaluations_are_enough_for_what_is_plain(n):
    keep = [round(i * 59 / (n - 1)) for i in range(n)]
    d = diagnose([TRAIN[i] for i in keep], [OVER[i] for i in keep], baseline_loss=1.0)
    assert d.fit is Fit.OVERFIT


def test_validating_every_third_epoch_changes_nothing():
    sparse = [v if i % 3 == 2 else math.nan for i, v in enumerate(OVER)]
    d = diagnose(TRAIN, sparse, baseline_loss=1.0)
    assert d.fit is Fit.OVERFIT
    assert 14 <= d.best_epoch <= 29


def test_without_a_training_loss_the_rise_still_shows():
    assert diagnose([], OVER, baseline_loss=1.0).fit is Fit.OVERFIT


# Properties.

KINDS = (VAL, OVER, [1 - 0.01 * i for i in range(60)])
curves = st.builds(
    lambda kind, share, seed, n: noisy(kind[:n], share, seed),
    st.sampled_from(KINDS), st.sampled_from([0.0, 0.01, 0.05]), st.integers(0, 50), st.integers(4, 60),
)  # fmt: skip
anything = st.lists(st.none() | st.floats(), max_size=60)
exact = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def same(one, other):
    assert (one.fit, one.cause) == (other.fit, other.cause)
    assert one.probabilities == pytest.approx(other.probabilities)


@exact
@given(curves, st.sampled_from([2.0**-20, 0.1, 3.0, 1000.0]), st.booleans())
def test_scaling_the_losses_changes_nothing(val, factor, known):
    train = TRAIN[: len(val)]
    scaled = [[factor * v for v in curve] for curve in (train, val)]
    one = diagnose(train, val, baseline_loss=1.0 if known else None)
    other = diagnose(*scaled, baseline_loss=factor if known else None)
    same(one, other)
    assert one.best_epoch == other.best_epoch


@exact
@given(curves, st.sampled_from([-0.25, 0.5, 1.0]), st.booleans())
def test_adding_a_number_to_all_losses_changes_nothing(val, shift, known):
    train = TRAIN[: len(val)]
    if (1.0 if known else val[0]) - min(val) < max(abs(min(val)), abs(min(val) + shift)):
        return  # then the docstring promises nothing
    one = diagnose(train, val, baseline_loss=1.0 if known else None)
    moved = [[v + shift for v in curve] for curve in (train, val)]
    same(one, diagnose(*moved, baseline_loss=1.0 + shift if known else None))


@exact
@given(curves, st.integers(2, 4))
def test_writing_every_row_several_times_changes_nothing(val, times):
    train = TRAIN[: len(val)]
    written = [[v for v in curve for _ in range(times)] for curve in (train, val)]
    one, other = diagnose(train, val), diagnose(*written)
    same(one, other)
    assert other.best_epoch == one.best_epoch * times


def test_rows_written_twice_are_found_where_the_first_is_missing():
    val = [math.nan, *OVER[1:]]
    written = [[v for v in curve for _ in range(2)] for curve in (TRAIN, val)]
    same(diagnose(TRAIN, val), diagnose(*written))


@exact
@given(curves, curves)
def test_dropping_the_metric_turns_nothing_but_good_into_overfit(val, metric):
    train = TRAIN[: len(val)]
    with_metric, without = diagnose(train, val, val_metric=metric[: len(val)]), diagnose(train, val)
    assert with_metric.fit == without.fit or with_metric.fit is not Fit.OVERFIT


@exact
@given(anything, anything, anything, st.none() | st.floats())
def test_nothing_crashes_it(train, val, metric, baseline):
    d = diagnose(train, val, val_metric=metric, baseline_loss=baseline)
    assert d.fit is max(d.probabilities, key=lambda each: d.probabilities[each])
    assert sum(d.probabilities.values()) == pytest.approx(1)
    assert all(0 <= p <= 1 for p in d.probabilities.values())
    assert d.reason.endswith(".")
    assert d.advice
    assert d.best_epoch is None or 0 <= d.best_epoch < len(val)


# The whole.


def labelled():
    with gzip.open(SAMPLE, "rt") as lines:
        return json.load(lines)


def test_labelled_runs_keep_their_verdicts():
    """A sample of `benchmarks/runs` that was fitted on: it guards against a broken change, no more."""
    count = defaultdict(int)
    for run in labelled():
        d = diagnose(run["train_loss"], run["val_loss"], baseline_loss=run["baseline_loss"])
        count[run["label"], str(d.fit)] += 1
    for fit in ("underfit", "good", "overfit"):
        said = sum(n for (_, s), n in count.items() if s == fit)
        there = sum(n for (t, _), n in count.items() if t == fit)
        assert 2 * count[fit, fit] / (said + there) >= 0.85


def test_a_thousand_epochs_cost_about_a_millisecond():
    train = noisy(falling(1000, end=0.05), 0.01)
    val = noisy(rising_after(falling(1000), 400, 0.3), 0.01, seed=1)
    costs = []
    for _ in range(30):
        start = time.perf_counter()
        diagnose(train, val, val_metric=val, baseline_loss=1.0)
        costs.append(time.perf_counter() - start)
    assert min(costs) < 0.003  # the least of thirty: other work on the machine is not ours


def test_the_import_pulls_in_no_library():
    code = "import sys, callbacks.diagnosis.verdict; print({'torch', 'numpy', 'pytorch_lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_no_number_of_the_reason_is_below_what_was_measured():
    bent = [0.5, 0.1, 0.02, 0.004, 0.0008]  # a line through its end comes out below zero
    reason = diagnose(bent, bent).reason
    assert "-0." not in reason
    assert "0.0008" in reason


# What is no better than the trivial prediction.


def test_a_lowest_loss_above_the_trivial_one_is_called_so():
    flat = noisy([0.71] * 30, 0.001)
    d = diagnose(flat, noisy(flat, 0.001, seed=1), baseline_loss=0.69)
    assert (d.fit, d.cause) == (Fit.UNDERFIT, "not_learning")
    assert "is above the trivial 0.69" in d.reason
    assert "hardly below" not in d.reason


@pytest.mark.parametrize(
    ("reached", "trivial", "rows", "expected"),
    [
        (0.80, 0.90, 1000, Fit.UNDERFIT),
        (0.80, 0.90, None, Fit.UNDERFIT),
        (0.90, 0.90, 1000, Fit.UNKNOWN),  # it says the largest class, with probabilities that are not quite trivial
        (0.80, 0.90, 8, Fit.UNKNOWN),  # one row more, and it would be as good
        (0.95, 0.90, 1000, Fit.GOOD),
        (0.80, None, 1000, Fit.GOOD),
    ],
)
def test_a_metric_no_better_than_the_trivial_one_is_not_called_good(reached, trivial, rows, expected):
    train = falling(60, end=0.28)
    for mode, sign in (("max", 1), ("min", -1)):
        levels = Evidence(baseline_metric=trivial and sign * trivial, val_rows=rows)
        d = diagnose(train, VAL, val_metric=[sign * reached] * 60, metric_mode=mode, baseline_loss=1.0, evidence=levels)
        if mode == "min" and expected is Fit.UNKNOWN and reached < 0.9:
            continue  # what is no share has no such error
        assert d.fit is expected
        assert d.fit is max(d.probabilities, key=d.probabilities.get)
        assert sum(d.probabilities.values()) == pytest.approx(1)
        assert (f"the metric, {sign * reached:.4g}, is no better than" in d.reason) is (expected is not Fit.GOOD)
