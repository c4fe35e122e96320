"""The course of a fit: the learning rate falls along a cosine, the weights are averaged, a limit of time ends both."""

import math
from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from datamodules import TabularDataModule
from lightning_mods import MLPClassifier
from lightning_mods.models.average import WeightAverage
from lightning_mods.models.schedule import CosineSchedule, TimeLimit

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*callbacks used to create the checkpoint need to be provided.*", "ignore:.*mid-epoch.*"
)
COURSE = {"hidden_sizes": (8,), "lr": 0.3, "lr_schedule": "cosine", "ema_epochs": 2}
PER_EPOCH = 7  # 105 rows in batches of 16


class Watch(pl.Callback):
    """Notes the rate of every step and the weights after it, and those that are validated."""

    def __init__(self):
        self.rates, self.weights, self.validated = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        if self.rates[1:]:  # after the step before
            self.weights.append(flat(pl_module))

    def on_validation_epoch_start(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.validated.append(flat(pl_module))


def flat(module):
    return torch.cat([p.detach().flatten().clone() for p in module.network.parameters()])


def fit(folder, *, epochs=3, callbacks=(), ckpt_path=None, steps="auto", **model):
    pl.seed_everything(1, verbose=False)
    data = TabularDataModule("iris", batch_size=16)
    module = MLPClassifier(data.in_features, data.num_classes, data.class_counts, **{**COURSE, **model})
    module.steps_per_execution = steps
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(c, pl.callbacks.ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return trainer, module


def test_the_rate_falls_along_half_a_cosine(tmp_path):
    watch = Watch()
    fit(tmp_path, callbacks=[watch])
    steps = 3 * PER_EPOCH
    assert watch.rates == pytest.approx([0.3 * (1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps)])


def test_what_is_validated_and_left_is_the_average(tmp_path):
    watch = Watch()
    torch.manual_seed(0)
    _, module = fit(tmp_path, callbacks=[watch], steps=1)
    assert len(watch.validated) == 3
    # the average by hand, from the weights after each step, which are seen at the beginning of the next
    pl.seed_everything(1, verbose=False)
    data = TabularDataModule("iris", batch_size=16)
    average = flat(MLPClassifier(data.in_features, data.num_classes, data.class_counts, **COURSE))
    for step, weights in enumerate(watch.weights):
        average = average + max(1 / (2 * PER_EPOCH), 1 / (step + 2)) * (weights - average)
        if step + 1 in (PER_EPOCH, 2 * PER_EPOCH):
            assert torch.allclose(watch.validated[(step + 1) // PER_EPOCH - 1], average, atol=1e-6)
    assert torch.equal(flat(module), watch.validated[-1])
    assert not torch.allclose(flat(module), watch.weights[-1], atol=1e-4)


def test_a_checkpoint_has_the_average_as_its_weights(tmp_path):
    kept = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=20)
    _, module = fit(tmp_path, callbacks=[kept])
    found = torch.load(tmp_path / "step=20.ckpt", weights_only=True)  # of 21
    average = torch.cat([found["state_dict"][name].flatten() for name in found["mlp_module"]["average"]["trained"]])
    loaded = MLPClassifier.load_from_checkpoint(tmp_path / "step=20.ckpt", weights_only=True)
    assert torch.equal(flat(loaded), average)
    assert torch.allclose(average, flat(module), atol=0.05)
    trained = torch.cat([each.flatten() for each in found["mlp_module"]["average"]["trained"].values()])
    assert not torch.allclose(average, trained, atol=1e-3)


@pytest.mark.parametrize("steps", [1, "auto"])
@pytest.mark.parametrize("name", ["step=9", "step=18"])
def test_a_run_resumed_in_the_middle_of_an_epoch_comes_to_the_same_weights(tmp_path, name, steps):
    every = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=9, save_top_k=-1)
    _, whole = fit(tmp_path, callbacks=[every], steps=steps)
    trainer, resumed = fit(tmp_path, ckpt_path=tmp_path / f"{name}.ckpt")
    assert trainer.global_step == 3 * PER_EPOCH
    assert torch.equal(flat(whole), flat(resumed))


def test_a_second_fit_begins_with_the_average_of_the_first(tmp_path):
    _, module = fit(tmp_path, epochs=1)
    before = flat(module)
    assert module.average is None
    data = TabularDataModule("iris", batch_size=16)
    pl.Trainer(max_epochs=0, accelerator="cpu", logger=False, enable_checkpointing=False).fit(module, datamodule=data)
    assert torch.equal(flat(module), before)


def test_more_epochs_than_were_planned_lengthen_the_schedule(tmp_path):
    kept = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    fit(tmp_path, epochs=2, callbacks=[kept])
    watch = Watch()
    fit(tmp_path, epochs=4, callbacks=[watch], ckpt_path=tmp_path / "epoch=1.ckpt")
    assert watch.rates[0] == pytest.approx(0.15)  # half of the way


@pytest.mark.parametrize("given", [{"lr_schedule": "linear"}, {"ema_epochs": -1}, {"ema_epochs": float("nan")}])
def test_a_course_that_cannot_be_is_refused_in_a_line(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))} must be .*, not "):
        MLPClassifier(4, 3, **given)


