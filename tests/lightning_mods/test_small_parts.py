"""Files, tables, the summary, and one line out of an error."""

import errno
import math
from argparse import ArgumentError
from pathlib import Path

import pytest
import torch

from datamodules import DataError
from lightning_mods.cli.command_line import UsageError, error_line
from lightning_mods.loggers.terminal import RunSummary
from lightning_mods.runs import RunError
from lightning_mods.runs.predictions import check_output, prediction_rows, write_csv, write_predictions


def test_probabilities_become_the_name_of_the_likeliest_class_and_a_column_each():
    batches = [torch.tensor([[0.25, 0.75], [1, 0]]), torch.tensor([[0.5, 0.5]])]
    header, rows = prediction_rows(batches, ["no", "yes, really"])
    assert header == ["prediction", "probability_no", "probability_yes, really"]
    assert list(rows) == [["yes, really", "0.25", "0.75"], ["no", "1", "0"], ["no", "0.5", "0.5"]]


def test_numbers_are_written_so_that_float32_reads_back(tmp_path):
    values = torch.rand(50) * 10.0 ** torch.arange(50).sub(25).float()
    header, rows = prediction_rows([values], None)
    assert header == ["prediction"]
    assert torch.equal(torch.tensor([float(row[0]) for row in rows]), values)


def test_a_foreign_module_that_predicts_a_matrix_gets_numbered_columns():
    header, rows = prediction_rows([torch.zeros(2, 3)], None)
    assert header == ["prediction_0", "prediction_1", "prediction_2"]
    assert len(list(rows)) == 2


@pytest.mark.parametrize("batches", [[], [{"a": 1}], [torch.zeros(2, 3, 4)]])
def test_what_is_no_table_is_refused(batches):
    with pytest.raises(RunError, match="predict_step must return a tensor"):
        prediction_rows(batches, None)


def test_a_device_is_written_to_and_not_replaced():
    assert write_csv(Path("/dev/null"), ["a"], [["1"], ["2"]]) == 2
    assert not Path("/dev/null").is_file()


def test_a_full_device_raises():
    with pytest.raises(OSError, match="No space left"):
        write_csv(Path("/dev/full"), ["a"], [["1"]] * 10_000)


def test_predictions_that_are_no_numbers_are_counted_and_have_no_class(tmp_path):
    shares = [[0.1, 0.9], [math.nan, math.nan], [0.8, 0.2]]
    said = write_predictions(tmp_path / "out.csv", [torch.tensor(shares)], ["nan", "b"], "model")
    assert said == f"3 predictions in {tmp_path / 'out.csv'}; 1 of them are no numbers (NaN or infinite)"
    assert (tmp_path / "out.csv").read_text().splitlines()[1:] == [
        "b,0.100000001,0.899999976",
        ",nan,nan",
        "nan,0.800000012,0.200000003",
    ]


def test_predictions_without_a_number_are_an_error_and_leave_what_was_there(tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("mine")
    for batch in (torch.full((3,), math.nan), torch.full((3, 2), math.inf)):
        with pytest.raises(RunError, match="model predicts no number for any of 3 rows"):
            write_predictions(out, [batch], None, "model")
    assert out.read_text() == "mine"


def test_an_output_that_is_an_input_is_refused_by_whatever_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = Path("rows.csv")
    rows.write_text("a\n1\n")
    Path("link.csv").symlink_to(rows)
    Path("hard.csv").hardlink_to(rows)
    for name in ("rows.csv", "./rows.csv", "link.csv", "hard.csv", str(rows.resolve())):
        with pytest.raises(RunError, match=r"is the file that --data\.predict_path=rows\.csv is read from"):
            check_output(Path(name), [("--ckpt_path", None), ("--data.predict_path", "rows.csv")])
    check_output(Path("new.csv"), [("--data.predict_path", "rows.csv")])


def test_the_summary_shows_every_number_beside_the_trivial_one():
    text = str(
        RunSummary(
            {"val": {"loss": 0.25, "accuracy": 0.9}, "test": {"accuracy": math.nan}},
            {"val": {"accuracy": 0.5}},
            best_epoch=3,
            epochs=10,
            seconds=[1.0, 2.0, 9.0],
            checkpoint=Path("a/best.ckpt"),
            views=["tensorboard --logdir 'my logs'", "mlflow ui"],
        )
    )
    lines = [line.split() for line in text.splitlines()]
    assert lines[1] == ["loss", "0.25", "–", "–", "–"]
    assert lines[2] == ["accuracy", "0.9", "0.5", "nan", "–"]
    assert "epoch        3 (of 0 to 9)" in text
    assert "an epoch     2 s" in text
    assert text.endswith("look at it   tensorboard --logdir 'my logs'\n             mlflow ui")


def test_a_summary_of_nothing_is_empty():
    assert str(RunSummary({})) == ""


@pytest.mark.parametrize("kind", [DataError, UsageError, RunError])
def test_our_own_message_comes_through_whatever_is_wrapped_around_it(kind):
    outer = ValueError("Call to compute_fn failed")
    outer.__cause__ = kind("say\n this")
    assert error_line(outer) == "say this"


def test_a_system_error_names_the_file_and_says_that_nothing_is_lost():
    error = OSError(errno.ENOSPC, "No space left on device", "a/last.ckpt")
    assert error_line(error) == "No space left on device: a/last.ckpt; what was there before is left as it was."


REPORT = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'lightning_mods.MLPClassifier':
        Parser key "lr":
          Expected a <class 'float'>. Got value: abc
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='lr', val='abc')"""


def test_the_gist_of_a_nested_report_is_the_flag_and_what_came():
    line = error_line(ArgumentError(None, REPORT))
    assert line.startswith("--model.lr: ")
    assert "abc" in line
    assert "float" in line
    assert "\n" not in line
