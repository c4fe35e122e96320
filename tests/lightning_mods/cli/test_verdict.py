import json
import shlex

import pytest
import torch

from lightning_mods import MLPClassifier, MLPRegressor, fit

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's CLI and jsonargparse warn of each other
FLAGS = ["--data.path=iris", "--trainer.accelerator=cpu", "--model.hidden_sizes=[8]"]


def run(root, *flags):
    fit.main([*FLAGS, f"--trainer.default_root_dir={root}", *flags])
    (path,) = root.rglob("diagnosis.json")
    assert path.parent.name == "checkpoints"
    return json.loads(path.read_text())


def test_a_fit_ends_with_the_verdict_after_its_table(tmp_path, capsys):
    said = run(tmp_path, "--trainer.max_epochs=6")
    out, err = capsys.readouterr()
    table, verdict = out.strip().split("\n\nverdict      ")
    assert "look at it   tensorboard" in table
    assert verdict.startswith(said["fit"])
    assert said["reason"] in verdict
    assert "\n  1. " in verdict
    assert "verdict  " not in err
    assert said["baseline_loss"] == pytest.approx(1.0986, abs=1e-3)
    assert said["logged_as"] == {"train_loss": "train_loss", "val_loss": "val_loss", "metric": "val_accuracy"}


def test_the_advice_names_flags_that_this_command_has(tmp_path):
    advice = " ".join(run(tmp_path / "a", "--trainer.max_epochs=3")["advice"])
    assert "--trainer.max_epochs" in advice
    advice = " ".join(run(tmp_path / "b", "--trainer.max_epochs=8", "--optimizer=SGD", "--optimizer.lr=1e-6")["advice"])
    assert "--optimizer.lr" in advice
    assert "--model.lr" not in advice


def next_of(out):
    (line,) = [line for line in out.splitlines() if line.startswith("next ")]
    return line.removeprefix("next         ")


