"""`GradientLogger` and `GradientMonitor` together: one reading of what both need, and the numbers of each alone."""

import math

import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import LIGHTNINGS_WARNINGS, Memory, Plain, TwoOptimizers, fit

from callbacks import GradientLogger, GradientMonitor
from callbacks.health.nonfinite import GradientCheck
from callbacks.readers.optimizer_steps import _OBSERVERS

pytestmark = LIGHTNINGS_WARNINGS
SPOILT = (1, 3)  # epoch, batch


def gradient_logger():
    return GradientLogger(every=2, updates_every=4, write_every=1, flow_every=0)


def ours(order):
    made = {"logger": gradient_logger, "monitor": lambda: GradientMonitor(on_nonfinite="skip")}
    return [made[name]() for name in order]


def run(root, module, callbacks, **flags):
    memory = Memory()
    _, model = fit(root, module, callbacks=callbacks, epochs=3, logger=memory, **flags)
    return memory.rows, model.state_dict()


class Spoilt(Plain):
    def on_train_batch_start(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == SPOILT:
            batch[0][2, 1] = math.nan


class SecondOrder(Plain):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class Doubles(pl.Callback):
    """Changes gradients between the two."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        for parameter in pl_module.parameters():
            parameter.grad.data.mul_(2)


BOTH = [("monitor", "logger"), ("logger", "monitor")]


@pytest.fixture
def given(monkeypatch):
    """Whether the check was given norms, check by check."""
    found, finite = [], GradientCheck.finite

    def spy(self, step, norms=None):
        found.append(norms is not None)
        return finite(self, step, norms)

    monkeypatch.setattr(GradientCheck, "finite", spy)
    return found


@pytest.mark.parametrize("order", BOTH)
def test_a_step_whose_gradients_the_logger_reads_is_not_read_again_by_the_monitor(tmp_path, given, order):
    run(tmp_path, Plain, ours(order))
    assert given == [step % 2 == 0 for step in range(18)]


def test_the_monitor_alone_reads_for_itself(tmp_path, given):
    run(tmp_path, Plain, ours(["monitor"]))
    assert given == [False] * 18


@pytest.mark.parametrize("order", BOTH)
def test_nothing_is_shared_across_a_callback_that_may_change_gradients(tmp_path, given, order):
    one, other = ours(order)
    rows, weights = run(tmp_path, Plain, [one, Doubles(), other])
    assert not any(given)
    alone = [Doubles(), gradient_logger()] if order[1] == "logger" else [gradient_logger(), Doubles()]
    expected, expected_weights = run(tmp_path, Plain, alone)
    assert logged(rows) == logged(expected)
    assert all(torch.equal(weights[name], value) for name, value in expected_weights.items())


@pytest.mark.parametrize("order", BOTH)
@pytest.mark.parametrize(
    ("module", "flags"),
    [(Plain, {}), (Plain, {"gradient_clip_val": 0.1}), (SecondOrder, {}), (TwoOptimizers, {})],
    ids=["plain", "clipped", "second order", "by hand"],
)
def test_the_numbers_of_the_logger_and_the_weights_are_those_without_the_monitor(tmp_path, order, module, flags):
    rows, weights = run(tmp_path, module, ours(order), **flags)
    expected, expected_weights = run(tmp_path, module, ours(["logger"]), **flags)
    assert logged(rows) == logged(expected)
    assert all(torch.equal(weights[name], value) for name, value in expected_weights.items())


def logged(rows):
    return {
        step: {k: v for k, v in row.items() if k.startswith(("grad", "weight", "update"))} for step, row in rows.items()
    }


@pytest.mark.parametrize("order", BOTH)
def test_what_is_not_finite_in_a_shared_reading_is_left_out(tmp_path, given, order):
    rows, weights = run(tmp_path, Spoilt, ours(order))
    _, expected = run(tmp_path, Spoilt, ours(["monitor"]))
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    step = SPOILT[0] * 6 + SPOILT[1]
    assert all(math.isfinite(value) for at, row in rows.items() if at != step for value in row.values())


class BreaksLate(Plain):
    """One weight beside a bias gets an infinite gradient, which the bias does not show."""

    def on_before_optimizer_step(self, optimizer):
        pass

    def on_after_backward(self):
        if self.global_step == 6:
            self.net[0].weight.grad[1, 1] = math.inf


@pytest.mark.parametrize("order", BOTH)
def test_a_shared_reading_shows_the_weight_that_no_bias_answers_for(tmp_path, order):
    callbacks = ours(order)
    _, weights = run(tmp_path, BreaksLate, callbacks)
    assert all(bool(value.isfinite().all()) for value in weights.values())
    monitor = callbacks[order.index("monitor")]
    assert [found.where for found in monitor.findings if found.fault == "non_finite"] == ["net.0"]


@pytest.mark.parametrize("module", [Plain, TwoOptimizers])
def test_each_optimizer_has_one_pair_of_hooks_and_none_after_the_fit(tmp_path, module):
    class Counts(pl.Callback):
        pairs = ()

        def on_train_batch_end(self, trainer, *_):
            self.pairs = {
                (len(o._optimizer_step_pre_hooks), len(o._optimizer_step_post_hooks)) for o in trainer.optimizers
            }

    counts = Counts()
    trainer, _ = fit(tmp_path, module, callbacks=[*ours(BOTH[0]), counts], epochs=1)
    assert counts.pairs == {(1, 1)}
    assert not any(o._optimizer_step_pre_hooks or o._optimizer_step_post_hooks for o in trainer.optimizers)


def test_no_optimizer_is_kept_alive_by_a_fit_that_failed(tmp_path):
    class Fails(TwoOptimizers):
        def on_train_epoch_end(self):
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fit(tmp_path, Fails, callbacks=ours(BOTH[0]), epochs=1)
    assert not any(observer._listening for observer in _OBSERVERS.values())
