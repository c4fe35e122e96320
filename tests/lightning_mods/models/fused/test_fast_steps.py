"""Steps that Lightning's loop does not see: nothing that anybody relies on tells them from those that it does."""

import math
import warnings
from contextlib import suppress

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim import lr_scheduler

from callbacks import FitMonitor, GradientLogger, GradientMonitor, GraphLogger
from datamodules import TabularDataModule
from lightning_mods import MLPClassifier, MLPRegressor
from lightning_mods.models.fused.schedules import Course
from lightning_mods.runs.checkpoints import BestCheckpoint, LastCheckpoint


def fit(folder, steps, *, model=None, data=None, callbacks=(), ckpt_path=None, optimizer=None, **given):
    """Train on iris, 105 rows in batches of 16 unless said otherwise; returns trainer, module and batches seen."""
    pl.seed_everything(3, verbose=False)
    data = TabularDataModule(path="iris", batch_size=16, **(data or {}))
    made = (model or {}).pop("kind", MLPClassifier) if model else MLPClassifier
    facts = {"class_counts": data.class_counts, "num_classes": data.num_classes}
    if made is MLPRegressor:
        facts = {"target_mean": data.target_mean, "target_std": data.target_std}
    module = made(data.in_features, **facts, **{"hidden_sizes": (16, 8), "lr": 0.1, **(model or {})})
    module.steps_per_execution = steps
    if optimizer is not None:
        module.configure_optimizers = lambda: optimizer(module.parameters())
    seen = []
    step = module.training_step
    module.training_step = lambda batch, batch_idx: (seen.append(batch_idx), step(batch, batch_idx))[1]
    trainer = pl.Trainer(
        **{"max_epochs": 3, "logger": False, "enable_checkpointing": False, "accelerator": "cpu", **given},
        default_root_dir=folder,
        devices=1,
        callbacks=[*callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return trainer, module, seen


def counts(trainer):
    loop = trainer.fit_loop.epoch_loop
    state = {**loop.state_dict(), "epoch": trainer.current_epoch, "step": trainer.global_step}
    return state


def same(one, other):
    """Whether two fits came to the same weights, optimizer's buffers, metrics and counts."""
    (trainer, module, _), (trainer2, module2, _) = one, other
    assert counts(trainer) == counts(trainer2)
    assert trainer.callback_metrics.keys() == trainer2.callback_metrics.keys()
    for name, value in trainer.callback_metrics.items():
        assert torch.equal(value, trainer2.callback_metrics[name]), name
    weights, weights2 = module.state_dict(), module2.state_dict()
    assert all(torch.equal(weights[name], weights2[name]) for name in weights)
    states, states2 = ([s for o in t.optimizers for s in o.state.values()] for t in (trainer, trainer2))
    for state, state2 in zip(states, states2, strict=True):
        assert state.keys() == state2.keys()
        assert all(a is state2[name] is None or torch.equal(a, state2[name]) for name, a in state.items())
    return True


RECIPE = {"lr": 0.5, "nesterov": True, "lr_schedule": "cosine", "ema_epochs": 2, "input_scaling": True}
SETTINGS = {
    "as it is": {},
    "dropout": {"model": {"dropout": 0.3}},
    "nesterov": {"model": {"nesterov": True, "weight_decay": 0.01}},
    "weighted classes": {"model": {"class_weight": "balanced"}},
    "a number": {
        "model": {"kind": MLPRegressor, "lr": 0.02},
        "data": {"target": "petal width (cm)", "task": "regression"},
    },
    "validation on the way": {"val_check_interval": 0.4},
    "validation by batches over epochs": {"val_check_interval": 5, "check_val_every_n_epoch": None},
    "steps limited": {"max_steps": 17, "max_epochs": -1},
    "batches limited": {"limit_train_batches": 5},
    "a share of the batches": {"limit_train_batches": 0.7},
    "no validation": {"limit_val_batches": 0},
    "clipped norm": {"gradient_clip_val": 0.3, "model": {"nesterov": True}},
    "clipped values": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "cosine": {"model": {"lr_schedule": "cosine"}},
    "averaged": {"model": {"ema_epochs": 2}},
    "averaged, validation on the way": {"model": {"ema_epochs": 0.5}, "val_check_interval": 0.4},
    "the recipe": {"gradient_clip_val": 0.3, "model": RECIPE},
    "the recipe, steps limited": {"gradient_clip_val": 0.3, "model": RECIPE, "max_steps": 17, "max_epochs": -1},
    "the recipe without momentum": {"gradient_clip_val": 0.3, "model": {**RECIPE, "nesterov": False, "momentum": 0.0}},
    "the recipe with dropout and weighted classes": {
        "gradient_clip_val": 0.3,
        "model": {**RECIPE, "dropout": 0.2, "class_weight": "balanced"},
    },
    "clipped, of a number": {
        "gradient_clip_val": 0.05,
        "model": {"kind": MLPRegressor, "lr": 0.5},
        "data": {"target": "petal width (cm)", "task": "regression"},
    },
    "the recipe, of a number": {
        "gradient_clip_val": 0.3,
        "model": {**RECIPE, "kind": MLPRegressor},
        "data": {"target": "petal width (cm)", "task": "regression", "bins": 8},
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_fit_comes_to_the_same_end(tmp_path, name):
    def again():
        return {key: dict(value) if isinstance(value, dict) else value for key, value in SETTINGS[name].items()}

    slow, fast, some = fit(tmp_path, 1, **again()), fit(tmp_path, "auto", **again()), fit(tmp_path, 3, **again())
    assert same(slow, fast)
    assert same(slow, some)
    assert len(slow[2]) == slow[0].global_step
    assert len(fast[2]) <= len(some[2]) < len(slow[2])


OPTIMIZERS = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "AdamW without decay": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0, betas=(0.9, 0.95)),
    "Adam with decay": lambda parameters: torch.optim.Adam(parameters, lr=0.01, weight_decay=0.01),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.003, weight_decay=0.01),
    "RMSprop with momentum": lambda parameters: torch.optim.RMSprop(parameters, lr=0.001, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fit_with_another_optimizer_comes_to_the_same_end(tmp_path, name):
    habits = {"gradient_clip_val": 0.3, "max_epochs": 4}

    def fitted(steps):
        model = {"ema_epochs": 2, "input_scaling": True, "dropout": 0.1}
        return fit(tmp_path, steps, optimizer=OPTIMIZERS[name], model=model, **habits)

    slow, fast, some = map(fitted, (1, "auto", 3))
    assert same(slow, fast)
    assert same(slow, some)
    assert len(fast[2]) <= len(some[2]) < len(slow[2])


@pytest.mark.parametrize("name", ["AdamW", "RMSprop with momentum"])
def test_a_run_with_another_optimizer_resumed_in_an_epoch_is_the_uninterrupted_one(tmp_path, name):
    saves = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=10)
    whole = fit(tmp_path, "auto", optimizer=OPTIMIZERS[name], callbacks=[saves], enable_checkpointing=True)
    resumed = fit(tmp_path, "auto", optimizer=OPTIMIZERS[name], ckpt_path=tmp_path / "step=10.ckpt")
    assert same(whole, resumed)
    assert len(whole[2]) < whole[0].global_step


def by_the_step(schedule, optimizer=None):
    def configured(parameters):
        made = (optimizer or (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)))(parameters)
        return {"optimizer": made, "lr_scheduler": {"scheduler": schedule(made), "interval": "step"}}

    return configured


class Halving(lr_scheduler.LRScheduler):
    """Somebody's own, which may look at anything."""

    def get_lr(self):
        return [rate * 0.99**self.last_epoch for rate in self.base_lrs]


SCHEDULES = {
    "one cycle": by_the_step(lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=28)),
    "one cycle of AdamW": by_the_step(
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.02, total_steps=28),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ),
    "warm-up and cosine": by_the_step(
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.1, total_iters=9), lr_scheduler.CosineAnnealingLR(o, 19)], [9]
        )
    ),
    "chained": by_the_step(
        lambda o: lr_scheduler.ChainedScheduler(
            [lr_scheduler.ConstantLR(o, 0.5, total_iters=8), lr_scheduler.ExponentialLR(o, 0.95)]
        )
    ),
    "of a function": by_the_step(lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step / 10))),
    "up and down": by_the_step(lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, step_size_up=5)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_fit_with_a_schedule_by_the_step_comes_to_the_same_end(tmp_path, name):
    saves = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=10)
    slow = fit(tmp_path / "slow", 1, optimizer=SCHEDULES[name], max_epochs=4)
    fast = fit(tmp_path, "auto", optimizer=SCHEDULES[name], max_epochs=4, callbacks=[saves], enable_checkpointing=True)
    resumed = fit(tmp_path, "auto", optimizer=SCHEDULES[name], max_epochs=4, ckpt_path=tmp_path / "step=10.ckpt")
    for other in (fast, resumed):
        assert same(slow, other)
        assert schedule_state(slow) == schedule_state(other)
    assert len(fast[2]) < len(slow[2])


