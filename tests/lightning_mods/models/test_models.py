"""The two leaves, and what they share: arithmetic against plain torch, state, seeds."""

import copy
import math
import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_mods import MLPClassifier, MLPEnsemble, MLPRegressor


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 5, generator=generator)
    return x, (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 1).long()


def fit(model, x, y, *, epochs=3, batch_size=32, **kwargs):
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )
    loader = DataLoader(TensorDataset(x, y), batch_size=batch_size)
    trainer.fit(model, loader, DataLoader(TensorDataset(x, y), batch_size=50))
    return trainer


@pytest.mark.parametrize("class_weight", [None, "balanced", [1.0, 0.0, 3.0]])
@pytest.mark.parametrize("nesterov", [False, True])
def test_a_fit_is_the_hand_written_loop_bit_for_bit(rows, class_weight, nesterov):
    x, y = rows
    counts = torch.bincount(y, minlength=3).tolist()
    torch.manual_seed(1)
    model = MLPClassifier(5, 3, counts, hidden_sizes=(8,), class_weight=class_weight, nesterov=nesterov, lr=0.1)
    twin = copy.deepcopy(model)
    fit(model, x, y)
    sgd = torch.optim.SGD(twin.network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=nesterov)
    for group in sgd.param_groups:
        group["weight_decay"] = twin.weight_decay
    for _ in range(3):
        for at in range(0, 96, 32):
            sgd.zero_grad()
            functional.cross_entropy(twin.network(x[at : at + 32]), y[at : at + 32], weight=twin.weights).backward()
            sgd.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_the_training_loss_of_an_epoch_is_the_mean_over_its_rows(rows):
    x, y = rows
    model = MLPClassifier(5, 3, hidden_sizes=(), lr=1e-12)  # it stands still
    trainer = fit(model, x[:90], y[:90], epochs=1)
    with torch.no_grad():
        whole = functional.cross_entropy(model.network(x[:90]), y[:90])
    assert trainer.callback_metrics["train_loss"] == pytest.approx(float(whole), rel=1e-5)


def test_validation_numbers_are_those_of_all_rows_at_once(rows):
    x, y = rows
    model = MLPClassifier(5, 3, torch.bincount(y).tolist(), hidden_sizes=(4,), class_weight="balanced", lr=0.1)
    metrics = fit(model, x, y).callback_metrics
    with torch.no_grad():
        outputs = model.network(x)
    assert metrics["val_loss"] == pytest.approx(float(functional.cross_entropy(outputs, y, model.weights)), rel=1e-5)
    assert metrics["val_accuracy"] == pytest.approx(float((outputs.argmax(1) == y).float().mean()))
    assert {"val_f1", "val_auroc"} <= metrics.keys()


def test_a_regression_trains_on_the_standardised_target_and_logs_in_its_units(rows):
    x, _ = rows
    y = x[:, 0] * 300 + 1000
    model = MLPRegressor(5, float(y.mean()), float(y.std()), hidden_sizes=(8,))
    metrics = fit(model, x, y, epochs=40).callback_metrics
    with torch.no_grad():
        predicted = model(x)
    assert metrics["val_loss"] == pytest.approx(float(((predicted - y) ** 2).mean()), rel=1e-4)
    assert metrics["val_rmse"] == pytest.approx(float(metrics["val_loss"]) ** 0.5, rel=1e-4)
    assert metrics["val_mae"] == pytest.approx(float((predicted - y).abs().mean()), rel=1e-4)
    assert metrics["val_r2"] > 0.9
    assert predicted.mean() == pytest.approx(1000, abs=60)


def test_a_large_target_with_a_small_spread_is_not_lost_to_rounding():
    y = torch.tensor([1e9 - 1, 1e9, 1e9 + 1], dtype=torch.float64)
    model = MLPRegressor(1, 1e9, float(y.std(correction=0)), hidden_sizes=())
    perfect = ((y - 1e9) / model.target_std).unsqueeze(1).float()
    assert model.loss(perfect, y) == pytest.approx(0, abs=1e-12)


def test_the_trivial_prediction_is_scored_on_the_rows_that_are_given():
    y = torch.tensor([0, 0, 1, 1])
    plain = MLPClassifier(2, 2, [30, 10]).baseline_on(y)
    assert plain["loss"] == pytest.approx(-0.5 * math.log(0.75) - 0.5 * math.log(0.25))
    assert plain["accuracy"] == 0.5
    weighted = MLPClassifier(2, 2, [30, 10], class_weight=[1, 9])
    assert weighted.baseline_on(y)["loss"] == pytest.approx(-0.1 * math.log(0.25) - 0.9 * math.log(0.75))
    assert weighted.baseline_on(y)["accuracy"] == 0.5  # of the largest class, whatever it weighs
    assert MLPClassifier(2, 2).baseline_on(y) == MLPClassifier(2, 2, [30, 10]).baseline_on(y[:0]) == {}
    numbers = MLPRegressor(2, 1e6, 2.0).baseline_on(torch.tensor([1e6 + 1, 1e6 - 3]))
    assert numbers["loss"] == pytest.approx(5)
    assert numbers["mae"] == 2
    together = MLPEnsemble.of(MLPClassifier(2, 2, [30, 10]), 3).baseline_on(y)
    assert together["loss"] == pytest.approx(together["ensemble_loss"]) == pytest.approx(plain["loss"])


