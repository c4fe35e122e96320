import math

import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import LIGHTNINGS_WARNINGS, Plain, TwoOptimizers, fit
from torch import nn
from torch.nn import functional as F

from callbacks import GradientMonitor
from callbacks.health.faults import Fault
from callbacks.health.nonfinite import BufferKeeper, GradientCheck, NonFiniteGuard, drop_gradients, inputs_not_finite

pytestmark = LIGHTNINGS_WARNINGS
BAD = (1, 3)  # epoch, batch


class Spoilt(Plain):
    """One batch of the second epoch holds a NaN."""

    optimizer = staticmethod(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1))

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_start(self, batch, batch_idx):
        self.seen.append({name: value.clone() for name, value in self.state_dict().items()})
        if (self.current_epoch, batch_idx) == BAD:
            batch[0][2, 1] = math.nan

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


class SpoiltAdam(Spoilt):
    optimizer = staticmethod(lambda p: torch.optim.AdamW(p, lr=0.1))


class SpoiltSecondOrder(Spoilt):
    optimizer = staticmethod(lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3, line_search_fn="strong_wolfe"))


class SpoiltByHand(Spoilt):
    """Manual optimization with the raw optimizer and the loss's own backward."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.batch_loss(batch).backward()
        optimizer.step()


class RootOfZero(Spoilt):
    """The loss is finite, its derivative is not."""

    def on_train_batch_start(self, batch, batch_idx):
        self.seen.append({name: value.clone() for name, value in self.state_dict().items()})

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if (self.current_epoch, batch_idx) == BAD:
            loss = loss + (0 * self.net[0](batch[0])).sqrt().sum()
        return loss


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def finite(state):
    return all(bool(value.isfinite().all()) for value in state.values())


@pytest.mark.parametrize("module", [Spoilt, SpoiltAdam, SpoiltSecondOrder, SpoiltByHand, RootOfZero])
def test_a_batch_that_is_not_finite_leaves_weights_and_statistics_as_they_were(tmp_path, capsys, module):
    monitor = GradientMonitor()
    trainer, model = fit(tmp_path, module, monitor)
    assert trainer.current_epoch < 6
    assert finite(model.state_dict())
    assert same(model.state_dict(), model.seen[-1])
    (found,) = [f for f in monitor.findings if f.fault is Fault.NON_FINITE]
    assert found.where.startswith("net.0")
    assert "batch 3 of epoch 1" in found.why
    assert capsys.readouterr().err.count("GradientMonitor: non finite in `net.0") == 1


def test_the_row_and_column_of_the_input_are_named(tmp_path):
    monitor = GradientMonitor()
    fit(tmp_path, Spoilt, monitor)
    assert "`batch[0]` itself holds 1 values that are not finite, the first at [2, 1]" in monitor.findings[-1].why


@pytest.mark.parametrize("module", [Spoilt, SpoiltAdam, SpoiltByHand, RootOfZero])
def test_skipping_leaves_the_batch_out_and_goes_on(tmp_path, capsys, module):
    monitor = GradientMonitor(on_nonfinite="skip")
    trainer, model = fit(tmp_path, module, monitor)
    assert trainer.current_epoch == 6
    assert finite(model.state_dict())
    bad = len(model.seen) // 6 + BAD[1]
    assert same(model.seen[bad], model.seen[bad + 1])
    assert not same(model.seen[bad + 1], model.seen[bad + 2])
    assert "1 of them were left out" in capsys.readouterr().err


def test_raising_says_the_one_line(tmp_path):
    with pytest.raises(ArithmeticError, match=r"the loss is nan in batch 3 of epoch 1, because `batch\[0\]`"):
        fit(tmp_path, Spoilt, GradientMonitor(on_nonfinite="raise"))


class SpoiltFirstOfGroup(Spoilt):
    """Of the four batches that a step sums, the first holds the NaN."""

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx % 4 == 0:
            self.seen.append({name: value.clone() for name, value in self.state_dict().items()})
        if (self.current_epoch, batch_idx) == (1, 4):
            self.spoil(batch)

    def spoil(self, batch):
        batch[0][2, 1] = math.nan


class RootOfZeroInGroup(SpoiltFirstOfGroup):
    def spoil(self, batch):
        self.spoils = True

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.__dict__.pop("spoils", False):
            loss = loss + (0 * self.net[0](batch[0])).sqrt().sum()
        return loss


@pytest.mark.parametrize("module", [SpoiltFirstOfGroup, RootOfZeroInGroup])
def test_of_the_batches_that_a_step_sums_the_one_that_is_not_finite_is_named(tmp_path, module):
    monitor = GradientMonitor()
    _, model = fit(tmp_path, module, monitor, accumulate_grad_batches=4)
    assert len(model.seen) == 4  # two steps an epoch: four batches, and the two that are left
    assert finite(model.state_dict())
    assert same(model.state_dict(), model.seen[-1])
    (found,) = monitor.findings
    assert "in batch 4 of epoch 1" in found.why


def test_with_accumulation_the_whole_step_is_left_out(tmp_path, capsys):
    monitor = GradientMonitor(on_nonfinite="skip")
    _, model = fit(tmp_path, SpoiltFirstOfGroup, monitor, accumulate_grad_batches=4)
    assert finite(model.state_dict())
    assert same(model.seen[3], model.seen[4])
    assert not same(model.seen[4], model.seen[5])
    assert "the step that used it is left out" in monitor.findings[0].why
    assert "over 12 steps (36 batches). 1 of them were left out" in capsys.readouterr().err


class ThawsLater(RootOfZero):
    """A layer that is not trained in the first epoch."""

    def on_fit_start(self):
        self.net[0].requires_grad_(False)

    def on_train_epoch_start(self):
        self.net[0].requires_grad_(self.current_epoch > 0)


def test_layers_that_are_trained_from_a_later_epoch_on_are_watched(tmp_path):
    monitor = GradientMonitor()
    _, model = fit(tmp_path, ThawsLater, monitor)
    assert same(model.state_dict(), model.seen[-1])
    assert [f.where for f in monitor.findings if f.fault is Fault.NON_FINITE] == ["net.0"]


class Deep(pl.LightningModule):
    def __init__(self, body):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def logarithm(net, x):
    return net.third(torch.log(-net.second(F.relu(net.first(x))).square()))


def weights(net, x):
    with torch.no_grad():
        net.second.weight[0, 0] = math.nan
    return net.third(F.relu(net.second(F.relu(net.first(x)))))


@pytest.mark.parametrize(("body", "words"), [(logarithm, "log after `second`"), (weights, "`second.weight` are not")])
def test_the_first_layer_that_is_not_finite_is_named(body, words):
    net = Deep(body)
    guard = NonFiniteGuard("stop")
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
    guard.begin(trainer, net, pl.Callback())
    x = torch.ones(5, 3)
    guard.before_batch((x, x), 7)
    guard.before_backward(None, net, net(x).mean())
    assert guard.origin.where == "second"
    assert words in guard.origin.cause


def test_nested_batches_are_searched():
    bad = torch.tensor([[1.0, math.inf]])
    found = list(inputs_not_finite({"x": [torch.zeros(2), bad], "ids": torch.tensor([1])}))
    assert found == ["`batch['x'][1]` itself holds 1 values that are not finite, the first at [0, 1]"]


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2, 2))  # a matrix without a bias
        self.layer = nn.Linear(2, 2)
        self.table = nn.Embedding(3, 2, sparse=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("name", "step"), [("gain", 5), ("layer.bias", 5), ("layer.weight", 16), ("table.weight", 5)])
def test_the_check_sees_one_bad_number(name, step, value):
    gate = Gate()
    check = GradientCheck(gate)
    assert check.finite(step)  # no gradients yet
    for parameter in gate.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert check.finite(step)
    gate.get_parameter(name).grad.view(-1)[1] = value
    assert not check.finite(step)
    drop_gradients(gate)
    assert check.finite(step)


def test_large_finite_gradients_whose_sum_overflows_are_finite():
    gate = Gate()
    for parameter in gate.parameters():
        parameter.grad = torch.full_like(parameter, 3e38)
    assert GradientCheck(gate).finite(0)


def test_a_sparse_gradient_is_read():
    gate = Gate()
    gate.table(torch.tensor([1])).sum().backward()
    check = GradientCheck(gate)
    assert check.finite(0)
    gate.zero_grad()
    (gate.table(torch.tensor([1])) * math.nan).sum().backward()
    assert not check.finite(0)


def test_buffers_of_every_type_come_back_and_large_ones_are_left_alone():
    norm = nn.BatchNorm1d(3)
    norm.register_buffer("queue", torch.zeros(100_000))
    keeper = BufferKeeper(norm)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    keeper.keep()
    norm(torch.full((4, 3), math.nan))
    norm.queue += 1
    keeper.restore()
    after = norm.state_dict()
    assert bool((after.pop("queue") == 1).all())
    assert same(after, before)


class Scaler:
    def get_scale(self):
        return 4.0


def test_while_a_loss_scale_is_sought_infinite_gradients_are_no_fault():
    net = nn.Linear(2, 2)
    net.automatic_optimization = True
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
    guard = NonFiniteGuard("stop")
    guard.begin(trainer, net, pl.Callback())
    guard._scaler = Scaler()
    guard.before_batch(None, 0)
    guard.before_backward(trainer, net, torch.tensor(8.0))
    assert guard.loss == 2.0
    said = 0
    for _ in range(30):
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, math.inf)
        assert not guard.before_step(trainer, net)
        said += guard.news is not None
    assert 0 < said < 10


def test_optimizers_that_play_against_each_other_are_both_stopped(tmp_path):
    class Gan(TwoOptimizers):
        def on_train_batch_start(self, batch, batch_idx):
            self.before = {name: value.clone() for name, value in self.state_dict().items()}
            if (self.current_epoch, batch_idx) == BAD:
                batch[0][0, 0] = math.nan

    trainer, model = fit(tmp_path, Gan, GradientMonitor())
    assert trainer.current_epoch == 2
    assert same(model.state_dict(), model.before)