def schedule_state(fitted):
    return fitted[0].lr_scheduler_configs[0].scheduler.state_dict(), settings_of(fitted)


def settings_of(fitted):
    (group,) = fitted[0].optimizers[0].param_groups
    return {name: value for name, value in group.items() if name != "params"}


@pytest.mark.parametrize("name", ["one cycle", "warm-up and cosine"])
def test_a_schedule_is_put_back_with_the_steps_that_were_none(tmp_path, name):
    slow, fast = (fit(tmp_path, steps, optimizer=SCHEDULES[name], data={"seed": 1}) for steps in (1, "auto"))
    assert schedule_state(slow) == schedule_state(fast)
    trainer, _, _ = fast
    before = schedule_state(fast)
    course = Course(trainer)
    course.settings(3)
    assert schedule_state(fast) != before
    course.put_back()
    assert schedule_state(fast) == before


def test_why_every_mini_batch_goes_through_the_loop_is_one_line(tmp_path, capsys):
    many = {"max_epochs": 150}  # a thousand mini-batches: then somebody waits
    strange = by_the_step(lambda o: Halving(o))
    for given, why in (
        ({"optimizer": lambda p: torch.optim.NAdam(p, lr=0.01)}, "NAdam"),
        ({"optimizer": strange}, "Halving"),
        ({"callbacks": [Watches()]}, "Watches; --steps_per_execution=10 shows every tenth to callbacks"),
        ({"accumulate_grad_batches": 2}, "accumulated gradients"),
    ):
        fit(tmp_path, "auto", **given, **many)
        line = f"note: every mini-batch goes through Lightning's loop, most of a small step's time: {why}.\n"
        assert capsys.readouterr().err == line
    fit(tmp_path, "auto", optimizer=strange)
    fit(tmp_path, "auto", **many)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.NAdam(parameters, lr=0.01),
        lambda parameters: torch.optim.Adam(parameters, lr=0.01, amsgrad=True),
        lambda parameters: torch.optim.Adam(parameters, lr=torch.tensor(0.01)),
        lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, centered=True),
        lambda parameters: torch.optim.AdamW([{"params": [each]} for each in parameters], lr=0.01),
    ],
)
def test_an_optimizer_that_is_not_known_steps_through_the_loop(tmp_path, optimizer):
    trainer, _, seen = fit(tmp_path, "auto", optimizer=optimizer)
    assert len(seen) == trainer.global_step


