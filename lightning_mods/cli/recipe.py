"""The recipe: what `fit` and `study` set where nobody says anything, by the size of the table and its task."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from callbacks.host.inputs import as_yaml
from callbacks.host.lightning import LightningDataModule, LightningModule
from datamodules import TabularDataModule
from lightning_mods.cli.classes import asked_table, find_class
from lightning_mods.cli.command_line import CommandLine
from lightning_mods.cli.flags import MAX_EPOCHS
from lightning_mods.loggers.terminal import say
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.ensemble import MLPEnsemble
from lightning_mods.models.regressor import MLPRegressor

BINS = 16  # of each column of numbers
EPOCHS, LEAST_EPOCHS = 40, 10
MOST_ROWS = 1_200_000  # gone over in all, where that leaves the least epochs


@dataclass(frozen=True)
class TableFacts:
    """What the recipe goes by."""

    rows: int  # for training
    task: str


def trainer_settings(recipe: str, facts: TableFacts | None) -> dict[str, Any]:
    """Return what a recipe asks of the trainer; without facts what holds for any data."""
    if recipe == "plain" or facts is None:
        return {"max_epochs": MAX_EPOCHS}
    return {"max_epochs": epochs(facts.rows), "gradient_clip_val": 0.3}


def epochs(rows: int) -> int:
    """Return the passes over so many training rows: 40, of a large table as many as see 1.2 million, at least 10."""
    return max(LEAST_EPOCHS, min(EPOCHS, round(MOST_ROWS / rows)))


def model_settings(facts: TableFacts) -> dict[str, Any]:
    """Return what the default recipe asks of an MLP of ours."""
    decay = min(5 / facts.rows, 0.02) if facts.task == "classification" else min(20 / facts.rows, 2e-3)
    settings = {"lr": 0.5, "nesterov": True, "weight_decay": decay, "lr_schedule": "cosine", "ema_epochs": 2.0}
    return {**settings, "input_scaling": True}


def batch_size(rows: int) -> int | str:
    """Return the rows of a mini-batch, a power of two: an eighth of a small table, 32 at least, then 128 to 512."""
    if rows < 8 * 32:
        return "auto"
    return min(1 << int(math.log2(rows / 8)), max(128, min(512, 1 << int(math.log2(rows / 128)))))


def with_recipe(
    line: CommandLine, table: TabularDataModule | None, checkpoint: dict[str, Any] | None
) -> tuple[CommandLine, TabularDataModule | None]:
    """Put what the recipe says first on a command line that names its classes, so that whatever is typed wins.

    The data module that has read the table, where one has, goes with it. A run that goes on has its model and data in
    the checkpoint; the trainer's settings are those of its recipe.
    """
    if line.verb not in ("fit", "study"):
        return line, table
    model = find_class(line.section("model")["class_path"], LightningModule)
    data = find_class(line.section("data")["class_path"], LightningDataModule)
    ours = model in (MLPClassifier, MLPRegressor, MLPEnsemble) and data is TabularDataModule
    recipe = _recipe_of(line, checkpoint) if ours else "plain"
    if not ours and line.said("recipe") not in (None, "plain"):
        say("note: --recipe is not used, it is for our MLPs on a TabularDataModule.")
    config: dict[str, Any] = {"recipe": recipe, **_seed_in(checkpoint)}
    facts = _facts_in(checkpoint) if checkpoint else None
    if ours and checkpoint is None and recipe != "plain":
        table = asked_table(line) if table is None else table
        facts = TableFacts(_training_rows(table), table.task)
        for_data = {"bins": BINS, "batch_size": batch_size(facts.rows)}
        said = line.section("data").get("init_args", {})
        table = table.like(**{name: value for name, value in for_data.items() if name not in said})
        config["data"] = {"class_path": _path(data), "init_args": for_data}
        if model is not MLPEnsemble:  # its members' settings are given
            config["model"] = {"class_path": _path(model), "init_args": _fitting(model_settings(facts), line)}
    config["trainer"] = _fitting(trainer_settings(recipe, facts), line)
    return line.extended(before=[f"--config={as_yaml(config)}"]), table


def _training_rows(table: TabularDataModule) -> int:
    """Return the rows to train on, with folds the fewest of any: all of them are to have the same settings."""
    return of_folds(table.like(fold=0).n_train, table.folds) if table.folds else table.n_train


def of_folds(rows: int, folds: int) -> int:
    """Return how many of so many rows are left to train on when the largest of some folds is held out."""
    return rows - math.ceil(rows / folds)


def _path(chosen: type) -> str:
    return f"{chosen.__module__}.{chosen.__qualname__}"


def _facts_in(checkpoint: Mapping[str, Any]) -> TableFacts | None:
    """What the data module of a checkpoint knew of its table."""
    learned = checkpoint.get(TabularDataModule.__qualname__)
    if not learned:
        return None
    sizes, folds = learned["sizes"], learned.get("folds", 0)
    rows = of_folds(sizes["train"] + sizes["val"], folds) if folds else sizes["train"]
    return TableFacts(rows, learned["task"])


def _seed_in(checkpoint: Mapping[str, Any] | None) -> dict[str, int]:
    """The seed of the run that goes on, to be written down again."""
    seed = (checkpoint or {}).get("lightning_mods", {}).get("settings", {}).get("seed_everything", "")
    return {"seed_everything": int(seed)} if seed.isdigit() else {}


def _recipe_of(line: CommandLine, checkpoint: Mapping[str, Any] | None) -> str:
    """The recipe that is asked for, else that of the run that goes on, else the default.

    Runs and configuration files from before there were recipes are plain.
    """
    said = line.said("recipe")
    if said is not None:
        return str(said)
    if checkpoint is not None:
        return str(checkpoint.get("lightning_mods", {}).get("recipe", "plain"))
    return "plain" if any(_is_whole(flag.config) for flag in line.flags if flag.config) else "default"


def _is_whole(config: Mapping[str, Any]) -> bool:
    """Whether a configuration has all settings, as a fit writes them down, and not some that a person chose."""
    trainer = config.get("trainer")
    return isinstance(trainer, Mapping) and "fast_dev_run" in trainer


def _fitting(settings: Mapping[str, Any], line: CommandLine) -> dict[str, Any]:
    """Leave out what contradicts the command line: its own optimizer or schedule, momentum or limit."""
    left = dict(settings)
    if line.said("optimizer") is not None or line.said("lr_scheduler") is not None:
        left.pop("lr_schedule", None)
    if line.said("model.momentum") in (0, "0", "0.0"):
        left.pop("nesterov", None)
    if line.said("trainer.max_steps") is not None or line.said("trainer.max_time") is not None:
        left.pop("max_epochs", None)
    return left
