"""`fit --data.folds`: a fit for each fold, scores out of fold, and one checkpoint of all models."""

import csv
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import warm
from commands import TIMEOUT, start_warm
from commands import succeed as succeed_in_a_process
from sklearn.metrics import accuracy_score, log_loss, r2_score, roc_auc_score, root_mean_squared_error
from verbs_here import do, succeed

from callbacks.host.packages import LightningModule
from datamodules.columns.encoding import CategoryColumn, Encoding, NumericColumn
from lightning_mods.export.schema import columns_once
from lightning_mods.runs import RunError

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's CLI and jsonargparse warn of each other
RUN = Path("lightning_logs/version_0")
QUICK = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.max_epochs=4"]
QUICK += ["--watch=[fit]", "--reference=false"]


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A table with numbers that have gaps, categories of which some are rare, and a target of either kind."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    size, colour = rng.standard_normal(160), rng.choice(["red", "green", "blue", "pink"], 160, p=[0.4, 0.3, 0.27, 0.03])
    price = 100 + 20 * size + 8 * (colour == "red") + rng.standard_normal(160)
    frame = pd.DataFrame({"size": size, "weight": rng.gamma(2, 30, 160), "colour": colour, "price": price})
    frame["kind"] = np.where(size + (colour == "red") > 0.4, "big", "small")
    frame.loc[rng.random(160) < 0.1, "weight"] = np.nan
    frame.to_csv("table.csv", index=False)
    return frame


