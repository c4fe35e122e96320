"""The meeting place: classes, links, optimizers and the trainer that come out of a command line."""

import copy
from argparse import ArgumentError
from collections import Counter
from importlib import import_module

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from callbacks import FitMonitor, GradientLogger, GradientMonitor, GraphLogger, TensorBoardLayout
from lightning_mods import MLPClassifier, MLPRegressor, fit
from lightning_mods.cli.command_line import CommandLine, UsageError
from lightning_mods.cli.lightning_cli import ModsCLI
from lightning_mods.runs import RUN_MARK
from lightning_mods.runs.checkpoints import BestCheckpoint, LastCheckpoint

# Lightning 2.6 itself calls names that jsonargparse 5 will drop.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"
)


class Foreign(pl.LightningModule):
    """Somebody else's model, with an argument that ours have not."""

    def __init__(self, width: int = 7):
        super().__init__()
        self.net = nn.Linear(4, width)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.003)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make(*args, path="iris", verb="fit", **kwargs):
    return ModsCLI(CommandLine.parse(verb, [f"--data.path={path}", *args]), **kwargs)


def test_the_target_chooses_the_model_and_the_data_its_widths():
    assert isinstance(make().model, MLPClassifier)
    model = make(path="diabetes").model
    assert isinstance(model, MLPRegressor)
    assert model.hparams.in_features == 145
    assert make("--data.bins=0", path="diabetes").model.hparams.in_features == 10
    assert model.target_std > 1


@pytest.fixture
def readings(monkeypatch):
    """How often a table was opened, and its target read."""
    counted = Counter()

    def counting(place, name):
        module = import_module(place)
        original = getattr(module, name)

        def read(*args, **kwargs):
            counted[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, read)

    counting("datamodules.preparation", "open_table")
    counting("datamodules.learned", "read_target")
    return counted


def test_a_table_that_is_asked_for_its_task_is_read_once(tmp_path, readings):
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{i * 7 % 23},{i * 0.37}\n" for i in range(60)))
    cli = make("--data.target=y", "--data.val_fraction=0.2", path="t.csv")
    assert isinstance(cli.model, MLPRegressor)
    assert (cli.datamodule.val_fraction, len(cli.datamodule.train_dataloader().dataset)) == (0.2, 39)
    assert readings == {"open_table": 1, "read_target": 1}
    assert "class_path: datamodules" in cli.parser.dump(cli.config)


def test_flags_that_only_the_parser_understands_make_the_data_module_anew(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,y\n" + "".join(f"{i * 7 % 23},{i % 7},{i * 0.37}\n" for i in range(60)))
    data = make("--data.target=y", "--data.drop+=b", "--data.bins=0", path="t.csv").datamodule
    assert (data.drop, data.feature_names) == (["b"], ["a"])


def test_a_width_given_by_hand_is_ignored_with_a_word(capsys):
    assert make("--model.in_features=9", "--data.bins=0").model.hparams.in_features == 4
    assert "note: --model.in_features is ignored, it comes from the data." in capsys.readouterr().err


def test_another_class_brings_its_own_defaults_and_refuses_the_first_ones_flags():
    assert make("--model=MLPRegressor", "--recipe=plain", path="diabetes").model.weight_decay == 1e-3
    with pytest.raises(UsageError, match=r"--model.class_weight is not a flag"):
        make("--model=MLPRegressor", "--model.class_weight=balanced", path="diabetes")


def test_a_model_for_the_other_task_is_refused_with_what_would_do():
    with pytest.raises(
        UsageError, match=r"makes this a classification; take --model=MLPClassifier, or say --data\.task"
    ):
        make("--model=MLPRegressor")


def test_a_foreign_model_takes_its_own_flags():
    model = make(f"--model={__name__}.Foreign", "--model.width=3").model
    assert model.net.out_features == 3
    with pytest.raises(UsageError, match=r"--model.widht is not a flag; did you mean --model.width\?"):
        make(f"--model={__name__}.Foreign", "--model.widht=3")


def test_a_copy_of_the_model_trains_its_own_weights_with_the_optimizer_of_the_flag():
    model = make("--optimizer=SGD", "--optimizer.lr=0.5").model
    twin = copy.deepcopy(model)
    optimizer = twin.configure_optimizers()
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in twin.parameters()}
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_scheduler_without_an_optimizer_goes_on_the_models_own():
    (optimizer,), (scheduler,) = make(
        "--lr_scheduler=StepLR", "--lr_scheduler.step_size=3", "--model.lr=0.25"
    ).model.configure_optimizers()
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert (scheduler.step_size, scheduler.optimizer) == (3, optimizer)
    (optimizer,), _ = make(
        f"--model={__name__}.Foreign", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=3"
    ).model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)


