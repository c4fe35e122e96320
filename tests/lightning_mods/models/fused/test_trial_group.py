"""Trials trained as one batched model: each, to the last bit, what Lightning makes of it alone on one thread."""

import math
from types import MethodType

import pytest
import pytorch_lightning as pl
import torch

from datamodules import TabularDataModule
from lightning_mods import MLPClassifier, MLPRegressor
from lightning_mods.models.fused.group import CACHE, MOST, worth_together
from lightning_mods.models.fused.group_ops import GroupCrossEntropy, Linear, aligned

EPOCHS = 3
SEED = 7
LOW, USUAL, HIGH, PLAIN = (
    {"lr": 1e-4, "momentum": 0.9, "weight_decay": 0.0},
    {"lr": 0.03, "momentum": 0.5, "weight_decay": 0.02},
    {"lr": 1.0, "momentum": 0.95, "weight_decay": 1e-3},
    {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0},
)
TABLES = {}


class Record(pl.Callback):
    """What was logged at the end of each epoch."""

    def __init__(self):
        self.rows = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()} | self._lr)

    def on_train_epoch_start(self, trainer, pl_module):
        self._lr = {"lr": trainer.optimizers[0].param_groups[0]["lr"]}


def made(path, batch_size, **model):
    """A data module and a model, from the same seed each time."""
    if path not in TABLES:
        TABLES[path] = TabularDataModule(path, seed=3)
        TABLES[path].setup("fit")
    data = TabularDataModule(path, batch_size=batch_size, seed=3)
    data._work = TABLES[path]._work  # read once
    pl.seed_everything(SEED, verbose=False)
    if data.num_classes is None:
        return data, MLPRegressor(data.in_features, data.target_mean, data.target_std, **model)
    return data, MLPClassifier(data.in_features, data.num_classes, data.class_counts, **model)


def group_of(data, module, rates, **trainer):
    return module.trial_group(
        rates,
        seed=SEED,
        max_epochs=EPOCHS,
        **trainer,
        train=data.train_dataloader(),
        val=data.val_dataloader(),
        curves=[f"val_{name}" for name in module.metric_names],
    )


def alone(path, batch_size, trainer, configured=None, **model):
    data, module = made(path, batch_size, **model)
    if configured is not None:
        module.configure_optimizers = MethodType(configured, module)
    record = Record()
    pl.Trainer(
        **trainer,
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[record],
    ).fit(module, datamodule=data)
    return record.rows, [parameter.detach() for parameter in module.parameters()]


def same(found, wanted):
    return torch.equal(torch.isnan(found), torch.isnan(wanted)) and torch.equal(found.nan_to_num(), wanted.nan_to_num())


def check(path, batch_size, rates, trainer=None, **model):
    """Compare curves and weights of a group's trials with those of fits of their own."""
    trainer = trainer or {}
    group = group_of(*made(path, batch_size, **{**model, **rates[0]}), rates, **trainer)
    group.run(EPOCHS)
    for place, rate in enumerate(rates):
        rows, weights = alone(path, batch_size, trainer, **{**model, **rate})
        assert set(group.curves[place]) == set(rows[0])
        for name, curve in group.curves[place].items():
            assert same(torch.tensor(curve), torch.tensor([row[name] for row in rows])), (rate, name)
        pairs = zip(group.weights(place), weights, strict=True)
        assert all(same(found, wanted) for found, wanted in pairs), rate


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "identity"])
def test_every_activation_on_widths_that_fill_no_vector(activation):
    check("iris", 16, [USUAL, HIGH], hidden_sizes=[13, 5], activation=activation)


def test_rates_from_low_to_diverging_with_a_last_short_batch():
    check("digits", 100, [LOW, USUAL, HIGH, PLAIN, {**HIGH, "lr": 1e6}], hidden_sizes=[64, 32])


def test_a_regression_whose_last_layer_has_one_output():
    check("diabetes", 32, [LOW, USUAL, {**HIGH, "lr": 5.0}], hidden_sizes=[32, 16])


def test_plain_gradient_descent():
    check("wine", "full", [USUAL, HIGH], hidden_sizes=[32], activation="gelu")


def test_nesterov():
    check("wine", 32, [USUAL, HIGH], nesterov=True, hidden_sizes=[20])


def test_classes_with_weights():
    check("breast_cancer", 50, [USUAL, HIGH], class_weight="balanced", hidden_sizes=[16])
    check("digits", 256, [USUAL], class_weight=[1.0, 2, 3, 4, 5, 6, 7, 8, 9, 0.5], hidden_sizes=[8])


def test_dropout_of_each_trial_its_own():
    rates = [{**USUAL, "dropout": p} for p in (0.2, 0.5, 0.0, 0.5)]
    check("wine", 20, rates, hidden_sizes=[32, 10])


