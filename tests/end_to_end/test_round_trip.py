"""A table goes in, predictions come out: fit, validate, test, predict, and the flags people use on the way."""

import contextlib
import csv
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from commands import contents
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from verbs_here import succeed

from datamodules import TabularDataModule
from lightning_mods import MLPClassifier, MLPRegressor

pytestmark = [
    # Lightning 2.6 calls names of jsonargparse that go in version 5; pyproject.toml bounds it below that.
    pytest.mark.filterwarnings("ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"),
    # Lightning's own use of a deprecated torch name; the commands silence it themselves, a plain Trainer does not.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    # Handing a table in memory to worker processes would be slower; Lightning advises it to everybody.
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*:UserWarning"),
    # Three steps an epoch: a setting of the plain Trainer, which the commands do not log by.
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*:UserWarning"),
]

SMALL = ("--model.hidden_sizes=[16]", "--trainer.max_epochs=3", "--trainer.accelerator=cpu")
CHECKPOINTS = "lightning_logs/version_0/checkpoints"


def write_mixed(path, rows=300, *, seed=0, lacking=(), colours=("red", "green", "blue")):
    """Numbers, gaps, a category, a date, free text; a class and an amount that depend on them."""
    draw = random.Random(seed)
    columns = ["size", "gappy", "colour", "day", "remark", "kind", "price"]
    kept = [name for name in columns if name not in lacking]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, kept, extrasaction="ignore")
        writer.writeheader()
        for i in range(rows):
            size, colour = draw.gauss(0, 1), draw.choice(colours)
            score = size + (colour == "red") - 0.5 * (colour == "blue")
            row = {
                "size": f"{size:.5f}",
                "gappy": "" if draw.random() < 0.2 else f"{1000 + 5 * draw.gauss(0, 1):.3f}",
                "colour": colour,
                "day": f"2024-{1 + i % 12:02d}-{1 + i % 28:02d}",
                "remark": f"row {i} came by post, {draw.random():.6f}",
                "kind": "low" if score < -0.3 else "high" if score > 0.8 else "mid, as usual",
                "price": f"{20000 + 3000 * score:.2f}",
            }
            writer.writerow(row)
    return path


