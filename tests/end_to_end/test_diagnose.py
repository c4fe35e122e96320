import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from math import exp
from pathlib import Path

import pytest

from lightning_mods.diagnose.command import main

ROOT = Path(__file__).parents[2]
TRAIN = [2 * exp(-e / 8) + 0.05 for e in range(40)]
VAL = [2 * exp(-e / 5) + 0.4 + 0.03 * max(0, e - 12) for e in range(40)]


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.csv"
    write(path)
    return path


def write(path, names="epoch,loss,val_loss,word"):
    rows = (f"{e},{t},{v},x" for e, (t, v) in enumerate(zip(TRAIN, VAL, strict=True)))
    path.write_text("\n".join([names, *rows]) + "\n")


def command(*args, cwd):
    line = [sys.executable, "-m", "lightning_mods.diagnose", *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def refusal(capsys, *args):
    """The one line on a mistake."""
    with pytest.raises(SystemExit) as end:
        main([str(arg) for arg in args])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert out == ""
    return err


def test_the_advice_on_a_log_has_the_words_of_what_wrote_it(log):
    said = command(log, cwd=log.parent).stdout
    assert "--" not in said.partition("Read ")[0]
    assert re.search(r"\((epochs|learning_rate|batch_size|units|weight_decay|rate)\)", said)


def test_one_log_gives_verdict_reason_advice_and_the_columns_taken(log):
    done = command("log.csv", cwd=log.parent)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("overfit (")
    assert lines[0].endswith(" %), memorising")
    assert "validation loss" in lines[1].lower()
    assert lines[2].startswith("  1. Take the weights of epoch ")
    assert lines[-1] == "Read log.csv (Keras log): train loss, val val_loss, by epoch."


def test_several_logs_give_an_aligned_table(log):
    (log.parent / "b").mkdir()
    write(log.parent / "b" / "a-longer-name.csv", "epoch,train_loss,dev_loss,word")
    done = command("log.csv", "b", cwd=log.parent)
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["file", "verdict", "sure", "cause", "best", "onset"]
    assert len(rows) == 2
    assert {row.index("memorising") for row in rows} == {head.index("cause")}


def test_a_mistake_is_one_line_and_exit_code_2(log):
    done = command("nope.csv", cwd=log.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "diagnose: nope.csv: there is no such file or folder.\n"


def test_json_is_an_object_for_one_log_and_a_list_for_several(log, capsys):
    main([str(log), "--json"])
    one = json.loads(capsys.readouterr().out)
    assert one["fit"] == "overfit"
    assert one["columns"]["val"] == ["val_loss"]
    assert one["best_epoch"] == one["best_in_log"]
    assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    bad = log.parent / "empty.csv"
    bad.touch()
    with pytest.raises(SystemExit):
        main([str(log), "--json", str(bad)])
    first, second = json.loads(capsys.readouterr().out)
    assert first == one
    assert list(second) == list(one)
    assert second["fit"] is None
    assert "empty" in second["error"]


def test_flags_choose_the_columns_and_the_baseline(log, capsys):
    main([str(log), "--train=val_loss", "--val", "loss", "--baseline", "-1e-3", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["columns"]["train"], found["columns"]["val"]) == (["val_loss"], ["loss"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--jso"], "--jso is not a flag; did you mean --json?"),
        (["--metrc=x"], "did you mean --metric"),
        (["--val=val_los"], "did you mean val_loss?"),
        (["--metric=word"], "it holds `x`"),
        (["--metric_mode=up"], "'max'"),
        (["--baseline=low"], "--baseline"),
        (["--baseline=nan"], "finite"),
        (["--plot"], "--plot"),
    ],
)
def test_misuse_is_refused_in_one_line(log, capsys, flags, says):
    assert says in refusal(capsys, log, *flags)


def test_no_log_at_all_is_refused(capsys):
    assert "LOG" in refusal(capsys)


def test_a_picture_is_of_one_log(log, capsys):
    write(log.parent / "b.csv")
    assert "one log; 2 were given" in refusal(capsys, log, log.parent / "b.csv", "--plot=x.png")


@pytest.mark.skipif(not find_spec("callbacks.fit.figure"), reason="callbacks.fit.figure is not there yet")
def test_the_picture_is_written_whole_or_not_at_all(log, capsys):
    target = log.parent / "fit.png"
    main([str(log), f"--plot={target}"])
    assert target.read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert "cannot be written" in refusal(capsys, log, f"--plot={log.parent}/no/fit.png")
    assert "png" in refusal(capsys, log, f"--plot={log.parent}/fit.xyz")
    assert sorted(path.name for path in log.parent.iterdir()) == ["fit.png", "log.csv"]


def test_an_unreadable_log_among_others_is_a_line_of_the_table(log, capsys):
    bad = log.parent / "bad.csv"
    bad.write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit) as end:
        main([str(log), str(bad)])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert "unreadable" in out
    assert err.startswith(f"diagnose: {bad}: no loss is found")


def test_what_else_lies_in_a_folder_is_passed_over(log, capsys):
    (log.parent / "predictions.csv").write_text("row,loss\n1,2\n2,3\n")
    (log.parent / "all_results.json").write_text('{"train_loss": 0.5, "eval_loss": 0.6}')
    (log.parent / "junk.json").write_text("[")
    main([str(log.parent), "--json"])
    assert json.loads(capsys.readouterr().out)["file"] == str(log)
    log.unlink()
    assert "none of 3 files" in refusal(capsys, log.parent)


def verdict_of(tmp_path, capsys, rows):
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["epoch,loss,val_loss", *(f"{e},{row}" for e, row in enumerate(rows))]) + "\n")
    main([str(path), "--json"])
    return json.loads(capsys.readouterr().out)


def test_a_nan_in_a_log_is_an_explosion_and_an_empty_cell_is_missing(tmp_path, capsys):
    rows = [f"{t},{v}" for t, v in zip(TRAIN[:12], VAL[:12], strict=True)]
    assert verdict_of(tmp_path, capsys, [*rows, f"nan,{VAL[11]}"])["fit"] == "diverged"
    assert verdict_of(tmp_path, capsys, ["nan,nan"] * 4)["fit"] == "diverged"
    assert verdict_of(tmp_path, capsys, [*rows, f",{VAL[12]}"])["fit"] != "diverged"
    assert verdict_of(tmp_path, capsys, [*rows, f"{TRAIN[12]},nan"])["fit"] != "diverged"


def test_noise_and_zeros_in_a_log_are_unknown(tmp_path, capsys):
    noise = [((7919 * i) % 101) / 101 for i in range(40)]
    for rows in ([f"{1 + a},{1 + b}" for a, b in zip(noise, noise[::-1], strict=True)], ["0,0"] * 20):
        said = verdict_of(tmp_path, capsys, rows)
        assert (said["fit"], said["cause"]) == ("unknown", "no_signal")
        assert said["advice"]


def test_the_best_epoch_of_a_log_is_that_of_its_lowest_value(tmp_path, capsys):
    val = [v + 0.02 * (-1) ** (e * e // 3) for e, v in enumerate(VAL)]
    said = verdict_of(tmp_path, capsys, [f"{t},{v}" for t, v in zip(TRAIN, val, strict=True)])
    assert said["best_epoch"] == val.index(min(val)) < said["onset_epoch"]
    assert not any("Keep the checkpoint" in line for line in said["advice"])  # nobody knows of one