RECIPE = {"nesterov": True, "lr_schedule": "cosine", "ema_epochs": 2, "input_scaling": True}


@pytest.mark.parametrize("path", ["wine", "diabetes", "digits"])
def test_the_recipe(path):
    rates = [{**USUAL, "lr": lr, "weight_decay": decay} for lr, decay in ((0.5, 2e-3), (0.05, 0.0), (8.0, 0.02))]
    check(path, 32, rates, {"gradient_clip_val": 0.3}, hidden_sizes=[32, 21], **RECIPE)


@pytest.mark.parametrize("hidden_sizes", [[13, 5], [7], []])
def test_the_recipe_on_widths_that_fill_no_vector(hidden_sizes):
    check("iris", 16, [USUAL, HIGH], {"gradient_clip_val": 0.3}, hidden_sizes=hidden_sizes, **RECIPE)


def test_clipped_values_and_an_average_of_less_than_an_epoch():
    clipping = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}
    check("wine", 16, [USUAL, HIGH, PLAIN], clipping, hidden_sizes=[24], ema_epochs=0.3)


@pytest.mark.parametrize(("batch_size", "hidden_sizes"), [(1, [7]), (2, [3, 2]), (8, [16, 1, 16]), (64, [])])
def test_shapes_whose_batched_products_differ(batch_size, hidden_sizes):
    check("iris", batch_size, [USUAL, HIGH], hidden_sizes=hidden_sizes)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS, eta_min=1e-4)


OTHERS = {
    "AdamW": (torch.optim.AdamW, {"betas": (0.8, 0.95)}, None),
    "AdamW along a cosine": (torch.optim.AdamW, {}, cosine),
    "Adam": (torch.optim.Adam, {"eps": 1e-6}, None),
    "RMSprop": (torch.optim.RMSprop, {}, None),
    "RMSprop with momentum, halved": (
        *(torch.optim.RMSprop, {"momentum": 0.5}),
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
    ),
    "SGD along a cosine": (torch.optim.SGD, {"momentum": 0.9}, cosine),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(("path", "size"), [("digits", 100), ("iris", 16), ("diabetes", 32)])
def test_trials_with_an_optimizer_of_their_own(name, path, size):
    kind, shared, schedule = OTHERS[name]
    rates = [{"lr": 0.003, "weight_decay": 0.0}, {"lr": 0.02, "weight_decay": 0.1}, {"lr": 1e3, "weight_decay": 0.01}]
    model = {"hidden_sizes": [13, 8], "ema_epochs": 1, "dropout": 0.1}
    clip = {"gradient_clip_val": 0.5}

    def made_by(parameters, rate):
        optimizer = kind(parameters, **shared, **rate)
        return optimizer, schedule(optimizer) if schedule else None

    data, module = made(path, size, **model)
    optimizers = [made_by([torch.nn.Parameter(torch.zeros(1))], rate) for rate in rates]
    group = group_of(data, module, [{}] * len(rates), optimizers=optimizers, **clip)
    group.run(EPOCHS)
    for place, rate in enumerate(rates):

        def configured(self, rate=rate):
            optimizer, scheduler = made_by(self.parameters(), rate)
            return optimizer if scheduler is None else ([optimizer], [scheduler])

        rows, weights = alone(path, size, clip, configured, **model)
        for metric, curve in group.curves[place].items():
            assert same(torch.tensor(curve), torch.tensor([row[metric] for row in rows])), (rate, metric)
        assert all(map(same, group.weights(place), weights)), rate


def test_optimizers_that_differ_in_more_than_rates_make_no_group():
    data, module = made("iris", 16)
    one, other = (torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], eps=eps) for eps in (1e-8, 1e-6))
    with pytest.raises(ValueError, match="may differ in rates alone"):
        group_of(data, module, [{}, {}], optimizers=[(one, None), (other, None)])
    strange = torch.optim.NAdam([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match="one optimizer that is known"):
        group_of(data, module, [{}], optimizers=[(strange, None)])


def test_a_trial_that_leaves_changes_nothing_for_the_others():
    data, module = made("wine", 16, hidden_sizes=[24])
    whole, fewer = group_of(data, module, [LOW, USUAL, HIGH]), group_of(data, module, [LOW, USUAL, HIGH])
    whole.run(4)
    fewer.run(2)
    fewer.keep([0, 2])
    fewer.run(3)
    fewer.keep([2])
    fewer.run(4)
    assert [len(curves["val_loss"]) for curves in fewer.curves] == [3, 2, 4]
    assert fewer.curves[2] == whole.curves[2]
    assert all(map(torch.equal, fewer.weights(2), whole.weights(2)))
    logged = {name: values for name, values in fewer.curves[1].items() if name != "lr"}
    assert fewer.best_metrics(1) == {name: values[1] for name, values in logged.items()}


def test_the_best_epochs_metrics_are_those_that_were_logged():
    data, module = made("wine", 16, hidden_sizes=[24], lr=0.5)
    group = module.trial_group([{}], seed=SEED, train=data.train_dataloader(), val=data.val_dataloader())
    group.run(EPOCHS)
    rows, _ = alone("wine", 16, {}, hidden_sizes=[24], lr=0.5)
    best = min(range(EPOCHS), key=lambda epoch: rows[epoch]["val_loss"])
    assert "val_auroc" not in group.curves[0]
    assert group.best_epochs == [best]
    assert group.best_metrics(0) | {"lr": 0.5} == rows[best]


def test_a_trial_without_a_finite_loss_has_no_best_epoch():
    data, module = made("wine", 16)
    group = group_of(data, module, [{"lr": 1e30}])
    group.run(2)
    assert not math.isfinite(group.curves[0]["val_loss"][-1])
    assert group.best_metrics(0) == {}


def test_the_model_that_a_group_began_with_and_the_random_numbers_stay():
    data, module = made("wine", 16, dropout=0.2)
    before = [parameter.clone() for parameter in module.parameters()]
    state = torch.get_rng_state()
    group_of(data, module, [USUAL, HIGH]).run(1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(map(torch.equal, before, module.parameters()))


def test_a_module_that_trains_otherwise_has_no_group():
    class Other(MLPClassifier):
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), self.lr)

    class Louder(MLPClassifier):
        def loss(self, outputs, y):
            return 2 * super().loss(outputs, y)

    data, module = made("wine", 16)
    for kind in (Other, Louder):
        assert group_of(data, kind(data.in_features, data.num_classes), [USUAL]) is None
    module.configure_optimizers = lambda: None  # as Lightning's command line sets one
    assert group_of(data, module, [USUAL]) is None


