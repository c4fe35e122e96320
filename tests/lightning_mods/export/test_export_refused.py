"""What cannot be exported, or predicted with, is said in one line, and nothing is left of it."""

from pathlib import Path

import pytest
from export_cases import QUIET, TABLES, assert_same, fitted_and_exported, refused, succeed

from lightning_mods.export import runtime as exported_runtimes
from lightning_mods.export.schema import read_schema

pytestmark = QUIET


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    return fitted_and_exported(tmp_path_factory.mktemp("refused") / "fit", *TABLES[-1])


@pytest.fixture(autouse=True)
def _here(fit, monkeypatch):
    monkeypatch.chdir(fit)


def test_what_cannot_be_exported_is_said_in_one_line():
    Path("taken.pt2").write_text("mine")
    Path("own.pt2.json").write_text("mine")
    assert "did you mean onnx?" in refused("--format=onx")
    assert "did you mean torchscript?" in refused("--format=torch_script")
    assert "there is no file nowhere.ckpt" in refused("--ckpt_path=nowhere.ckpt", "--format=pt2")
    assert "taken.pt2 is there already" in refused("--format=pt2", "--output=taken.pt2")
    assert "own.pt2.json is there already" in refused("--format=pt2", "--output=own.pt2")
    assert "folder that is there; no is not" in refused("--format=pt2", "--output=no/model.pt2")
    assert "is a folder" in refused("--format=pt2", "--output=.")
    assert "/dev/null is none" in refused("--format=torchscript", "--output=/dev/null", "--overwrite")
    assert "ends in .pt2" in refused("--format=pt2", "--output=model.bin")
    assert "--formt is not a flag; did you mean --format?" in refused("--formt=onnx")
    assert Path("taken.pt2").read_text() == "mine"


def test_a_file_is_replaced_when_asked():
    Path("old.pt2").write_text("old")
    succeed("export", "--format", "pt2", "--overwrite", "--output", "old.pt2")
    assert read_schema(Path("old.pt2"))["format"] == "pt2"


def test_a_model_that_differs_is_not_left_there(monkeypatch):
    opened = exported_runtimes.open_exported

    def wrong(*args, **trust):
        run = opened(*args, **trust)
        return lambda arrays: [out + 1 for out in run(arrays)]

    monkeypatch.setattr("lightning_mods.export.command.open_exported", wrong)
    assert "differs from the checkpoint by up to 1 on" in refused("--format=pt2", "--output=wrong.pt2")


@pytest.mark.parametrize("file_format", ["onnx", "executorch"])
def test_a_missing_package_is_named_with_the_command_that_brings_it(file_format, monkeypatch):
    monkeypatch.setattr(exported_runtimes, "find_spec", lambda name: None)
    said = refused(f"--format={file_format}")
    assert said.endswith(f"pip install 'lightning-mods[{file_format}]'")


def test_what_cannot_be_predicted_with_is_said_in_one_line():
    Path("stranger.onnx").write_bytes(b"hello")
    Path("few.csv").write_text("Wind,Temp\n1,2\n")
    Path("words.csv").write_text("Solar.R,Wind,Temp,Month,Day\nhot,1,2,3,4\n")
    Path("endless.csv").write_text("Solar.R,Wind,Temp,Month,Day\n1,inf,2,3,4\n")
    Path("empty.csv").write_text("Solar.R,Wind,Temp,Month,Day\n")

    def tried(*args):
        return refused(*args, verb="predict")

    mine = ("--exported=good.pt2",)
    assert "stranger.onnx is none of ours" in tried("--exported=stranger.onnx", "--data.predict_path=new.csv")
    assert "nowhere.onnx is not there" in tried("--exported=nowhere.onnx", "--data.predict_path=new.csv")
    assert "lacks the columns 'Solar.R', 'Month', 'Day'" in tried(*mine, "--data.predict_path=few.csv")
    assert "'words.csv': column 'Solar.R' held numbers" in tried(*mine, "--data.predict_path=words.csv")
    assert "column 'Wind' has 1 infinite value" in tried(*mine, "--data.predict_path=endless.csv")
    assert "has a header but no rows" in tried(*mine, "--data.predict_path=empty.csv")
    assert "--data.predict_path is needed" in tried(*mine)
    assert "did you mean --data.predict_path?" in tried(*mine, "--data.predict_pth=new.csv")
    assert "name two models" in tried(*mine, "--ckpt_path=best", "--data.predict_path=new.csv")


def test_a_file_that_its_schema_does_not_describe_is_refused():
    succeed("export", "--format=pt2", "--output=one.pt2")
    with Path("one.pt2").open("ab") as file:
        file.write(b"more")
    args = ("--exported=one.pt2", "--data.predict_path=new.csv")
    assert "is not the file that one.pt2.json describes" in refused(*args, verb="predict")
    Path("one.pt2.json").write_text("[]")
    assert "one.pt2.json is no schema" in refused(*args, verb="predict")


def test_a_configuration_file_may_name_the_rows():
    file = "good.pt2"
    Path("rows.yaml").write_text(f"data: {{init_args: {{predict_path: new.csv}}}}\noutput: by.csv\nexported: {file}\n")
    _, err = succeed("predict", "--config=rows.yaml", "--trainer.devices=1")
    assert "note: --trainer.devices is not used with --exported." in err
    assert_same("by.csv", "wanted.csv")