@pytest.mark.parametrize(
    "make",
    [
        lambda: GradientAccumulationScheduler({0: 1, 2: 3}),
        lambda: StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=2),
        lambda: EarlyStopping("val_loss", patience=0, min_delta=10.0),
        lambda: Timer(duration={"hours": 1}),
    ],
)
def test_lightnings_callbacks_do_the_same(tmp_path, make):
    slow, fast = (fit(tmp_path, steps, callbacks=[make()], max_epochs=5) for steps in (1, "auto"))
    assert same(slow, fast)
    assert len(fast[2]) < len(slow[2])


@pytest.mark.parametrize(
    "given",
    [
        {"accumulate_grad_batches": 2},
        {"precision": "bf16-mixed"},
        {"detect_anomaly": True},
        {"overfit_batches": 2},
        {"fast_dev_run": 3},
    ],
)
def test_where_a_step_is_more_than_sgd_every_mini_batch_passes_through_the_loop(tmp_path, given):
    trainer, _, seen = fit(tmp_path, "auto", **given)
    batches = trainer.num_training_batches * trainer.current_epoch
    assert len(seen) == batches > 0


class Watches(pl.Callback):
    def __init__(self):
        self.gradients = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients.append(float(pl_module.network.layers[0].weight.grad.norm()))