def read(path="predictions.csv"):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Folders with a finished run of a classifier and of a regressor."""
    folders = {}
    for target, drop in (("kind", "price"), ("price", "kind")):
        folder = folders[target] = tmp_path_factory.mktemp(target)
        write_mixed(folder / "mixed.csv")
        with contextlib.chdir(folder):
            succeed("fit", "--data.path=mixed.csv", f"--data.target={target}", f"--data.drop=[{drop}]", *SMALL)
    return folders


@pytest.fixture
def at(fitted, tmp_path, monkeypatch):
    """Go to a copy of a finished run."""

    def go(target="kind"):
        folder = tmp_path / target
        shutil.copytree(fitted[target], folder)
        monkeypatch.chdir(folder)
        return folder

    return go


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------ what became of the columns


def test_fit_says_what_it_did_with_dates_and_free_text(here):
    write_mixed(here / "mixed.csv")
    _, err = succeed("fit", "--data.path=mixed.csv", "--data.target=kind", *SMALL)
    for name in ("day", "remark"):
        assert name in err
    assert "classification, 3 classes" in err


# ------------------------------------------------------------------ predict


def test_probabilities_sum_to_one_and_the_prediction_is_the_likeliest_class(at):
    folder = at()
    write_mixed(folder / "new.csv", 50, seed=1, lacking=["kind", "price"])
    succeed("predict", "--data.predict_path=new.csv")
    rows = read()
    assert len(rows) == 50
    assert set(rows[0]) == {"prediction", "probability_high", "probability_low", "probability_mid, as usual"}
    for row in rows:
        shares = {name.removeprefix("probability_"): float(v) for name, v in row.items() if name != "prediction"}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-6)
        assert row["prediction"] == max(shares, key=shares.__getitem__)


@pytest.mark.parametrize("target", ["kind", "price"])
def test_the_target_column_in_the_file_changes_nothing(target, at):
    folder = at(target)
    write_mixed(folder / "with.csv", 50, seed=1)
    write_mixed(folder / "without.csv", 50, seed=1, lacking=["kind", "price"])
    for name in ("with", "without"):
        succeed("predict", f"--data.predict_path={name}.csv", f"--output={name}.out")
    assert read("with.out") == read("without.out")


def test_rows_come_out_in_the_order_they_went_in(at):
    folder = at("price")
    write_mixed(folder / "new.csv", 60, seed=2)
    head, *lines = (folder / "new.csv").read_text().splitlines()
    (folder / "backwards.csv").write_text("\n".join([head, *reversed(lines)]) + "\n")
    for name in ("new", "backwards"):
        succeed("predict", f"--data.predict_path={name}.csv", f"--output={name}.out")
    forwards, backwards = ([float(row["prediction"]) for row in read(f"{n}.out")] for n in ("new", "backwards"))
    assert forwards == pytest.approx(backwards[::-1], rel=1e-5)
    assert len(set(forwards)) > 50


def test_columns_may_come_in_another_order_and_with_company(at):
    folder = at()
    write_mixed(folder / "new.csv", 20, seed=3)
    with (folder / "new.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (folder / "shuffled.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["colour", "more", "remark", "gappy", "size", "day"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "more": "1"} for row in rows)
    for name in ("new", "shuffled"):
        succeed("predict", f"--data.predict_path={name}.csv", f"--output={name}.out")
    assert read("new.out") == read("shuffled.out")


@pytest.mark.parametrize("verb", ["predict", "test"])
def test_a_category_that_training_never_saw_breaks_nothing(verb, at):
    folder = at()
    write_mixed(folder / "new.csv", 40, seed=4, colours=("mauve", "red", ""))
    succeed(verb, f"--data.{verb}_path=new.csv")


def test_a_regression_predicts_in_the_units_of_its_target(at):
    folder = at("price")
    write_mixed(folder / "new.csv", 50, seed=5)
    succeed("predict", "--data.predict_path=new.csv")
    truth = [float(row["price"]) for row in read("new.csv")]
    found = [float(row["prediction"]) for row in read()]
    middle = sum(truth) / len(truth)
    error = sum((a - b) ** 2 for a, b in zip(truth, found, strict=True))
    assert error < 0.7 * sum((a - middle) ** 2 for a in truth)


@pytest.mark.parametrize("target", ["kind", "price"])
def test_predict_needs_no_training_table(target, at):
    folder = at(target)
    write_mixed(folder / "new.csv", 30, seed=6)
    succeed("predict", "--data.predict_path=new.csv", "--output=before.out")
    (folder / "mixed.csv").unlink()
    (folder / "lightning_logs/version_0/config.yaml").rename(folder / "gone.yaml")
    succeed("predict", f"--ckpt_path={CHECKPOINTS}/best.ckpt", "--data.predict_path=new.csv", "--output=after.out")
    assert (folder / "before.out").read_bytes() == (folder / "after.out").read_bytes()


@pytest.mark.parametrize(("target", "model"), [("kind", MLPClassifier), ("price", MLPRegressor)])
def test_a_checkpoint_predicts_the_same_without_the_command_line(target, model, at):
    folder = at(target)
    write_mixed(folder / "new.csv", 30, seed=7)
    succeed("predict", "--data.predict_path=new.csv")
    path = f"{CHECKPOINTS}/best.ckpt"
    loaded = model.load_from_checkpoint(path, weights_only=True).eval()
    data = TabularDataModule.load_from_checkpoint(path, weights_only=True, predict_path="new.csv")
    with torch.no_grad():
        found = torch.cat([loaded(batch) for batch in data.predict_dataloader()])
    if target == "price":
        assert [float(row["prediction"]) for row in read()] == pytest.approx(found.tolist(), rel=1e-6)
        return
    columns = [f"probability_{name}" for name in data.class_names]
    written = torch.tensor([[float(row[name]) for name in columns] for row in read()])
    torch.testing.assert_close(written, found, rtol=0, atol=1e-7)


# ------------------------------------------------------------------ validate, test, configurations, runs


def _table(out, stage):
    lines = [re.split(r"  +", line) for line in out.splitlines()]
    (at,) = (i for cells in lines for i, cell in enumerate(cells) if re.fullmatch(rf"{stage}( \(\d+ rows\))?", cell))
    found = {name: cells[at - 1 : at + 1] for name, *cells in lines if len(cells) > at}
    return {name: (value.partition(" ±")[0], trivial) for name, (value, trivial) in found.items()}


@pytest.mark.parametrize("target", ["kind", "price"])
def test_validate_and_test_repeat_what_fit_said(target, at):
    folder = at(target)
    out, _ = succeed("fit", "--config=lightning_logs/version_0/config.yaml")
    assert (folder / "lightning_logs/version_1").is_dir()
    for verb, stage in (("validate", "validation"), ("test", "test")):
        found, wanted = _table(succeed(verb)[0], stage), _table(out, stage)
        for name in ("loss", "accuracy" if target == "kind" else "rmse"):
            assert found[name] == wanted[name]


def test_the_file_of_a_run_serves_every_verb(at):
    folder = at()
    config = "--config=lightning_logs/version_0/config.yaml"
    write_mixed(folder / "new.csv", 20, seed=8)
    for verb in ("validate", "test", "fit"):
        succeed(verb, config)
    succeed("predict", config, "--data.predict_path=new.csv")
    assert len(read()) == 20


def test_what_print_config_prints_feeds_back(at):
    at()
    flags = ("--data.path=mixed.csv", "--data.target=kind", "--model.lr=0.02", *SMALL)
    out, _ = succeed("fit", *flags, "--print_config")
    assert yaml.safe_load(out)["model"]["init_args"]["lr"] == 0.02
    Path("printed.yaml").write_text(out)
    succeed("fit", *flags)
    succeed("fit", "--config=printed.yaml")
    one, other = (torch.load(f"lightning_logs/version_{i}/checkpoints/last.ckpt", weights_only=True) for i in (1, 2))
    for name, weights in one["state_dict"].items():
        assert torch.equal(weights, other["state_dict"][name])


def test_best_and_last_mean_the_newest_run_and_a_second_fit_leaves_the_first_alone(at):
    folder = at()
    first = contents(folder / "lightning_logs/version_0")
    succeed("fit", "--data.path=iris", "--trainer.max_epochs=1")
    assert contents(folder / "lightning_logs/version_0") == first
    for which in ("best", "last"):
        out, _ = succeed("validate", f"--ckpt_path={which}")
        assert f"lightning_logs/version_1/checkpoints/{which}.ckpt" in out


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(here):
    weights = []
    for seed in (7, 7, 8):
        succeed("fit", "--data.path=iris", *SMALL, f"--seed_everything={seed}", "--model.dropout=0.1")
        path = f"lightning_logs/version_{len(weights)}/checkpoints/last.ckpt"
        state = torch.load(path, weights_only=True)["state_dict"]
        weights.append(torch.cat([tensor.flatten() for tensor in state.values()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# ------------------------------------------------------------------ the flags people use

FLAGS = {
    "no_logger": ["--trainer.logger=false"],
    "one_batch_of_each": ["--trainer.fast_dev_run=true"],
    "plain_gradient_descent": ["--data.batch_size=full"],
    "another_logger": ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"],
    "early_stopping": ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"],
    "half_precision": ["--trainer.precision=bf16-mixed"],
    "clipped_gradients": ["--trainer.gradient_clip_val=1"],
    "gathered_gradients": ["--trainer.accumulate_grad_batches=2"],
    "two_batches_again_and_again": ["--trainer.overfit_batches=2"],
    "three_batches_an_epoch": ["--trainer.limit_train_batches=3"],
    "ten_steps": ["--trainer.max_steps=10"],
    "adam": ["--optimizer=Adam", "--optimizer.lr=0.001"],
    "adam_in_two_words": ["--optimizer", "Adam", "--optimizer.lr", "0.001"],
    "steps_of_the_learning_rate": ["--lr_scheduler", "StepLR", "--lr_scheduler.step_size=2"],
    "both": ["--optimizer=SGD", "--optimizer.lr=0.1", "--lr_scheduler=ExponentialLR", "--lr_scheduler.gamma=0.9"],
    "validation_every_other_epoch": ["--trainer.check_val_every_n_epoch=2"],
    "no_validation": ["--data.val_fraction=0"],
    "no_test": ["--data.test_fraction=0"],
    "no_checkpoints": ["--trainer.enable_checkpointing=false"],
    "balanced_classes": ["--model.class_weight=balanced"],
    "a_linear_model": ["--model.hidden_sizes=[]"],
}


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS.keys())
def test_fit_runs_with(flags, here):
    succeed("fit", "--data.path=iris", "--data.batch_size=16", *SMALL, *flags)


def test_a_fit_without_logger_and_a_second_one_keep_their_checkpoints_apart(here):
    for _ in range(2):
        succeed("fit", "--data.path=iris", *SMALL, "--trainer.logger=false")
    assert len(list(here.rglob("best.ckpt"))) == 2
    succeed("validate")


def test_max_steps_ends_the_fit_there(here):
    succeed("fit", "--data.path=iris", "--data.batch_size=16", *SMALL, "--trainer.max_steps=10")
    assert torch.load(f"{CHECKPOINTS}/last.ckpt", weights_only=True)["global_step"] == 10


def test_the_scheduler_steps_once_an_epoch(here):
    flags = ("--optimizer=SGD", "--optimizer.lr=0.08", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=1")
    succeed("fit", "--data.path=iris", *SMALL, *flags, "--lr_scheduler.gamma=0.5")
    events = EventAccumulator("lightning_logs/version_0").Reload()
    assert [event.value for event in events.Scalars("lr")] == pytest.approx([0.08, 0.04, 0.02])


def test_the_classes_work_with_a_plain_trainer(here):
    data = TabularDataModule("iris")
    model = MLPClassifier(data.in_features, data.num_classes)
    trainer = Trainer(max_epochs=2, accelerator="cpu", logger=CSVLogger("."), enable_progress_bar=False)
    trainer.fit(model, datamodule=data)
    (results,) = trainer.test(model, datamodule=data, verbose=False)
    assert results["test_accuracy"] > 0.5
