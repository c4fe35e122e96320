"""Files, tables, the summary, and one line out of an error."""

import errno
import math
from argparse import ArgumentError
from pathlib import Path

import pytest

from datamodules import DataError
from lightning_mods.cli.command_line import UsageError, error_line
from lightning_mods.loggers.terminal import RunSummary
from lightning_mods.runs import RunError
from lightning_mods.runs.predictions import check_output, write_csv


def test_a_device_is_written_to_and_not_replaced():
    write_csv(Path("/dev/null"), ["a"], [["1"], ["2"]])
    assert not Path("/dev/null").is_file()


def test_a_full_device_raises():
    with pytest.raises(OSError, match="No space left"):
        write_csv(Path("/dev/full"), ["a"], [["1"]] * 10_000)


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