def test_a_callback_that_is_not_known_sees_every_mini_batch_unless_told_otherwise(tmp_path):
    all_of_them, some = Watches(), Watches()
    slow, _, _ = fit(tmp_path, "auto", callbacks=[all_of_them])
    fast, _, _ = fit(tmp_path, 7, callbacks=[some])
    assert len(all_of_them.gradients) == slow.global_step == fast.global_step
    assert 0 < len(some.gradients) < len(all_of_them.gradients)
    assert set(some.gradients) <= set(all_of_them.gradients)  # `.grad` is that of the step it sees


def test_a_hook_on_a_layer_is_called_for_every_mini_batch(tmp_path):
    called = []

    class Hooked(MLPClassifier):
        def on_train_start(self):
            super().on_train_start()
            self.network.layers[0].register_forward_hook(lambda *_: called.append(self.training))

    trainer, _, seen = fit(tmp_path, "auto", model={"kind": Hooked})
    assert len(seen) == trainer.global_step == sum(called)


def test_a_subclass_with_another_loss_or_step_is_left_to_autograd(tmp_path):
    class Softer(MLPClassifier):
        def loss(self, outputs, y):
            return super().loss(outputs / 2, y)

    class Stepping(MLPClassifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx)

    for kind in (Softer, Stepping):
        trainer, _, seen = fit(tmp_path, "auto", model={"kind": kind})
        assert len(seen) == trainer.global_step


def ours():
    return [
        FitMonitor(),
        GradientLogger(every=4, updates_every=9, histograms_every=12),
        GradientMonitor(),
        GraphLogger(),
    ]


def scalars(folder):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0}).Reload()
    values = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    histograms = {
        tag: [(e.step, e.histogram_value.num) for e in found.Histograms(tag)] for tag in found.Tags()["histograms"]
    }
    return values, histograms


@pytest.mark.parametrize("clip", [None, 0.2])
def test_our_callbacks_log_and_find_the_same(tmp_path, clip):
    fits = {}
    for steps in (1, "auto"):
        watching = ours()
        logger = pl.loggers.TensorBoardLogger(tmp_path, name=str(steps), version=0)
        given = {"logger": logger, "max_epochs": 12, "callbacks": watching, "gradient_clip_val": clip}
        fits[steps] = (*fit(tmp_path / str(steps), steps, **given), watching)
    slow, fast = fits[1], fits["auto"]
    assert same(slow[:3], fast[:3])
    assert len(fast[2]) < len(slow[2]) / 2
    assert slow[3][0].diagnosis == fast[3][0].diagnosis
    assert slow[3][2].last_word == fast[3][2].last_word
    values, histograms = scalars(tmp_path / "1" / "version_0")
    values2, histograms2 = scalars(tmp_path / "auto" / "version_0")
    assert histograms == histograms2
    assert values.keys() == values2.keys()
    assert values == {tag: [(step, pytest.approx(value, rel=1e-6)) for step, value in values2[tag]] for tag in values2}
    assert len(values["grad_norm/total"]) > 0
    assert ("grad_norm_clipped/total" in values) == bool(clip)


