"""What a fit says can be had on its rows: `--reference`."""

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from verbs_here import succeed

from datamodules import TabularDataModule
from lightning_mods import MLPClassifier
from lightning_mods.runs import reference

# Lightning 2.6 calls names of jsonargparse that go in version 5.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"
)
QUICK = ("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--model.hidden_sizes=[4]", "--trainer.logger=false")
HEADS = ("validation", "validation, trivial", "validation, reference")


@pytest.fixture(autouse=True)
def folder(tmp_path):
    with contextlib.chdir(tmp_path):
        yield tmp_path


def fit(*flags):
    """Fit; return the columns of the table, heads to the values by their names, and `diagnosis.json`."""
    out, err = succeed("fit", *QUICK, *flags)
    assert "failed" not in err
    (path,) = Path().rglob("diagnosis.json")
    said = json.loads(path.read_text())
    head, *rows = out.strip().splitlines()
    heads, stage = [], ""
    for words in re.split(r"\s{2,}", head.strip()):
        stage = next((each for each in ("validation", "test") if words.startswith(each)), stage)
        kind = next((f", {each}" for each in ("trivial", "reference") if each in words), "")
        heads.append(f"{stage}{kind}")
    columns = {each: {} for each in heads}
    for row in rows:
        name, *values = re.split(r"\s{2,}", row)
        if len(values) == len(heads):
            for each, value in zip(heads, values, strict=True):
                columns[each][name] = float(value.partition(" ±")[0])
    return columns, said


def write(name, x, y):
    rows = "\n".join(",".join(map(str, [*row, target])) for row, target in zip(x, y, strict=True))
    Path(name).write_text(f"{','.join(f'x{i}' for i in range(len(x[0])))},y\n{rows}\n")
    return f"--data.path={name}", "--data.target=y"


def test_a_fit_says_what_can_be_had_on_its_rows():
    columns, said = fit("--data.path=iris")
    for stage in ("validation", "test"):
        boosted, trivial = columns[f"{stage}, reference"], columns[f"{stage}, trivial"]
        assert boosted["loss"] < 0.7 < trivial["loss"]
        assert boosted["accuracy"] > 0.85
        assert boosted.keys() == columns[stage].keys()
    assert said["reference_loss"] == pytest.approx(columns["validation, reference"]["loss"], rel=1e-3)


def test_the_trivial_loss_is_that_of_the_rows_that_are_scored():
    columns, said = fit("--data.path=iris", "--data.val_fraction=0.3")
    data = TabularDataModule("iris", val_fraction=0.3)
    shares = np.array(data.class_counts) / sum(data.class_counts)
    wanted = {
        stage: -np.log(shares[getattr(data, f"{stage}_dataloader")().dataset.y]).mean() for stage in ("val", "test")
    }
    assert columns["validation, trivial"]["loss"] == pytest.approx(wanted["val"], rel=1e-3)
    assert columns["test, trivial"]["loss"] == pytest.approx(wanted["test"], rel=1e-3)
    assert said["baseline_loss"] == pytest.approx(wanted["val"])
    assert wanted["val"] != pytest.approx(wanted["test"], abs=1e-6)
    out, _ = succeed("validate")
    assert f"{wanted['val']:.4g}" in out


def test_without_a_reference_none_is_fitted(monkeypatch):
    monkeypatch.setattr(reference, "reference_scores", None)
    columns, said = fit("--data.path=iris", "--reference=false")
    assert not any("reference" in head for head in columns)
    assert said["reference_loss"] is None


def test_the_reference_is_in_the_units_of_the_target():
    x, y = load_diabetes(return_X_y=True)
    x, y = x[:150, :4].round(4), y[:150]
    small, _ = fit(*write("small.csv", x, y))
    with contextlib.chdir(Path("..").resolve()), contextlib.suppress(FileExistsError):
        Path("large").mkdir()
        with contextlib.chdir("large"):
            large, _ = fit(*write("large.csv", x, 1000 * y + 5e4))
    for head in ("validation, reference", "test, reference", "validation, trivial"):
        assert large[head]["loss"] == pytest.approx(1e6 * small[head]["loss"], rel=2e-3)
        assert large[head]["mae"] == pytest.approx(1e3 * small[head]["mae"], rel=2e-3)
        assert large[head]["r2"] == pytest.approx(small[head]["r2"], abs=2e-3)
    assert small["validation, reference"]["loss"] < small["validation, trivial"]["loss"]