def test_the_baseline_loss_is_that_of_the_best_constant():
    assert MLPClassifier(2, 2, [30, 10]).baseline_loss == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert MLPClassifier(2, 2, [30, 10], class_weight="balanced").baseline_loss == pytest.approx(math.log(2))
    assert MLPClassifier(2, 2, [4, 0]).baseline_loss == 0
    assert MLPClassifier(2, 2).baseline_loss is None
    assert MLPRegressor(2, 5.0, 3.0).baseline_loss == 9


def test_dropout_draws_the_same_whatever_else_draws(rows):
    class Draws(pl.Callback):
        def on_train_batch_start(self, *_):
            torch.rand(7)

    weights = []
    for callbacks in ([], [Draws()]):
        pl.seed_everything(5)
        model = MLPClassifier(5, 3, hidden_sizes=(8,), dropout=0.5)
        fit(model, *rows, callbacks=callbacks)
        weights.append(model.network.layers[0].weight)
    assert torch.equal(*weights)


def test_dropout_draws_anew_in_every_batch(rows):
    seen = []

    class Spy(MLPClassifier):
        def loss(self, outputs, y):
            seen.append(outputs.detach().clone())
            return super().loss(outputs, y)

    x = torch.ones(64, 5)
    fit(
        Spy(5, 3, hidden_sizes=(16,), dropout=0.5, lr=1e-12),
        x,
        torch.zeros(64).long(),
        epochs=2,
        num_sanity_val_steps=0,
    )
    batches = [out for out in seen if len(out) == 32]
    assert len(batches) == 4
    assert all(not torch.equal(a, b) for i, a in enumerate(batches) for b in batches[:i])


def test_a_checkpoint_loads_weights_only_and_without_the_command_line(tmp_path, rows):
    model = MLPClassifier(5, 3, [40, 40, 16], hidden_sizes=(4,), class_weight="balanced")
    trainer = fit(model, *rows, epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = MLPClassifier.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert again.hparams == model.hparams
    assert torch.equal(again.weights, model.weights)
    assert torch.equal(again(rows[0]), model(rows[0]))


def test_the_forward_pass_gives_probabilities_and_predict_the_same(rows):
    model = MLPClassifier(5, 3)
    torch.testing.assert_close(model(rows[0]).sum(dim=1), torch.ones(96))
    assert torch.equal(model.predict_step(rows[0], 0), model.predict_step(rows, 0))


def test_a_class_that_the_validation_set_lacks_warns_of_nothing(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(workers|LeafSpec|logging interval).*")
        metrics = fit(MLPClassifier(5, 4), *rows, epochs=1).callback_metrics
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MLPClassifier(2, 1), "num_classes must be at least 2, not 1"),
        (lambda: MLPClassifier(2, 3, [1, 2]), r"class_counts needs one number a class \(3\), not 2"),
        (lambda: MLPClassifier(2, 3, class_weight=[1, 2]), r"class_weight needs one number a class \(3\), not 2"),
        (lambda: MLPClassifier(2, 2, class_weight="balanced"), "needs class_counts"),
        (lambda: MLPClassifier(2, 2, class_weight=[0, 0]), "not all 0"),
        (lambda: MLPClassifier(2, 2, class_weight=[1, -1]), "at least 0"),
        (lambda: MLPClassifier(2, 2, lr=0), "lr must be above 0, not 0"),
        (lambda: MLPClassifier(2, 2, lr=float("nan")), "lr"),
        (lambda: MLPClassifier(2, 2, momentum=1), r"momentum must lie in \[0, 1\), not 1"),
        (lambda: MLPClassifier(2, 2, weight_decay=-1e-4), "weight_decay must be at least 0"),
        (lambda: MLPClassifier(2, 2, momentum=0, nesterov=True), "nesterov needs a momentum above 0"),
        (lambda: MLPRegressor(2, 0.0, 0.0), "target_std above 0"),
        (lambda: MLPRegressor(2, float("inf"), 1.0), "target_mean must be finite"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_the_default_weight_decay_fades_as_the_rows_grow():
    decays = [MLPClassifier(2, 2, [rows, rows]).weight_decay for rows in (10, 1000, 100_000)]
    assert decays == [0.02, 0.01, 0.0001]
    assert MLPClassifier(2, 2, [10, 10], weight_decay=0.5).weight_decay == 0.5
    assert MLPClassifier(2, 2, [10, 10], weight_decay=0).weight_decay == 0
