"""A model goes out with its preprocessing, and says elsewhere what its checkpoint says here."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from export_cases import QUIET, SUFFIXES, TABLES, assert_same, fitted, needs, predict_exported, read, succeed

pytestmark = QUIET
NAMES = [name for _, name, _ in TABLES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    return {case[1]: fitted(root / case[1], *case) for case in TABLES}


@pytest.fixture
def at(folders, monkeypatch):
    def enter(name):
        monkeypatch.chdir(folders[name])
        return folders[name]

    return enter


@pytest.fixture(scope="module")
def files(folders):
    """Exported files, each made when it is first asked for, with what was said."""
    made = {}

    def exported(name, file_format):
        needs(file_format)
        if (name, file_format) not in made:
            file = folders[name] / f"model.{SUFFIXES[file_format]}"
            with contextlib.chdir(folders[name]):
                made[name, file_format] = file, *succeed("export", f"--format={file_format}", f"--output={file.name}")
        return made[name, file_format]

    return exported


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("file_format", ["onnx", "torchscript", "pt2"])
def test_an_exported_model_predicts_raw_rows_as_its_checkpoint_does(file_format, name, at, files):
    at(name)
    file, out, err = files(name, file_format)
    assert "largest difference from the checkpoint" in out
    assert ("TorchScript is deprecated" in err) == (file_format == "torchscript")
    predict_exported(file_format, file, "--data.predict_path=new.csv", "--output=found.csv")
    assert_same("found.csv", "wanted.csv")


def test_an_executorch_program_predicts_as_its_checkpoint_does(at, files):
    at(NAMES[0])
    file, out, _ = files(NAMES[0], "executorch")
    assert "up to 128 rows" in out
    predict_exported("executorch", file, "--data.predict_path=new.csv", "--output=found.csv")
    assert_same("found.csv", "wanted.csv")


@pytest.fixture(scope="module")
def binned(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("export") / "binned", *TABLES[0], "--data.bins=16")


@pytest.mark.parametrize("file_format", ["onnx", "torchscript", "pt2", "executorch", "aoti"])
def test_bins_go_out_with_the_model(file_format, binned, monkeypatch):
    needs(file_format)
    monkeypatch.chdir(binned)
    file = f"{file_format}.{SUFFIXES[file_format]}"
    succeed("export", f"--format={file_format}", f"--output={file}")
    predict_exported(file_format, file, "--data.predict_path=new.csv", "--output=found.csv")
    assert_same("found.csv", "wanted.csv")


NO_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError(f"{{name}} is not installed")

sys.meta_path.insert(0, Refuse())
from lightning_mods.predict import main
main(sys.argv[1:])
"""
BLOCKED = ("torch", "pytorch_lightning", "lightning_utilities", "lightning_fabric", "torchmetrics", "jsonargparse")
BLOCKED += ("yaml", "pandas", "sklearn", "matplotlib", "optuna", "tensorboard", "scipy", "onnx", "onnxscript")


@pytest.mark.parametrize("name", NAMES)
def test_an_onnx_file_needs_onnxruntime_numpy_and_pyarrow_alone(name, at, files):
    at(name)
    args = [f"--exported={files(name, 'onnx')[0]}", "--data.predict_path=new.csv", "--output=alone.csv"]
    code = NO_TORCH.format(blocked=BLOCKED)
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same("alone.csv", "wanted.csv")


def test_all_formats_are_opened_in_a_fresh_process(folders, files):
    lines = ["import os", "from lightning_mods.predict import main"]
    for name in NAMES:
        lines.append(f"os.chdir({str(folders[name])!r})")
        for file_format in ("torchscript", "pt2"):
            args = [f"--exported={files(name, file_format)[0]}", "--data.predict_path=new.csv", "--trust=true"]
            lines.append(f"main({[*args, f'--output=fresh_{file_format}.csv']!r})")
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        for file_format in ("torchscript", "pt2"):
            assert_same(folders[name] / f"fresh_{file_format}.csv", folders[name] / "wanted.csv")


def test_the_schema_tells_a_stranger_how_to_call_the_model(files):
    file = files("TitanicSurvival", "pt2")[0]
    schema = json.loads(Path(f"{file}.json").read_text())
    numbers, categories = schema["inputs"]
    assert [column["name"] for column in numbers["columns"]] == ["age"]
    sex = categories["columns"][0]
    assert sex["codes"] == {"female": 0, "male": 1}
    assert (sex["unknown"], sex["missing"]) == (2, 3)
    assert schema["outputs"][0]["classes"] == ["no", "yes"]
    example = schema["example"]
    cells = [[np.nan if cell is None else cell for cell in row] for row in example["inputs"]]
    inputs = torch.tensor([cells[0]], dtype=torch.float64), torch.tensor([cells[1]])
    found = torch.export.load(file).module()(*inputs)[0]
    torch.testing.assert_close(found, torch.tensor(example["outputs"][0]))


def test_gaps_unknown_names_other_columns_and_another_order_are_predicted_alike(at, files):
    at("credit_data")
    head, *rows = read("new.csv")
    place = head.index("Job")
    odd = [["extra", *head[::-1]]]
    for i, row in enumerate(rows[:30]):
        changed = [("pirate" if i % 3 else "") if j == place else cell for j, cell in enumerate(row)]
        odd.append(["x", *changed[::-1]])
    with Path("odd.csv").open("w") as file:
        file.writelines(";".join(row) + "\n" for row in odd)
    succeed("predict", "--data.predict_path=odd.csv", "--output=odd_wanted.csv")
    file = files("credit_data", "pt2")[0]
    succeed("predict", f"--exported={file}", "--data.predict_path=odd.csv", "--output=odd_found.csv")
    assert_same("odd_found.csv", "odd_wanted.csv")


def test_without_the_table_it_is_compared_on_made_up_rows_and_says_so(at):
    folder = at("airquality")
    (folder / "train.csv").rename(folder / "away.csv")
    try:
        out, _ = succeed("export", "--format=pt2", "--output=blind.pt2")
    finally:
        (folder / "away.csv").rename(folder / "train.csv")
    assert "on 128 made-up ones" in out
    assert "real ones cannot be read: There is no file 'train.csv'" in out


def test_the_predictions_of_a_long_file_come_in_its_order(at, files, monkeypatch):
    at("storms")
    monkeypatch.setattr("lightning_mods.export.runtime._ROWS", 7)
    file = files("storms", "pt2")[0]
    succeed("predict", f"--exported={file}", "--data.predict_path=new.csv", "--output=found.csv")
    assert_same("found.csv", "wanted.csv")
