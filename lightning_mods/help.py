"""`--help`: our own flags first, then those of Lightning's Trainer."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser
from pytorch_lightning import LightningDataModule, LightningModule, Trainer

from lightning_mods.arguments import merged_config
from lightning_mods.classes import LINKED, find_class
from lightning_mods.verbs import MAX_EPOCHS, add_verb_arguments

_ABOUT = {
    "fit": "Train an MLP on a table; with no flags at all, on the digits that scikit-learn brings.",
    "validate": "Evaluate a checkpoint on the validation set.",
    "test": "Evaluate a checkpoint on the test set.",
    "predict": "Predict the rows of a file with a checkpoint and write a CSV.",
    "study": "Search learning rate, batch size and any other flag of `fit` with Optuna; the same command goes on.",
}
_EXAMPLES = {
    "fit": "--data.path=table.csv --data.target=price --trainer.max_epochs=50 --model.lr=0.01",
    "validate": "--ckpt_path=best",
    "test": "--ckpt_path=best --data.test_path=more.csv",
    "predict": "--ckpt_path=best --data.predict_path=new.csv --output=predictions.csv",
    "study": "--data.path=table.csv --data.target=price --study.n_trials=50 --space.model.dropout=0..0.5",
}


def print_help(verb: str, args: Sequence[str]) -> None:
    """Print the help of a verb, for the model and data module that the command line names."""
    parser = ArgumentParser(
        prog=f"python -m lightning_mods.{verb}",
        usage=f"python -m lightning_mods.{verb} {_EXAMPLES[verb]}",
        description=_ABOUT[verb],
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