@pytest.mark.parametrize("interrupted", ["in an epoch", "at its end"])
def test_a_run_resumed_is_the_uninterrupted_one(tmp_path, interrupted):
    every = {"every_n_train_steps": 10} if interrupted == "in an epoch" else {"every_n_epochs": 1}
    saves = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **every)
    whole = fit(tmp_path, "auto", callbacks=[saves], enable_checkpointing=True)
    steps = sorted(int(path.stem.partition("=")[2]) for path in tmp_path.glob("step=*.ckpt"))
    assert steps == ([10, 20] if interrupted == "in an epoch" else [7, 14, 21])
    for step in steps[:2]:
        resumed = fit(tmp_path, "auto", callbacks=[], ckpt_path=tmp_path / f"step={step}.ckpt")
        assert same(whole, resumed)


def test_a_number_that_is_not_finite_is_met_by_the_loop(tmp_path):
    ends = []
    for steps in (1, "auto"):
        monitor = GradientMonitor(closing=False)
        trainer, module, _ = fit(tmp_path, steps, model={"lr": 1e18, "momentum": 0.0}, callbacks=[monitor])
        ends.append((trainer.global_step, monitor.findings, {k: v.clone() for k, v in module.state_dict().items()}))
    (step, findings, weights), (step2, findings2, weights2) = ends
    assert step == step2
    assert [found.fault for found in findings] == [found.fault for found in findings2]
    assert any(found.fault.value == "non_finite" for found in findings)
    assert all(torch.equal(weights[name], weights2[name]) for name in weights)
    assert all(torch.isfinite(value).all() for value in weights2.values())


def test_a_loader_used_again_serves_the_new_fit_alone(tmp_path):
    class Stops(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            raise KeyError("enough")

    data = TabularDataModule(path="iris", batch_size=16)
    data.prepare_data()
    data.setup("fit")
    loaders = data.train_dataloader(), data.val_dataloader()
    seen = []
    for steps, callbacks in (("auto", [Stops()]), (1, []), ("auto", [])):
        module = MLPClassifier(data.in_features, data.num_classes, lr=0.1)
        module.steps_per_execution = steps
        step = module.training_step
        module.training_step = lambda batch, batch_idx, step=step: (seen.append(batch_idx), step(batch, batch_idx))[1]
        trainer = pl.Trainer(
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            accelerator="cpu",
            devices=1,
            callbacks=callbacks,
            default_root_dir=tmp_path,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        seen.clear()
        with suppress(KeyError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, *loaders)
        assert len(seen) == 7 if steps == 1 else 0 < len(seen) < 7
        assert trainer.global_step == 7


def test_checkpoints_written_by_time_are_those_of_the_end(tmp_path):
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="run", version=0)
    given = {"logger": logger, "max_epochs": 30, "enable_checkpointing": True}
    trainer, module, _ = fit(tmp_path, "auto", callbacks=[BestCheckpoint(), LastCheckpoint()], **given)
    folder = tmp_path / "run" / "version_0" / "checkpoints"
    last = torch.load(folder / "last.ckpt", weights_only=True)
    best = torch.load(folder / "best.ckpt", weights_only=True)
    assert last["global_step"] == trainer.global_step
    assert all(torch.equal(value, last["state_dict"][name]) for name, value in module.state_dict().items())
    kept = next(value for key, value in best["callbacks"].items() if key.startswith("BestCheckpoint"))
    assert math.isclose(kept["metrics"]["val_loss"], float(trainer.checkpoint_callback.best_model_score))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_fit_on_a_gpu_comes_to_the_same_end(tmp_path):
    slow, *others = (fit(tmp_path, steps, accelerator="cuda") for steps in (1, "graph", 5))
    for fast in others:
        assert same(slow, fast)
        assert len(fast[2]) < len(slow[2])
