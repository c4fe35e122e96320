"""The benchmarks of speed: they run, count what they say they count, and leave out who is not installed."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks are scripts, no installed package

from benchmarks import scaling, scaling_point
from benchmarks.speed.__main__ import main
from benchmarks.speed.contenders import ours, ours_off
from benchmarks.speed.shapes import SHAPES, Job, write_rows
from benchmarks.speed.stopwatch import Mark, Stopwatch
from benchmarks.speed.tables import tables
from benchmarks.speed.worker import run

GUESS = 2.30  # ln 10: the loss of a guess among ten classes


# What jsonargparse says of Lightning's own call into it.
parses_flags = pytest.mark.filterwarnings(
    "ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"
)


@pytest.mark.skipif(find_spec("keras") is not None, reason="Keras stands for what is not installed")
def test_one_command_times_who_is_there_and_says_how_to_get_who_is_not(tmp_path, capsys):
    out = tmp_path / "records.jsonl"
    main(["--contenders", "raw", "sklearn", "keras-jax", "--shapes", "tiny-32", "--rounds", "1", "--out", str(out)])
    shown = capsys.readouterr().out
    assert "pip install -c constraints.txt keras jax" in shown
    records = {record["contender"]: record for record in map(json.loads, out.read_text().splitlines())}
    assert records.keys() == {"raw", "sklearn"}
    for record in records.values():
        assert 0 < record["epoch_cpu"] < 10
        assert record["epoch_wall"] > 0
        assert 0 < record["train_loss"] < GUESS
    assert "| scikit-learn `MLPClassifier` | " in shown
    assert shown.count("| raw loop | 1: ") == 2


@parses_flags
@pytest.mark.parametrize("contender", [ours, ours_off], ids=["everything on", "everything off"])
def test_ours_is_timed_epoch_by_epoch_and_hands_over_what_it_learnt(contender, tmp_path):
    job = Job(SHAPES["tiny-32"], str(tmp_path), seed=0)
    write_rows("tiny", tmp_path)
    found = run(contender.fit, job)
    assert found["epoch_cpu"] > 0
    assert found["train_loss"] < GUESS


def record(contender, round_, cpu):
    reached = {"train_loss": 0.25, "val_loss": 0.5, "val_accuracy": 0.75}
    times = {"epoch_cpu": cpu, "epoch_wall": 2 * cpu, "rest_cpu": 1.5}
    return {"contender": contender, "round": round_, "shape": "digits-32", **times, **reached}


def test_a_ratio_is_to_the_raw_loop_of_the_same_round():
    # 2, 3 and 10 times; the ratio of the medians would be 6
    records = [record("raw", r, cpu) for r, cpu in enumerate((0.1, 0.2, 0.01))]
    records += [record("ours", r, cpu) for r, cpu in enumerate((0.2, 0.6, 0.1))]
    shown = tables(records)
    assert shown.count("| ours, everything on | 3.00 (2.00–10.00) |") == 2  # CPU and wall
    assert "| raw loop | 1: 100 ms |" in shown
    assert "| ours, everything on | 0.25 / 0.5, 75.0% |" in shown


def test_without_the_raw_loop_there_are_milliseconds():
    assert "| ours, everything on | 200 ms |" in tables([record("ours", 0, 0.2)])


def test_the_first_epoch_is_not_timed_and_the_rest_of_the_fit_is_told_apart():
    watch = Stopwatch()
    watch.began, watch.ended = Mark(0, 0), Mark(10, 20)
    watch.marks = [Mark(5, 10), Mark(6, 12), Mark(7, 14)]
    assert watch.result(3) == {"epoch_cpu": 1, "epoch_wall": 2, "rest_cpu": 7, "rest_wall": 14}
    with pytest.raises(RuntimeError, match="4 epochs"):
        watch.result(4)


@parses_flags
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_a_point_of_the_scaling_table_has_its_times_and_its_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "table.parquet"
    scaling.write_table(file, 300, 5)
    found = scaling_point.measure(str(file), batch=64, epochs=2, memory_map=True)
    assert found["parameters"] == 6 * 128 + 129 * 128 + 129 * 10
    assert found["peak_epochs"] >= found["anonymous"] > 1e6
    point = scaling.Point(1_000_000, 5, False)
    floor = {**found, "peak_begin": found["peak_begin"] - 10**8, "peak_epochs": found["peak_epochs"] - 56 * 10**6}
    cells = [cell.strip() for cell in scaling.line(point, found, floor).split("|")[1:-1]]
    assert cells[0] == "1,000,000"
    assert cells[6:] == ["28.2", "100", "56 (0)", "1.99"]