def test_a_metric_that_is_not_logged_is_refused():
    data, module = made("wine", 16)
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader()}
    with pytest.raises(ValueError, match=r"monitor must be val_loss or one of accuracy, f1, auroc .* not val_r2"):
        module.trial_group([USUAL], seed=0, monitor="val_r2", **loaders)


# ---------------------------------------------------------------------- products


def test_batched_products_equal_single_ones_wherever_they_are_used():
    draw = torch.Generator().manual_seed(1)
    for rows, inner, outer in [(1, 10, 16), (3, 5, 7), (16, 64, 1), (32, 33, 13), (100, 128, 10), (256, 10, 64)]:
        weights, biases, x, grads = (
            aligned(4, *shape).copy_(torch.randn(4, *shape, generator=draw))
            for shape in ((outer, inner), (outer,), (rows, inner), (rows, outer))
        )
        for first in (True, False):
            made = aligned(4, outer, inner), aligned(4, outer)
            layer = Linear(weights, biases, weight_grads=made[0], bias_grads=made[1], rows=rows, first=first)
            given = x[0] if first else x
            found = [layer.forward(given), *made]
            layer.gradients(grads, given)
            found += [] if first else [layer.input_gradient(grads)]
            for t in range(4):
                w, b, g = (each[t].clone() for each in (weights, biases, grads))
                own = (x[0] if first else x[t]).clone()
                wanted = (torch.addmm(b, own, w.t()), g.t() @ own, g.sum(0), g @ w)
                pairs = zip(found, wanted, strict=False)
                assert all(torch.equal(each[t], one) for each, one in pairs), (rows, inner, outer, first)


@pytest.mark.parametrize("rows", [1, 16, 17, 100, 257, 300])
def test_losses_are_summed_up_in_torchs_order(rows):
    draw = torch.Generator().manual_seed(rows)
    weights = torch.rand(5, generator=draw)
    outputs, ys = torch.randn(3, 2, rows, 5, generator=draw), torch.randint(0, 5, (3, rows), generator=draw)
    for loss in (GroupCrossEntropy(None), GroupCrossEntropy(weights)):
        terms = torch.stack([loss.compared(each, y) for each, y in zip(outputs, ys, strict=True)])
        wanted = [
            [torch.nn.functional.cross_entropy(own, y, loss.weights) for own in each]
            for each, y in zip(outputs, ys, strict=True)
        ]
        assert torch.equal(loss.values(terms, ys), torch.tensor(wanted))


def test_small_networks_are_trained_together_and_large_ones_alone():
    def shapes(width):
        return [(width, 64), (width,), (width, width), (width,), (10, width), (10,)]

    assert worth_together(shapes(16), 32) == MOST
    assert 1 < worth_together(shapes(128), 64) < MOST
    assert worth_together(shapes(512), 32) == 1
    assert worth_together(shapes(16), CACHE) == 1
    torch.set_num_threads(2)  # with which a large step is quicker
    assert worth_together(shapes(512), 32) == 1
    assert worth_together(shapes(512), 1024) == 0
