"""Running a verb: which checkpoint and which classes are meant, and how a mistake ends."""

import json
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule, LightningModule, Trainer

from callbacks.health.nonfinite import NonFiniteError
from datamodules import DataError, TabularDataModule
from lightning_mods.checkpoints import read_checkpoint
from lightning_mods.cli.arguments import (
    UsageError,
    asks_for_help,
    explain,
    flags,
    merged_config,
    said,
    without_sections,
)
from lightning_mods.cli.flags import LINKED, MAX_EPOCHS, add_verb_arguments
from lightning_mods.cli.help import ABOUT, EXAMPLES
from lightning_mods.cli.lightning_cli import OURS, ModsCLI, find_class, own_arguments
from lightning_mods.console.terminal import quiet, say, writers_report_once
from lightning_mods.runs import RunError, find_checkpoint


def print_help(verb: str, args: Sequence[str]) -> None:
    """Print the help of a verb, for the model and data module that the command line names."""
    parser = ArgumentParser(
        prog=f"python -m lightning_mods.{verb}",
        usage=f"python -m lightning_mods.{verb} {EXAMPLES[verb]}",
        description=ABOUT[verb],
        add_help=False,
    )
    if verb == "study":  # a class's flags make a group of their own
        add_verb_arguments(parser, verb)
    general = parser.add_argument_group("This command")
    if verb != "study":
        add_verb_arguments(general, verb)
    general.add_argument("--config", "-c", help="YAML file with these flags; may be given more than once.")
    general.add_argument("--print_config", metavar="", help="Print all settings as YAML and stop.")
    general.add_argument("--seed_everything", type=int, default=0, help="Seed of the split, the weights and the order.")
    general.add_argument("--optimizer", help="Any of torch.optim, e.g. Adam, with --optimizer.lr and so on.")
    general.add_argument("--lr_scheduler", help="Any of torch.optim.lr_scheduler, with --lr_scheduler.step_size …")
    _add(parser, _chosen(args, "data", LightningDataModule, "TabularDataModule"), "data")
    _add(parser, _chosen(args, "model", LightningModule, "MLPClassifier"), "model")
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False)
    parser.set_defaults({"trainer.max_epochs": MAX_EPOCHS})
    parser.print_help()


def _chosen(args: Sequence[str], section: str, base: type, default: str) -> type:
    return find_class(merged_config(args, section).get("class_path") or default, base)


def _add(parser: Any, chosen: type, section: str) -> None:
    # What comes from the data is no flag of the user's.
    parser.add_class_arguments(chosen, section, fail_untyped=False, instantiate=False, skip=set(LINKED))


def with_classes(args: Sequence[str], checkpoint: dict[str, Any] | None) -> list[str]:
    """The command line with the model's and the data module's class put first where it names none.

    From a checkpoint come the hyperparameters of our own classes; for a foreign class the user gives the flags, as a
    file must not decide which code runs. Without a checkpoint the task the target asks for decides the model.
    """
    model, data = merged_config(args, "model").get("class_path"), merged_config(args, "data").get("class_path")
    base = _remembered(checkpoint, model, data) if checkpoint else {}
    prefix = [f"--config={json.dumps(base)}"] if base else []
    if not data and "data" not in base:
        prefix.append("--data=TabularDataModule")
    if not model and "model" not in base:
        prefix.append(f"--model={_model_for(args, data)}")
    return [*prefix, *args]


def _remembered(checkpoint: dict[str, Any], model: str | None, data: str | None) -> dict[str, Any]:
    names = checkpoint.get("lightning_mods", {})
    kept = {"model": ("hyper_parameters", model), "data": ("datamodule_hyper_parameters", data)}
    base = {}
    for section, (key, chosen) in kept.items():
        name = names.get(section)
        if name in OURS and (chosen is None or chosen.rpartition(".")[2] == name):
            values = {k: v for k, v in checkpoint.get(key, {}).items() if k in own_arguments(OURS[name])}
            base[section] = {
                "class_path": f"{OURS[name].__module__}.{name}",
                "init_args": {k: v for k, v in values.items() if k not in LINKED},
            }
    return base


def _model_for(args: Sequence[str], data: str | None) -> str:
    if data and find_class(data, LightningDataModule) is not TabularDataModule:
        raise UsageError(f"--model CLASS is needed with --data={data}: its task is not known.")
    typed = merged_config(args, "data").get("init_args", {})
    keys = ("path", "target", "task", "drop_missing_target")
    asked = {key: typed[key] for key in keys if typed.get(key) is not None}
    task = TabularDataModule(**asked).task
    return {"classification": "MLPClassifier", "regression": "MLPRegressor"}[task]


def run(verb: str, args: Sequence[str], act: Callable[[ModsCLI, Path | None], None]) -> None:
    """Run a verb: parse, instantiate, `act`. A person's mistake ends in one line and exit code 2.

    Args:
        verb: `fit`, `validate`, `test` or `predict`.
        args: The command line.
        act: What to do with the CLI and the checkpoint that `--ckpt_path` means.
    """
    given = list(args)
    with mistakes_in_one_line(verb):
        quiet()
        if asks_for_help(given):
            print_help(verb, given)
            return
        given = without_sections(given, ("study", "space"))
        path = _checkpoint_path(verb, given)
        checkpoint = read_checkpoint(path) if path else None
        state = checkpoint.get(TabularDataModule.__qualname__) if checkpoint else None
        cli = ModsCLI(
            verb,
            with_classes(given, checkpoint),
            data_state=state,
            resumed=path if verb == "fit" else None,
        )
        del checkpoint
        with writers_report_once():
            act(cli, path)


@contextmanager
def mistakes_in_one_line(verb: str) -> Iterator[None]:
    """End a person's mistake in one line and exit code 2.

    Args:
        verb: Who is speaking.
    """
    try:
        yield
    except (
        UsageError,
        RunError,
        DataError,
        ArgumentError,
        MisconfigurationException,
        NonFiniteError,
        OSError,
    ) as error:
        sys.stderr.write(f"{verb}: {explain(error)}\n")
        raise SystemExit(2) from None


def _checkpoint_path(verb: str, args: Sequence[str]) -> Path | None:
    which = (
        said(args, "ckpt_path")
        if verb == "fit"
        else next((value for name, value in reversed(list(flags(args))) if name == "ckpt_path" and value), "best")
    )
    if which is None:
        return None
    root = Path(said(args, "trainer.default_root_dir") or ".")
    path = find_checkpoint(str(which), root)
    if path is None and (verb != "fit" or which == "best"):
        raise RunError(f"--ckpt_path={which} needs a run of `lightning_mods.fit` with a checkpoint under {root}.")
    if path is None:
        say(f"note: there is no checkpoint under {root} yet; training starts anew.")
    return path
