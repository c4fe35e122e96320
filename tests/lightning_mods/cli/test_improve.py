import json
from pathlib import Path

import pytest
from commands import write_table
from verbs_here import do, succeed

from lightning_mods.runs import find_checkpoint

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's CLI and jsonargparse warn of each other
FLAGS = ["--data.path=iris", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--watch=[fit,health]"]


def rows_of(out):
    table = out.partition(" change ")[2].split("\n\n")[0].splitlines()[1:]
    return [line for line in table if "version_" in line]


def test_a_fit_that_is_improved_ends_with_its_best_run_and_predict_takes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = write_table("table.csv", 100)
    flags = [f"--data.path={table}", "--data.target=kind", *FLAGS[1:], "--trainer.max_epochs=3", "--model.lr=0.02"]
    out, err = succeed("fit", *flags, "--improve=2")
    rows = rows_of(out)
    assert 1 <= len(rows) <= 3
    assert err.count("\nimprove ") == len(rows) - 1
    (record,) = tmp_path.rglob("improve.json")
    fits = json.loads(record.read_text())
    assert len(fits) == len(rows)
    (best,) = [each for each in fits if each["best"]]
    assert best["loss"] == min(each["loss"] for each in fits) <= fits[0]["loss"]
    assert out.count("\nverdict      ") == 1
    checkpoint = f"{best['folder']}/checkpoints/best.ckpt"
    assert checkpoint in out
    new = f"--data.predict_path={table}"
    succeed("predict", new, "--output=a.csv")
    succeed("predict", new, "--output=b.csv", f"--ckpt_path={checkpoint}")
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    assert find_checkpoint("last", tmp_path).path.parent == Path(tmp_path, checkpoint).parent


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--improve=x"], "--improve needs a whole number"),
        (["--improve=-1"], "--improve needs a whole number"),
        (["--improve=1.5"], "--improve needs a whole number"),
        (["--improve=1", "--data.val_fraction=0"], "no validation set"),
        (["--improve=1", "--watch=[]"], "let --watch name `fit`"),
        (["--improve=1", "--trainer.devices=2", "--trainer.strategy=ddp"], "in one process"),
        (["--improve=1", "--trainer.callbacks+=OptunaSearch"], "take one of them"),
    ],
)
def test_what_cannot_be_improved_is_said_in_one_line(tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = do("fit", *FLAGS, "--trainer.max_epochs=1", *flags)
    assert code == 2
    assert err.splitlines()[-1].startswith("fit: --improve")
    assert words in err.splitlines()[-1]
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_study_says_that_it_improves_by_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = do("study", "--data.path=iris", "--improve=2")
    assert (code, err.splitlines()[-1].startswith("study: --improve is for `fit`")) == (2, True)


def test_a_fit_that_went_on_is_improved_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    succeed("fit", *FLAGS, "--trainer.max_epochs=2", "--model.lr_schedule=constant")
    out, _ = succeed("fit", "--ckpt_path=last", "--trainer.max_epochs=3", "--model.lr_schedule=constant", "--improve=1")
    first, second = rows_of(out)
    assert "version_0" in first
    assert "--trainer.max_epochs=12" in second