# ------------------------------------------------------------------ the parts


def schedule_of(steps):
    schedule = CosineSchedule(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), steps)
    schedule.optimizer.step()  # torch warns of a schedule that steps first
    return schedule


def test_the_state_is_plain_and_goes_on():
    schedule = schedule_of(10)
    for _ in range(4):
        schedule.step()
    other = schedule_of(10)
    other.load_state_dict(schedule.state_dict())
    assert other.rates(7) == schedule.rates(7)
    schedule.go_on(0.5, 2)
    other.load_state_dict(schedule.state_dict())
    assert other.rates(5) == schedule.rates(5) == pytest.approx([(1 + math.cos(math.pi * 0.75)) / 2])


class Clock:
    """Ten seconds, of which each step takes one."""

    def __init__(self):
        self.now = 0.0

    def time_elapsed(self):
        return self.now

    def time_remaining(self):
        return 10.0 - self.now


@pytest.mark.parametrize("steps", [math.inf, 1000, 20])
def test_the_rate_is_zero_when_the_time_is_over(steps):
    schedule, clock = schedule_of(steps), Clock()
    limit = TimeLimit(schedule, clock)
    rates = []
    for second in range(10):
        rates.append(schedule.rates(second)[0])
        schedule.step()
        clock.now = second + 1.0
        limit.keep(tuple)
    assert all(later <= earlier for earlier, later in pairwise(rates))
    assert rates[5] == pytest.approx(0.5, abs=1e-6)
    assert schedule.rates(10)[0] == pytest.approx(0.0, abs=0.03)


def test_a_limit_of_time_that_is_not_reached_changes_nothing():
    schedule, plain, clock = schedule_of(5), schedule_of(5), Clock()
    limit = TimeLimit(schedule, clock)
    for second in range(4):
        schedule.step()
        plain.step()
        clock.now = second + 1.0
        limit.keep(tuple)
        assert schedule.rates(second + 1) == pytest.approx(plain.rates(second + 1))


def test_an_average_is_shown_and_taken_out_again():
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage({"w": parameter}, horizon=4)
    with torch.no_grad():
        parameter.fill_(3.0)
    average.update()  # half of the way
    average.show(True)
    average.show(True)
    assert parameter.item() == 2.0
    average.show(False)
    assert parameter.item() == 3.0


def test_ranks_agree_on_one_plan():
    schedule, clock = schedule_of(20), Clock()
    limit = TimeLimit(schedule, clock)
    schedule.step()
    clock.now = 5.0
    limit.keep(lambda mine: (0.25, 4.0))  # the first rank's
    assert schedule.rates(1) == pytest.approx([(1 + math.cos(math.pi / 4)) / 2])
    assert schedule.rates(5) == pytest.approx([0.0])