class Stranger(LightningModule):
    """A model that is none of ours."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(in_features, 1)


def flags(target, *more):
    other = {"kind": "price", "price": "kind"}[target]
    return ["--data.path=table.csv", f"--data.target={target}", f"--data.drop=[{other}]", *QUICK, *more]


def cells_of(out, label):
    """The numbers of a line of the table, those behind ± left out."""
    (line,) = [line for line in out.splitlines() if line.startswith(f"{label}  ")]
    return [float(each) for each in re.findall(r"(?<![±\w] )(?<=\s)-?\d[\d.e+-]*", line.removeprefix(label))]


def state(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_the_scores_out_of_fold_are_those_of_the_predictions_written(table):
    out, err = succeed("fit", *flags("kind", "--data.folds=3"))
    found = pd.read_csv(RUN / "oof_predictions.csv")
    assert found["row"].is_monotonic_increasing
    assert found["row"].is_unique
    assert (found["target"] == table["kind"][found["row"] - 1].to_numpy()).all()
    assert found["fold"].value_counts().to_dict() == {1: 46, 2: 45, 3: 45}
    truth, chance = found["target"] == "small", found["probability_small"]
    scores = [
        log_loss(truth, chance),
        accuracy_score(found["target"], found["prediction"]),
        np.nan,
        roc_auc_score(truth, chance),
    ]
    rows, *said = cells_of(out, "out of fold")
    assert rows == 136
    assert [said[i] for i in (0, 1, 3)] == pytest.approx([scores[i] for i in (0, 1, 3)], rel=1e-3)
    error = np.std(-np.log(np.where(truth, chance, 1 - chance)), ddof=1) / np.sqrt(136)
    assert f"± {error:.2g}" in next(line for line in out.splitlines() if line.startswith("out of fold  "))
    by_fold = [log_loss(part["target"] == "small", part["probability_small"]) for _, part in found.groupby("fold")]
    assert [cells_of(out, str(fold))[2] for fold in (1, 2, 3)] == pytest.approx(by_fold, rel=1e-3)
    assert cells_of(out, "mean")[0] == pytest.approx(np.mean(by_fold), rel=1e-3)
    assert f"± {np.std(by_fold, ddof=1):.2g}" in next(line for line in out.splitlines() if line.startswith("mean  "))
    assert [line for line in err.splitlines() if re.match(r"fold \d of 3: val_loss [\d.]+, 4 epochs$", line)][2]
    assert out.count("\nverdict      ") == 1
    assert err.count("data: table.csv") == 1


@pytest.mark.parametrize(("target", "more"), [("kind", []), ("price", []), ("price", ["--ensemble=2"])])
def test_one_checkpoint_predicts_the_mean_of_the_models_of_all_folds(table, target, more):
    out, _ = succeed("fit", *flags(target, "--data.folds=3", *more))
    new = "--data.predict_path=table.csv"
    together = pd.DataFrame(_predictions(new))
    apart = [pd.DataFrame(_predictions(new, f"--ckpt_path={RUN}/fold_{k}/checkpoints/best.ckpt")) for k in (1, 2, 3)]
    columns = ["prediction"] if target == "price" else ["probability_big", "probability_small"]
    for name in columns:
        values = [each[name].astype(float).to_numpy() for each in apart]
        assert np.ptp([each[0] for each in values]) > 0
        assert together[name].astype(float).to_numpy() == pytest.approx(np.mean(values, axis=0), rel=1e-5, abs=1e-6)
    found = pd.read_csv(RUN / "oof_predictions.csv")
    for fold, each in enumerate(apart, 1):
        own = found[found["fold"] == fold]
        assert own[columns[0]].to_numpy() == pytest.approx(
            each[columns[0]].astype(float)[own["row"] - 1].to_numpy(), rel=1e-5
        )
    tested = succeed("test")[0]
    name, label = ("accuracy", 2) if target == "kind" else ("rmse", 2)
    value = float(re.search(rf"^{name} +([\d.]+)", tested, re.M)[1])
    assert cells_of(out, "test, ensemble")[label] == pytest.approx(value, rel=1e-3)
    loss = float(re.search(r"^loss of the ensemble +([\d.]+)", tested, re.M)[1])
    assert cells_of(out, "test, ensemble")[1] == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize("target", ["kind", "price"])
def test_an_export_takes_each_column_once_and_predicts_as_the_checkpoint_does(table, target):
    pytest.importorskip("onnxruntime")
    succeed("fit", *flags(target, "--data.folds=3", "--ensemble=2"))
    out, _ = succeed("export")
    assert re.search(r"numbers +float64 \[batch, 2\]", out)
    assert re.search(r"categories +int64 \[batch, 1\]", out)
    one = _predictions("--data.predict_path=table.csv")
    other = _predictions("--data.predict_path=table.csv", "--exported=model.onnx")
    name = "prediction" if target == "price" else "probability_small"
    assert [float(each[name]) for each in one] == pytest.approx([float(each[name]) for each in other], rel=1e-4)
    found = succeed("test", "--importance")[0]
    assert found
    importance = pd.read_csv(RUN / "importance_test.csv")
    assert sorted(importance["column"]) == ["colour", "size", "weight"]


def test_columns_that_folds_read_in_several_ways_are_not_exported():
    several = Encoding((NumericColumn("age", 0.0, 1.0), CategoryColumn("age", ("old", "young"))))
    with pytest.raises(RunError, match=r"'age' in several ways, .* export the checkpoint of a fold"):
        columns_once(several)
    alike = Encoding((CategoryColumn("hue", ("red",)), CategoryColumn("hue", ("blue", "red"), infrequent=True)))
    assert columns_once(alike).columns[0].categories == ("red", "blue")


def _predictions(*more):
    succeed("predict", *more, "--output=found.csv")
    with Path("found.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_regression_has_its_scores_and_intervals_out_of_fold(table):
    out, _ = succeed("fit", *flags("price", "--data.folds=4", "--data.test_fraction=0"))
    found = pd.read_csv(RUN / "oof_predictions.csv")
    assert len(found) == 160
    assert found["target"].to_numpy() == pytest.approx(table["price"].to_numpy(), rel=1e-6)
    rows, loss, rmse, _, r2 = cells_of(out, "out of fold")
    assert rows == 160
    assert rmse == pytest.approx(root_mean_squared_error(found["target"], found["prediction"]), rel=1e-3)
    assert loss == pytest.approx(rmse**2, rel=1e-2)
    assert r2 == pytest.approx(r2_score(found["target"], found["prediction"]), rel=1e-3)
    assert "test, ensemble" not in out
    (first, *_) = _predictions("--data.predict_path=table.csv", "--interval=0.9")
    off = np.sort(np.abs(found["target"] - found["prediction"]))[int(np.ceil(161 * 0.9)) - 1]
    width = float(first["prediction_high"]) - float(first["prediction"])
    assert width == pytest.approx(off, rel=1e-4)


def test_a_fold_is_what_a_fit_of_it_alone_is(table):
    succeed("fit", *flags("kind", "--data.folds=3"))
    succeed("fit", *flags("kind", "--data.folds=3", "--data.fold=2"))
    one, other = (state(path) for path in (RUN / "fold_2/checkpoints/best.ckpt", _of_run(1)))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    tested = [
        succeed("validate", f"--ckpt_path={path}")[0] for path in (RUN / "fold_2/checkpoints/best.ckpt", _of_run(1))
    ]
    assert tested[0].splitlines()[:5] == tested[1].splitlines()[:5]


@pytest.mark.parametrize("target", ["kind", "price"])
def test_the_losses_out_of_fold_are_weighted(table, target):
    table["times"] = np.arange(len(table)) % 5
    table.to_csv("table.csv", index=False)
    out, _ = succeed("fit", *flags(target, "--data.folds=3", "--data.weight=times"))
    found = pd.read_csv(RUN / "oof_predictions.csv")
    weight = table["times"][found["row"] - 1].to_numpy()
    assert (weight > 0).all()
    kept = torch.load(RUN / "checkpoints" / "best.ckpt", weights_only=True)["TabularDataModule"]
    if target == "price":
        loss = np.average((found["target"] - found["prediction"]) ** 2, weights=weight)
        assert kept["target_mean"] == pytest.approx(np.average(found["target"], weights=weight))
    else:
        loss = log_loss(found["target"] == "small", found["probability_small"], sample_weight=weight)
        assert kept["class_masses"][1] == pytest.approx(weight[found["target"] == "small"].sum() / weight.mean())
    names = re.split(r"\s{2,}", next(line for line in out.splitlines() if line.startswith("fold")))
    assert cells_of(out, "out of fold")[names.index("loss") - 2] == pytest.approx(loss, rel=1e-3)


def _of_run(number):
    return Path(f"lightning_logs/version_{number}/checkpoints/best.ckpt")


def test_no_group_is_on_both_sides(table):
    table["owner"] = [f"p{i % 23}" for i in range(160)]
    table.to_csv("table.csv", index=False)
    succeed("fit", *flags("kind", "--data.folds=3", "--data.group=owner"))
    found = pd.read_csv(RUN / "oof_predictions.csv")
    assert (
        found.assign(owner=table["owner"][found["row"] - 1].to_numpy()).groupby("owner")["fold"].nunique() == 1
    ).all()


@pytest.mark.timeout(600)
def test_a_run_killed_in_the_middle_goes_on_to_the_same_numbers(tmp_path):
    fit = ["--data.path=digits", "--data.folds=3", "--data.batch_size=4", "--model.hidden_sizes=[32]"]
    fit += [*QUICK[:2], "--reference=false", "--watch=[fit]", "--trainer.max_epochs=5"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    done = succeed_in_a_process("fit", *fit, cwd=whole)
    for fold, again in ((1, []), (2, ["--ckpt_path=last"])):
        process = start_warm("fit", *fit, *again, cwd=killed, out=killed / "out", err=killed / "err")
        last = killed / RUN / f"fold_{fold}/checkpoints/last.ckpt"
        end = time.monotonic() + TIMEOUT
        while not last.is_file():
            assert time.monotonic() < end
            assert not warm.ended(process, 0)
            time.sleep(0.005)
        time.sleep(0.3)
        process.kill()
        assert warm.ended(process, TIMEOUT)
        assert process.exitcode == -signal.SIGKILL
    assert not (killed / RUN / "fold_2/fold.json").exists()
    first = (killed / RUN / "fold_1/checkpoints/best.ckpt").stat().st_mtime_ns
    resumed = succeed_in_a_process("fit", *fit, "--ckpt_path=last", cwd=killed)
    assert "fold 1 of 3" not in resumed.stderr
    assert "training goes on from" in resumed.stderr
    assert (killed / RUN / "fold_1/checkpoints/best.ckpt").stat().st_mtime_ns == first
    assert resumed.stdout == done.stdout
    assert (killed / RUN / "oof_predictions.csv").read_text() == (whole / RUN / "oof_predictions.csv").read_text()
    for name in ("checkpoints", *(f"fold_{k}/checkpoints" for k in (1, 2, 3))):
        one, other = (state(folder / RUN / name / "best.ckpt") for folder in (whole, killed))
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert not (killed / "lightning_logs/version_1").exists()


def test_a_run_that_was_stopped_between_two_steps_goes_on(table):
    fit = flags("kind", "--data.folds=2")
    out, _ = succeed("fit", *fit)
    (RUN / "fold_2/fold.json").unlink()
    (RUN / "checkpoints/best.ckpt").unlink()
    again, _ = succeed("fit", *fit, "--ckpt_path=last")
    assert again == out
    assert (RUN / "checkpoints/best.ckpt").is_file()
    code, _, err = do("fit", *fit, "--ckpt_path=last", "--model.dropout=0.1")
    assert code == 2
    assert err.splitlines()[-1].startswith(
        "fit: --model.dropout=0.1 does not fit the folds of lightning_logs/version_0"
    )
    assert succeed("fit", *fit, "--ckpt_path=last")[0] == out
    shutil.copytree(RUN / "fold_2", "kept")
    shutil.rmtree(RUN / "fold_2")
    table[:-1].to_csv("table.csv", index=False)
    code, out, err = do("fit", *fit, "--ckpt_path=last")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("fit: the table has changed since the first fold was trained")
    table.to_csv("table.csv", index=False)
    shutil.rmtree(RUN / "fold_2")
    Path("kept").rename(RUN / "fold_2")
    for name in ("fold.npz", "fold.json"):
        (RUN / "fold_1" / name).write_text("{")
        code, _, err = do("fit", *fit, "--ckpt_path=last")
        assert code == 2
        assert f"fold_1/{name} is damaged" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--improve=1"], "--improve goes by the validation rows of one fit"),
        (["--trainer.callbacks+=OptunaSearch"], "OptunaSearch searches"),
        (["--trainer.devices=2", "--trainer.strategy=ddp"], "--data.folds trains in one process"),
        (["--calibrate"], "--calibrate learns from the rows that --data.folds scores"),
        (["--trainer.enable_checkpointing=false"], "--data.folds needs the checkpoint of each fold"),
        (["--ckpt_path=best"], "--data.folds goes on with --ckpt_path=last, not best"),
        (["--data.time=size"], "--data.folds does not go with --data.time"),
        (["--data.val_path=table.csv"], "two ways to validate"),
        ([f"--model={__name__}.Stranger"], "Stranger is none; fit each --data.fold=1"),
        (["--data.folds=1"], "--data.folds must be a whole number"),
        (["--data.folds=three"], "data.folds"),
        (["--data.folds=70"], "--data.folds=70 needs at least as many rows of each class that are not for test"),
    ],
)
def test_what_does_not_go_with_folds_is_one_line_and_leaves_nothing(table, more, words):
    code, out, err = do("fit", *flags("kind", "--data.folds=3", *more))
    assert code == 2
    assert not out
    assert err.splitlines()[-1].startswith("fit: ")
    assert words in err.splitlines()[-1]
    assert not Path("lightning_logs").exists()


def test_folds_of_other_verbs_and_names_are_known(table):
    code, _, err = do("study", *flags("kind", "--data.folds=3"))
    assert code == 2
    assert err.strip() == (
        "study: --data.folds is for `fit`; --study.folds=5 fits each trial of a study on five folds."
    )
    for verb, word, meant in (
        ("fit", "cv", "data.folds"),
        ("fit", "n_splits", "data.folds"),
        ("study", "folds", "study.folds"),
    ):
        code, _, err = do(verb, *flags("kind", f"--{word}=3"))
        assert code == 2
        assert f"did you mean --{meant}?" in err


def test_trying_out_the_code_leaves_nothing(table):
    succeed("fit", *flags("kind", "--data.folds=3", "--trainer.fast_dev_run=true"))
    assert not list(Path().rglob("*.ckpt"))
