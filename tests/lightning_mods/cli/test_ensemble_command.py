"""`--ensemble=N`: a fit of many members, and every verb on its checkpoint without a flag."""

import contextlib
import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from verbs_here import do, succeed

# Lightning 2.6 calls names of jsonargparse that go in version 5.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"
)
QUICK = ("--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--watch=[]")
CASES = {"iris": load_iris, "diabetes": load_diabetes}


@pytest.fixture(scope="module", params=CASES)
def folder(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    CASES[request.param](as_frame=True).data.to_csv(root / "new.csv", index=False)
    with contextlib.chdir(root):
        succeed("fit", f"--data.path={request.param}", *QUICK, "--ensemble=3", "--model.hidden_sizes=[8]")
        succeed("predict", "--data.predict_path=new.csv", "--output=wanted.csv")
        yield root


def numbers(file):
    with Path(file).open(newline="") as text:
        rows = list(csv.reader(text))
    return np.array([[float(cell) for cell in row[-3:]] for row in rows[1:]])


def assert_same(found, wanted):
    np.testing.assert_allclose(numbers(found), numbers(wanted), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("file_format", "suffix"), [("onnx", "onnx"), ("pt2", "pt2")])
def test_an_export_predicts_as_the_checkpoint_does(folder, file_format, suffix):
    pytest.importorskip("onnxruntime") if file_format == "onnx" else None
    succeed("export", f"--format={file_format}", f"--output=model.{suffix}")
    succeed("predict", f"--exported=model.{suffix}", "--data.predict_path=new.csv", "--output=found.csv")
    assert_same("found.csv", "wanted.csv")


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_losses_of_member_and_ensemble_are_told_apart(folder, verb):
    out, _ = succeed(verb)
    rows = {name: cells for name, *cells in (re.split(r"  +", line) for line in out.splitlines())}
    member, ensemble = rows["loss of the mean member"], rows["loss of the ensemble"]
    assert float(ensemble[0]) < float(member[0])  # Jensen's inequality: both losses are convex in the prediction
    assert ensemble[1] == member[1]  # the trivial baseline is the same


def test_a_configuration_file_of_the_run_serves_every_verb(folder):
    config = next(Path().glob("lightning_logs/*/config.yaml"))
    assert "ensemble: 3" in config.read_text()
    succeed("predict", f"--config={config}", "--data.predict_path=new.csv", "--output=found.csv")
    assert_same("found.csv", "wanted.csv")


def test_predictions_are_probabilities_or_numbers(folder):
    with Path("wanted.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    shares = [float(value) for name, value in first.items() if name.startswith("probability_")]
    assert sum(shares) == pytest.approx(1) if shares else float(first["prediction"])


def weights(folder, name="last.ckpt"):
    kept = torch.load(next(folder.glob(f"**/{name}")), weights_only=True)
    return {key: value for key, value in kept["state_dict"].items() if "layers" in key}


def test_the_first_member_is_the_single_fit(tmp_path):
    for name, flags in (("one", []), ("three", ["--ensemble=3"])):
        (tmp_path / name).mkdir()
        with contextlib.chdir(tmp_path / name):
            succeed("fit", "--data.path=iris", *QUICK, *flags, "--model.dropout=0.2")
    one, three = weights(tmp_path / "one"), weights(tmp_path / "three")
    assert len(three) == 3 * len(one)
    assert all(torch.equal(value, three[f"network.0.{key}"]) for key, value in one.items())
    assert not torch.equal(three["network.0.network.layers.0.weight"], three["network.1.network.layers.0.weight"])


# A schedule would be another one for two epochs than for four.
TWO = ("--ensemble=2", "--model.hidden_sizes=[8]", "--model.lr_schedule=constant")


@pytest.mark.parametrize("again", [TWO, ()], ids=["same flags", "none"])
def test_a_fit_goes_on_with_the_same_flags_or_with_none(again, tmp_path):
    fit = ("fit", "--data.path=iris", *QUICK[1:])
    for name, epochs in (("whole", [4]), ("parted", [2, 4])):
        (tmp_path / name).mkdir()
        with contextlib.chdir(tmp_path / name):
            for number, last in enumerate(epochs):
                more = [*again, "--ckpt_path=last"] if number else TWO
                succeed(*fit, f"--trainer.max_epochs={last}", *more)
    whole, parted = weights(tmp_path / "whole"), weights(tmp_path / "parted")
    assert all(torch.equal(value, parted[key]) for key, value in whole.items())


def refused(*args):
    code, out, err = do("fit", "--data.path=iris", *QUICK, *args)
    assert (code, out) == (2, "")
    return err.splitlines()[-1]


@pytest.mark.parametrize("count", ["0", "-2", "2.5", "many"])
def test_what_is_no_number_of_models_is_refused(count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(f"--ensemble={count}") == f"fit: --ensemble needs a number of models, such as 8, not {count}."


def test_another_number_than_the_checkpoint_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    succeed("fit", "--data.path=iris", *QUICK, "--ensemble=2")
    assert "does not fit the checkpoint, which holds an ensemble of 2" in refused("--ensemble=3", "--ckpt_path=last")
    succeed("fit", "--data.path=iris", *QUICK)
    assert "does not fit the checkpoint, which holds one model" in refused("--ensemble=3", "--ckpt_path=last")


def test_a_model_of_somebody_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("theirs.py").write_text("import pytorch_lightning as pl\nclass Theirs(pl.LightningModule):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "Theirs is none" in refused("--ensemble=3", "--model=theirs.Theirs")