def test_classes_weigh_in_the_reference_what_they_weigh_in_the_loss():
    data = TabularDataModule("iris")
    model = MLPClassifier(data.in_features, 3, data.class_counts, class_weight=[1.0, 0.0, 5.0])
    found = reference.reference_scores(model, data)["val"]
    y = data.val_dataloader().dataset.y
    assert found["loss"] < model.baseline_on(y)["loss"] < 0.6  # of two classes that weigh 1 and 5
    assert found["accuracy"] < 0.8  # who has no weight is not learned
    assert model.baseline_on(y)["accuracy"] == pytest.approx(data.baseline("val")["accuracy"])


def test_a_table_of_thirty_rows_has_one():
    x, y = load_iris(return_X_y=True)
    columns, _ = fit(*write("small.csv", x[::5], [f"c{each}" for each in y[::5]]))
    assert set(HEADS) <= columns.keys()
    assert columns["validation, reference"]["loss"] < columns["validation, trivial"]["loss"]


@pytest.mark.parametrize("why", ["no validation rows", "out of time"])
def test_where_there_can_be_none_a_fit_goes_on(why, monkeypatch):
    monkeypatch.setattr(reference, "HARD_STOP", 0.0 if why == "out of time" else 20.0)
    flags = ["--data.val_fraction=0"] if why == "no validation rows" else []
    out, err = succeed("fit", *QUICK, "--data.path=iris", *flags)
    assert "reference" not in out + err


def test_members_of_an_ensemble_and_the_whole_are_held_against_one():
    columns, _ = fit("--data.path=iris", "--ensemble=2")
    boosted = columns["validation, reference"]
    assert boosted["loss of the mean member"] == pytest.approx(boosted["loss of the ensemble"], rel=1e-3)


def test_it_changes_no_weight():
    fit("--data.path=iris", "--model.dropout=0.5")
    fits = [torch.load(next(Path().rglob("last.ckpt")), weights_only=True)["state_dict"]]
    Path("without").mkdir()
    with contextlib.chdir("without"):
        fit("--data.path=iris", "--model.dropout=0.5", "--reference=false")
        fits.append(torch.load(next(Path().rglob("last.ckpt")), weights_only=True)["state_dict"])
    assert all(torch.equal(fits[0][name], fits[1][name]) for name in fits[0])


def test_a_search_and_its_fit_have_one_in_all(monkeypatch):
    asked = []
    monkeypatch.setattr(reference, "reference_scores", lambda *args: asked.append(1) or {})
    search = ["--trainer.callbacks+=OptunaSearch", "--trainer.callbacks.n_trials=2", "--trainer.callbacks.max_epochs=1"]
    succeed("fit", *QUICK, "--data.path=iris", *search)
    assert asked == [1]
    succeed("study", *QUICK[:3], "--data.path=iris", "--study.n_trials=2")
    assert asked == [1]


SLOWLY = ("--recipe=plain", "--patience=0", "--model.hidden_sizes=[]")


def test_a_fit_no_better_than_the_largest_class_is_not_good(folder):
    r = np.random.default_rng(0)
    x = r.normal(size=(600, 3)).round(4)
    y = np.where(r.random(600) < 0.05 + 0.22 * (x[:, 0] > 0.6), "rare", "usual")
    _, said = fit(*write("rare.csv", x, y), *SLOWLY, "--model.lr=0.02", "--trainer.max_epochs=40")
    assert said["fit"] != "good"
    assert "is no better than the trivial 0.8778" in said["reason"]


def test_a_loss_above_the_trivial_one_is_called_so():
    r = np.random.default_rng(0)
    table = write("noise.csv", r.normal(size=(200, 8)).round(4), r.permutation(np.repeat(["a", "b"], 100)))
    _, said = fit(*table, *SLOWLY, "--model.lr=0.3", "--trainer.max_epochs=12")
    assert said["fit"] == "underfit"
    assert "is above the trivial 0.6931" in said["reason"]


def test_a_foreign_module_says_its_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "says_its_own.py").write_text(
        "import torch\n"
        "from pytorch_lightning import LightningModule\n"
        "class Own(LightningModule):\n"
        "    reference_loss = 0.125\n"
        "    def __init__(self, in_features: int, num_classes: int):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(in_features, num_classes)\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])\n"
        "    def validation_step(self, batch, batch_idx):\n"
        "        self.log('val_loss', self.training_step(batch, 0))\n"
        "    def configure_optimizers(self):\n"
        "        return torch.optim.SGD(self.parameters(), 0.1)\n"
    )
    out, _ = succeed("fit", "--data.path=iris", "--model=says_its_own.Own", QUICK[0], QUICK[1], QUICK[3])
    said = json.loads(next(Path().rglob("diagnosis.json")).read_text())
    assert said["reference_loss"] == 0.125
    assert "reference" not in out
