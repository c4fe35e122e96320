"""`OptunaSearch(ensemble="greedy")`: an ensemble of the trials beside the fit with the best of their values."""

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from search_fits import Data, Foreign
from search_fits import fit as foreign_fit

from callbacks import OptunaSearch
from callbacks.tuning.ensembles import KeptFits
from datamodules import TabularDataModule
from lightning_mods import MLPClassifier, MLPEnsemble, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    monkeypatch.setattr("callbacks.tuning.optuna_search.show_pictures", lambda *args: None)


def fit(root, search, path="wine", **kwargs):
    pl.seed_everything(0, verbose=False)
    data = TabularDataModule(path=path, batch_size=16)
    facts = {"num_classes": data.num_classes} if path == "wine" else {"target_std": data.target_std}
    module = (MLPClassifier if path == "wine" else MLPRegressor)(data.in_features, hidden_sizes=[8], **facts)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(
        **{"max_epochs": 3, "devices": 1, "callbacks": [search], "default_root_dir": root, **quiet, **kwargs}
    )
    trainer.fit(module, datamodule=data)
    return trainer


def searching(**kwargs):
    usual = {"lr": "log 1e-3..0.03", "sampler": "random", "pruner": "none", "ensemble": "greedy"}
    return OptunaSearch(6, **{**usual, **kwargs})


@pytest.mark.parametrize("path", ["wine", "diabetes"])
@pytest.mark.parametrize("limits", [{}, {"limit_train_batches": 4}], ids=["together", "alone"])
def test_an_ensemble_of_the_trials_is_written(tmp_path, path, limits, capsys):
    fit(tmp_path, searching(), path, **limits)
    said = capsys.readouterr().err
    (file,) = tmp_path.rglob("ensemble.ckpt")
    ensemble = MLPEnsemble.load_from_checkpoint(file, weights_only=True).eval()
    kept = KeptFits(file.parent, high=False).best
    biases = [each.weights["network.layers.0.bias"] for each in kept]
    assert len(kept) == 6
    assert all(any(torch.equal(each.network.layers[0].bias, bias) for bias in biases) for each in ensemble.members)
    line = next(line for line in said.splitlines() if "search: ensemble: val_loss" in line)
    ours, best = float(line.split()[3]), float(line.split()[5])
    assert ours <= best == pytest.approx(kept[0].value, rel=1e-4)


def test_the_fit_is_the_same_with_and_without_it(tmp_path):
    found = [fit(tmp_path / str(each), searching(ensemble=each)).lightning_module for each in (None, "greedy")]
    assert all(torch.equal(a, b) for a, b in zip(*(module.parameters() for module in found), strict=True))
    assert not list((tmp_path / "None").rglob("members"))


def test_what_a_removed_search_left_is_forgotten(tmp_path):
    fit(tmp_path, searching())
    next(tmp_path.rglob("search.journal")).unlink()
    fit(tmp_path, searching(name=next(tmp_path.rglob("ensemble.ckpt")).parent.name, max_epochs=2, batch_size=[16]))
    kept = KeptFits(next(tmp_path.rglob("ensemble.ckpt")).parent, high=False).best
    assert {each.values["batch_size"] for each in kept} == {16}


def test_a_module_that_cannot_is_refused(tmp_path):
    search = searching(lr_name="learning_rate", batch_size_name="rows_a_batch", max_epochs=2)
    with pytest.raises(MisconfigurationException, match="greedy_ensemble`, as ours have; Foreign has none"):
        foreign_fit(tmp_path, Foreign, Data, search)


def test_another_way_to_pick_is_refused():
    with pytest.raises(ValueError, match="ensemble must be `greedy` or none, not 'bagging'"):
        OptunaSearch(ensemble="bagging")
