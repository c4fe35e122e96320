"""How sure predictions are: the temperature of a classifier, the intervals of a regression."""

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import datasets
from verbs_here import do, succeed

from datamodules import TabularDataModule
from lightning_mods import MLPClassifier, MLPEnsemble
from lightning_mods.runs import RunError
from lightning_mods.runs.inspection.calibration import Calibration
from lightning_mods.runs.inspection.intervals import Intervals

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's CLI and jsonargparse warn of each other
BEST = Path("lightning_logs/version_0/checkpoints/best.ckpt")
QUICK = ("--watch=[]", "--reference=false", "--trainer.max_epochs=3", "--trainer.logger=false")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def calibrated(logits, y, shares=(1.0,), weights=None):
    classes = logits[0].shape[1]
    weights = np.ones(classes) if weights is None else weights
    return Calibration.of(logits, y, shares=shares, weights=weights[y], names=[*map(str, range(classes))])


@given(seed=st.integers(0, 10**6), rows=st.integers(2, 60), spread=st.floats(0.01, 50))
def test_no_temperature_makes_the_validation_loss_higher(seed, rows, spread):
    rng = np.random.default_rng(seed)
    logits, y = spread * rng.normal(size=(rows, 3)), rng.integers(0, 3, rows)
    found = calibrated([logits], y, weights=rng.uniform(0.1, 3, 3))
    assert found.losses[1] <= found.losses[0]
    assert (found.temperature == 1.0) == (found.losses[1] == found.losses[0])


def test_the_temperature_of_outputs_that_are_too_large_is_how_much_too_large_they_are():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (shares.cumsum(1) < rng.uniform(size=(20_000, 1))).sum(1)
    found = calibrated([3 * logits], y)
    assert found.temperature == pytest.approx(3, rel=0.05)
    assert found.errors[1] < 0.02 < 0.1 < found.errors[0]
    assert calibrated([logits], y).temperature == pytest.approx(1, rel=0.05)


def learned(path=BEST):
    return torch.load(path, weights_only=True)["mlp_module"].get("uncertainty")


@pytest.mark.parametrize("more", [(), ("--ensemble=2",), ("--model.class_weight=balanced",)])
def test_a_calibrated_fit_is_as_sure_in_every_verb_and_export(more):
    _, said = succeed("fit", "--data.path=wine", "--calibrate", *QUICK, *more)
    temperature = learned()["temperature"]
    assert f"calibrate: temperature {temperature:.3g} takes log loss" in said
    data = TabularDataModule("wine", batch_size=32)
    kind = MLPEnsemble if "--ensemble=2" in more else MLPClassifier
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind.load_from_checkpoint(BEST, weights_only=True).eval()
    state = torch.load(BEST, weights_only=True)
    data.load_state_dict(state["TabularDataModule"])
    x, y = data.val_dataloader().dataset[:]
    with torch.no_grad():
        outputs = model.network(x)
        members = outputs if isinstance(outputs, tuple) else (outputs,)
        mean = sum((each / temperature).softmax(-1) for each in members) / len(members)
        assert torch.allclose(model(x), mean, atol=1e-6)
        weights = torch.ones(3) if model.class_weights is None else torch.as_tensor(model.class_weights).float()
        loss = torch.nn.functional.nll_loss(model(x).log(), y, weight=weights)
    after = float(said.partition("log loss ")[2].split(" to ")[1].split(",")[0])
    assert float(loss) == pytest.approx(after, rel=1e-3)
    told = "".join(succeed("export", "--output=m.pt2", "--format=pt2"))
    difference = float(told.partition("largest difference from the checkpoint ")[2].split(",")[0])
    assert difference < 1e-5


def test_a_fit_without_the_flag_keeps_no_temperature_and_one_that_goes_on_trains_without_it():
    succeed("fit", "--data.path=wine", *QUICK)
    assert learned() is None
    succeed("fit", "--data.path=wine", "--calibrate", *QUICK, "--ckpt_path=last", "--trainer.max_epochs=4")
    assert learned()["temperature"] != 1.0
    assert learned(BEST.with_name("last.ckpt")) is None


def test_the_command_for_classes_says_so_where_there_are_numbers():
    _, said = succeed("fit", "--data.path=diabetes", "--calibrate", *QUICK)
    assert "--calibrate is for classes" in said


@given(n=st.integers(1, 5000), level=st.floats(0.01, 0.99))
def test_an_interval_holds_at_least_the_share_of_its_own_rows(n, level):
    errors = np.random.default_rng(n).normal(size=n)
    intervals = Intervals.in_plain(Intervals.of(errors).plain)
    if level > intervals.most:
        with pytest.raises(RunError, match=rf"needs \d+ validation rows, the checkpoint's fit had {n}"):
            intervals.margin(level)
        return
    assert intervals.coverage(errors, level) >= level
    if n <= 2000:  # all are kept: no smaller margin would do
        rank = int(np.ceil((n + 1) * level - 1e-9))
        assert intervals.margin(level) == np.sort(np.abs(errors))[rank - 1]


def test_intervals_hold_as_many_new_rows_as_they_say():
    rng = np.random.default_rng(1)
    shares = [Intervals.of(rng.standard_t(3, 99)).coverage(rng.standard_t(3, 500), 0.9) for _ in range(200)]
    assert np.mean(shares) == pytest.approx(0.9, abs=0.01)


def test_predictions_of_numbers_have_intervals_and_the_test_says_how_many_they_hold():
    rows = datasets.load_diabetes(as_frame=True).frame
    rows.to_csv("rows.csv", index=False)
    succeed("fit", "--data.path=rows.csv", "--data.target=target", *QUICK)
    succeed("predict", "--data.predict_path=rows.csv", "--interval=0.9")
    with Path("predictions.csv").open() as file:
        found = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    margin = Intervals.in_plain(learned()["intervals"]).margin(0.9)
    assert list(found[0]) == ["prediction", "prediction_low", "prediction_high"]
    assert all(row["prediction"] - row["prediction_low"] == pytest.approx(margin, rel=1e-6) for row in found)
    assert all(row["prediction_high"] - row["prediction"] == pytest.approx(margin, rel=1e-6) for row in found)
    assert f"intervals of 90% (± {margin:.4g}) hold" in succeed("test")[1]


@pytest.mark.parametrize(
    ("interval", "table", "line"),
    [
        (
            "0.999",
            "diabetes",
            "--interval=0.999 needs 999 validation rows, the checkpoint's fit had 66; --interval=0.98",
        ),
        ("2", "diabetes", "--interval needs a share of the rows above 0 and below 1, such as 0.9, not 2"),
        ("0.9", "wine", "--interval is for a regression"),
    ],
)
def test_an_interval_that_cannot_be_is_one_line(interval, table, line):
    succeed("fit", f"--data.path={table}", *QUICK)
    getattr(datasets, f"load_{table}")(as_frame=True).data.to_csv("rows.csv", index=False)
    code, _, said = do("predict", "--data.predict_path=rows.csv", f"--interval={interval}")
    assert code == 2
    assert line in said
    assert "Traceback" not in said
    assert not Path("predictions.csv").exists()