def test_the_command_to_run_next_is_the_typed_one_with_the_first_advice(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = ["--data.path=iris", "--trainer.max_epochs", "3", "--model.hidden_sizes=[8, 8]", "--watch=[fit]"]
    fit.main(typed)
    command = next_of(capsys.readouterr().out)
    words = "--data.path=iris '--model.hidden_sizes=[8, 8]' '--watch=[fit]' --trainer.max_epochs=12"
    assert command == f"python -m lightning_mods.fit {words}"
    fit.main(shlex.split(command)[3:])
    assert "epoch" in capsys.readouterr().out
    assert len(json.loads(next(tmp_path.glob("*/version_1/**/diagnosis.json")).read_text())["curves"]["val_loss"]) == 12


def test_a_fit_that_went_on_is_begun_anew_by_the_next_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--trainer.max_epochs=2", "--model.lr_schedule=constant"]
    fit.main(["--data.path=iris", *flags])
    capsys.readouterr()
    fit.main(["--ckpt_path=last", "--trainer.max_epochs=3", *flags[1:]])
    config = "lightning_logs/version_0/config.yaml"
    assert next_of(capsys.readouterr().out).endswith(f"fit --config={config} --trainer.max_epochs=12")


def test_a_rate_that_blows_up_is_the_reason_of_the_verdict_and_the_first_advice(tmp_path, capsys):
    rate = ["--model.lr=3000", "--trainer.gradient_clip_val=0", "--trainer.max_epochs=5"]
    fit.main([*FLAGS, f"--trainer.default_root_dir={tmp_path}", *rate])
    lines = capsys.readouterr().out.partition("\n\nverdict ")[2].splitlines()
    assert lines[1].startswith("because      learning rate too high at step ")
    assert "  1. Lower the learning rate tenfold, and warm it up (--model.lr=300)." in lines
    assert "--model.lr=300" in lines[-1]


def test_no_flag_that_an_optimizer_of_the_users_made_dead_is_advised(tmp_path, capsys):
    fit.main([*FLAGS, f"--trainer.default_root_dir={tmp_path}", "--optimizer=Adam", "--trainer.max_steps=8"])
    said = capsys.readouterr().out.partition("\n\nverdict ")[2]
    assert "--model.lr" not in said
    assert "--trainer.max_epochs" not in said


def test_an_own_monitor_takes_the_place_of_ours(tmp_path, capsys):
    run(
        tmp_path,
        "--trainer.max_epochs=5",
        "--trainer.callbacks+=FitMonitor",
        "--trainer.callbacks.train_slice=20",
        "--trainer.callbacks.plot=false",
    )
    out, err = capsys.readouterr()
    assert (out + err).count("verdict      ") == 1


def test_a_resumed_fit_ends_with_the_same_diagnosis(tmp_path):
    monitor = ["--trainer.callbacks+=FitMonitor", "--trainer.callbacks.train_slice=20", "--model.dropout=0.2"]
    monitor += ["--model.lr_schedule=constant"]  # a cosine of four epochs is none of eight
    whole = run(tmp_path / "whole", "--trainer.max_epochs=8", *monitor)
    run(tmp_path / "cut", "--trainer.max_epochs=4", *monitor)
    assert run(tmp_path / "cut", "--trainer.max_epochs=8", "--ckpt_path=last", *monitor) == whole
    assert None not in whole["curves"]["fair_loss"]


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_the_evaluation_loss_is_in_the_units_that_are_logged(kind):
    x = torch.randn(6, 3)
    if kind == "classifier":
        model, y = MLPClassifier(3, 2, [3, 3], dropout=0.5), torch.tensor([0, 1] * 3)
        expected = torch.nn.functional.cross_entropy(model.eval().network(x), y)
    else:
        model, y = MLPRegressor(3, target_mean=5.0, target_std=10.0, dropout=0.5), torch.randn(6)
        expected = (model.eval()(x) - y).square().mean()
    assert model.evaluation_loss((x, y)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_fit_whose_loss_is_no_number_in_its_first_epoch_has_diverged(tmp_path, capsys):
    broken = ["--model.lr=1e6", "--trainer.gradient_clip_val=0", "--recipe=plain", "--trainer.max_epochs=3"]
    said = run(tmp_path, *broken)
    assert (said["fit"], said["cause"], said["best_epoch"]) == ("diverged", "exploded", None)
    out, err = capsys.readouterr()
    assert "verdict      diverged (exploded)" in out
    assert "hold out rows" not in out.lower()
    assert "finds no" not in err


@pytest.mark.parametrize("flags", [["--model.lr=0.3"], ["--data.path=diabetes", "--model.lr=0.05"]])
def test_verdict_table_and_checkpoint_name_one_best_epoch(tmp_path, capsys, flags):
    said = run(tmp_path, "--trainer.max_epochs=15", "--recipe=plain", *flags)
    out, _ = capsys.readouterr()
    (kept,) = tmp_path.rglob("best.ckpt")
    best = torch.load(kept, weights_only=True)["epoch"]
    assert said["best_epoch"] == best
    assert f"\nepoch        {best} (of 0 to " in out
    losses = said["curves"]["val_loss"]
    assert losses[best] == min(losses)
    assert said["onset_epoch"] is None or said["onset_epoch"] > best


def test_an_ensembles_best_epoch_is_that_of_its_checkpoint(tmp_path):
    said = run(tmp_path, "--trainer.max_epochs=12", "--model.lr=0.3", "--recipe=plain", "--ensemble=2")
    (kept,) = tmp_path.rglob("best.ckpt")
    assert said["best_epoch"] == torch.load(kept, weights_only=True)["epoch"]


def test_a_fit_says_three_verdicts_on_the_way_at_most(tmp_path, capsys):
    flags = ["--trainer.max_epochs=40", "--model.lr=0.5", "--recipe=plain", "--data.path=wine"]
    run(tmp_path, *flags)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("FitMonitor: epoch")]
    assert len(lines) <= 3
