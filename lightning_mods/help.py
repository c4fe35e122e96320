"""`--help` where the model or the data module is somebody else's."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser
from pytorch_lightning import LightningDataModule, LightningModule, Trainer

from lightning_mods.arguments import merged_config
from lightning_mods.classes import find_class
from lightning_mods.quick import ABOUT, EXAMPLES
from lightning_mods.verbs import LINKED, MAX_EPOCHS, add_verb_arguments


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
