"""What a fit sets where nobody says anything: by the table, shown, each with an off switch, the same when resumed."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from verbs_here import succeed

from lightning_mods.cli.command_line import CommandLine, UsageError
from lightning_mods.cli.lightning_cli import ModsCLI
from lightning_mods.cli.recipe import TableFacts, batch_size, epochs, model_settings

pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"
)
QUICK = ("--trainer.logger=false", "--watch=[]")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def settings(*args):
    """The configuration that `--print_config` shows."""
    out, _ = succeed("fit", *args, "--print_config")
    return yaml.safe_load(out)


def test_the_values_used_are_shown():
    shown = settings()
    model, data, trainer = shown["model"]["init_args"], shown["data"]["init_args"], shown["trainer"]
    assert shown["recipe"] == "default"
    assert (model["lr"], model["nesterov"], model["lr_schedule"], model["ema_epochs"]) == (0.5, True, "cosine", 2.0)
    assert model["input_scaling"] is True
    assert model["weight_decay"] == pytest.approx(5 / 1257)
    assert (data["bins"], data["batch_size"]) == (16, 128)
    assert (trainer["gradient_clip_val"], trainer["max_epochs"]) == (0.3, 40)
    assert settings("--data.path=diabetes")["model"]["init_args"]["weight_decay"] == 2e-3


def test_plain_is_what_the_classes_have_by_themselves():
    shown = settings("--recipe=plain")
    model, data, trainer = shown["model"]["init_args"], shown["data"]["init_args"], shown["trainer"]
    assert (model["lr"], model["nesterov"], model["lr_schedule"], model["ema_epochs"]) == (0.01, False, "constant", 0.0)
    assert (data["bins"], data["batch_size"]) == (0, "auto")
    assert (trainer["gradient_clip_val"], trainer["max_epochs"]) == (None, 30)


def test_whatever_is_typed_or_configured_wins():
    Path("mine.yaml").write_text("model: {lr: 0.2}\ntrainer: {gradient_clip_val: 1.0}\n")
    shown = settings("--config=mine.yaml", "--data.bins=0", "--model.ema_epochs=0", "--model=MLPClassifier")
    model = shown["model"]["init_args"]
    assert (model["lr"], model["ema_epochs"], model["lr_schedule"]) == (0.2, 0.0, "cosine")
    assert shown["trainer"]["gradient_clip_val"] == 1.0
    assert shown["data"]["init_args"]["bins"] == 0


@pytest.mark.parametrize(
    ("flag", "left"),
    [
        ("--optimizer=Adam", ("model", "lr_schedule", "constant")),
        ("--lr_scheduler=StepLR", ("model", "lr_schedule", "constant")),
        ("--model.momentum=0", ("model", "nesterov", False)),
    ],
)
def test_what_contradicts_a_flag_is_left_out(flag, left):
    extra = ["--lr_scheduler.step_size=3"] if "StepLR" in flag else []
    section, name, value = left
    assert settings(flag, *extra)[section]["init_args"][name] == value


@pytest.mark.parametrize("flag", ["--trainer.max_steps=7", "--trainer.max_time=00:00:01:00"])
def test_another_limit_takes_the_place_of_the_epochs(flag):
    cli = ModsCLI(CommandLine.parse("fit", ["--data.path=iris", flag]))
    assert cli.trainer.max_epochs == -1


def test_the_table_is_read_once_and_is_the_one_that_is_trained_on():
    cli = ModsCLI(CommandLine.parse("fit", ["--data.path=diabetes"]))
    assert cli.datamodule.bins == 16
    assert cli.datamodule.in_features == cli.model.hparams.in_features > 100


def test_a_run_goes_on_by_its_own_recipe():
    succeed("fit", "--data.path=iris", "--recipe=plain", "--trainer.max_epochs=2", "--watch=[]")
    args = ["--data.path=iris", "--trainer.max_epochs=3", "--watch=[]"]
    last = next(Path().rglob("last.ckpt"))
    found = torch.load(last, weights_only=True)
    cli = ModsCLI(CommandLine.parse("fit", args), checkpoint=found, resumed=last)
    assert (cli.config.recipe, cli.trainer.gradient_clip_val, cli.model.lr_schedule) == ("plain", None, "constant")
    assert cli.datamodule.bins == 0
    del found["lightning_mods"]["recipe"]  # as it was before there were any
    assert ModsCLI(CommandLine.parse("fit", args), checkpoint=found, resumed=last).config.recipe == "plain"


def test_a_resumed_run_has_the_clipping_and_the_epochs_of_the_recipe():
    succeed("fit", "--trainer.max_epochs=1", "--watch=[]")
    last = next(Path().rglob("last.ckpt"))
    cli = ModsCLI(CommandLine.parse("fit", []), checkpoint=torch.load(last, weights_only=True), resumed=last)
    assert (cli.config.recipe, cli.trainer.gradient_clip_val, cli.trainer.max_epochs) == ("default", 0.3, 40)
    assert cli.model.ema_epochs == 2.0


def test_a_configuration_that_a_fit_wrote_before_there_were_recipes_is_plain():
    succeed("fit", "--data.path=iris", "--recipe=plain", "--trainer.max_epochs=1", "--watch=[]")
    written = yaml.safe_load(next(Path().rglob("config.yaml")).read_text())
    del written["recipe"], written["data"]["init_args"]["bins"], written["model"]["init_args"]["lr_schedule"]
    Path("old.yaml").write_text(json.dumps(written))
    shown = settings("--config=old.yaml")
    assert (shown["recipe"], shown["data"]["init_args"]["bins"]) == ("plain", 0)
    assert shown["model"]["init_args"]["lr_schedule"] == "constant"


def test_a_foreign_model_has_no_recipe():
    args = ["--data.path=iris", "--model=tests_of_a_recipe.Own", "--recipe=default", *QUICK]
    Path("tests_of_a_recipe.py").write_text(
        "from lightning_mods import MLPClassifier\n\n\nclass Own(MLPClassifier):\n    pass\n"
    )
    import sys

    sys.path.insert(0, str(Path.cwd()))
    try:
        _, err = succeed("fit", *args, "--trainer.max_epochs=1")
    finally:
        sys.path.remove(str(Path.cwd()))
    assert "--recipe is not used" in err


@pytest.mark.parametrize(
    ("rows", "size"), [(30, "auto"), (255, "auto"), (256, 32), (900, 64), (1100, 128), (70_000, 512)]
)
def test_the_batch_is_an_eighth_of_a_small_table_and_grows_with_a_large_one(rows, size):
    assert batch_size(rows) == size


@pytest.mark.parametrize(("rows", "passes"), [(30, 40), (30_000, 40), (60_000, 20), (10**7, 10)])
def test_a_large_table_is_gone_through_less_often(rows, passes):
    assert epochs(rows) == passes


def test_the_decay_goes_by_the_task_and_the_rows():
    assert model_settings(TableFacts(100, "classification"))["weight_decay"] == 0.02
    assert model_settings(TableFacts(5000, "classification"))["weight_decay"] == 0.001
    assert model_settings(TableFacts(5000, "regression"))["weight_decay"] == 0.002
    assert model_settings(TableFacts(200_000, "regression"))["weight_decay"] == 1e-4


# ------------------------------------------------------------------ when it ends


def test_a_constant_rate_ends_when_nothing_comes_of_it():
    flags = ("--data.path=iris", "--recipe=plain", "--trainer.max_epochs=60", "--model.lr=1.0", "--watch=[]")
    _, err = succeed("fit", *flags, "--patience=3")
    assert "stopped: no lower validation loss for 3 epochs" in err
    _, err = succeed("fit", *flags, "--patience=0", "--trainer.max_epochs=8")
    assert "stopped" not in err


def test_patience_is_for_constant_rates_and_sets_to_validate_on():
    def patience(*args):
        cli = ModsCLI(CommandLine.parse("fit", ["--data.path=iris", *args]))
        return [c.patience for c in cli.trainer.callbacks if type(c).__name__ == "Patience"]

    assert patience() == []
    assert patience("--recipe=plain") == [20]
    assert patience("--recipe=plain", "--trainer.max_epochs=1000") == [200]
    assert patience("--recipe=plain", "--data.val_fraction=0") == []
    assert patience("--patience=7") == [7]


@pytest.mark.parametrize("given", ["soon", "-3"])
def test_a_patience_that_cannot_be_is_refused_in_a_line(given):
    with pytest.raises(UsageError, match=rf"--patience must be `auto` or a whole number of at least 0, not {given}\."):
        ModsCLI(CommandLine.parse("fit", ["--data.path=iris", f"--patience={given}"]))