def test_an_lr_that_the_optimizers_replaces_gets_a_word(capsys):
    make("--optimizer=SGD", "--optimizer.lr=0.5", "--model.lr=0.1")
    assert "note: --model.lr is not used" in capsys.readouterr().err


def kinds(cli):
    return [type(callback) for callback in cli.trainer.callbacks]


def test_a_fit_gets_our_callbacks_and_a_checkpoint_of_the_users_replaces_the_best_alone():
    assert {TensorBoardLayout, FitMonitor, BestCheckpoint, LastCheckpoint} <= set(kinds(make()))
    theirs = kinds(make("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=5"))
    assert BestCheckpoint not in theirs
    assert LastCheckpoint in theirs
    assert LastCheckpoint not in kinds(make("--trainer.enable_checkpointing=false"))


def test_the_users_monitor_replaces_ours():
    cli = make("--trainer.callbacks+=FitMonitor", "--trainer.callbacks.stop=true")
    (monitor,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, FitMonitor)]
    assert monitor.stop


@pytest.mark.parametrize(
    ("flags", "epochs"),
    [
        ((), 40),
        (("--recipe=plain",), 30),
        (("--trainer.max_steps=7",), -1),
        (("--trainer.max_epochs=4", "--trainer.max_steps=7"), 4),
    ],
)
def test_who_limits_the_steps_is_not_limited_to_our_epochs(flags, epochs):
    assert make(*flags).trainer.max_epochs == epochs


def test_without_a_logger_each_run_still_has_a_folder_of_its_own(tmp_path):
    assert make("--trainer.logger=false").trainer.default_root_dir.endswith("version_0")
    (tmp_path / "lightning_logs" / "version_0").mkdir(parents=True)
    assert make("--trainer.logger=false").trainer.default_root_dir.endswith("version_1")


def test_the_configuration_that_is_written_bears_our_mark_and_no_checkpoint():
    cli = make("--trainer.max_epochs=3", "--ckpt_path=last")
    text = cli.parser.dump(cli.config)
    assert RUN_MARK in text.splitlines()[0]
    assert "ckpt_path: last" not in text


def watching(cli):
    kinds = (FitMonitor, GradientMonitor, GradientLogger, GraphLogger)
    return [callback for callback in cli.trainer.callbacks if isinstance(callback, kinds)]


def test_all_that_look_on_do_so_unless_told_otherwise():
    kinds = [FitMonitor, GradientMonitor, GradientLogger, GraphLogger]
    assert [type(callback) for callback in watching(make())] == kinds
    assert [type(callback) for callback in watching(make("--watch=[health,graph]"))] == [GradientMonitor, GraphLogger]
    assert [type(callback) for callback in watching(make("--watch=fit"))] == [FitMonitor]
    assert watching(make("--watch=[]")) == []


def test_a_watcher_of_the_users_own_takes_the_place_of_ours():
    own = "--trainer.callbacks.init_args.on_nonfinite=skip"
    found = watching(make("--trainer.callbacks+=GradientMonitor", own, "--watch=[health]"))
    assert [callback.on_nonfinite for callback in found] == ["skip"]


def test_what_looks_on_is_refused_where_it_is_no_such_thing():
    with pytest.raises(ArgumentError, match="watch"):
        make("--watch=[loss]")


def test_a_loss_that_is_not_finite_ends_a_fit_told_to_raise_in_one_line(capsys):
    told = ["--trainer.callbacks+=GradientMonitor", "--trainer.callbacks.on_nonfinite=raise", "--watch=[]"]
    with pytest.raises(SystemExit) as ended:
        fit.main(["--data.path=iris", "--model.lr=1e30", "--trainer.max_epochs=3", "--trainer.logger=false", *told])
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("fit: non finite in `network.layers.")


def test_the_last_word_of_a_fit_says_once_what_both_monitors_have_found(capsys):
    fit.main(["--data.path=iris", "--trainer.max_epochs=1", "--trainer.logger=false"])
    said = capsys.readouterr()
    lines = said.out.partition("\n\nverdict ")[2].splitlines()
    assert lines[2].startswith("health       nothing wrong over ")
    assert "GradientMonitor" not in said.err
