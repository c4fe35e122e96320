"""What can be said before torch and Lightning are imported: `--help`, and that a flag is misspelt."""

import argparse
import sys
from collections.abc import Sequence

from lightning_mods.arguments import asks_for_help, refuse_unknown, without
from lightning_mods.flag_book import FlagBook
from lightning_mods.flag_source import Flag
from lightning_mods.logger_names import named_loggers
from lightning_mods.verbs import LINKED, MAX_EPOCHS

ABOUT = {
    "fit": "Train an MLP on a table; with no flags at all, on the digits that scikit-learn brings.",
    "validate": "Evaluate a checkpoint on the validation set.",
    "test": "Evaluate a checkpoint on the test set.",
    "predict": "Predict the rows of a file with a checkpoint and write a CSV.",
    "export": "Write the model of a checkpoint, with its preprocessing, as a file for other programs.",
    "study": "Search learning rate, batch size and any other flag of `fit` with Optuna; the same command goes on.",
}
EXAMPLES = {
    "fit": "--data.path=table.csv --data.target=price --trainer.max_epochs=50 --model.lr=0.01",
    "validate": "--ckpt_path=best",
    "test": "--ckpt_path=best --data.test_path=more.csv",
    "predict": "--ckpt_path=best --data.predict_path=new.csv --output=predictions.csv",
    "export": "--ckpt_path=best --format=onnx --output=model.onnx",
    "study": "--data.path=table.csv --data.target=price --study.n_trials=50 --space.model.dropout=0..0.5",
}


def answered(verb: str, args: Sequence[str]) -> bool:
    """Print the help where it is asked for, refuse a misspelt flag; both for our own classes only.

    Args:
        verb: `fit`, `validate`, `test`, `predict`, `export` or `study`.
        args: The command line.

    Returns:
        Whether there is nothing left to do.

    Raises:
        UsageError: A flag is misspelt, or a logger's name.
    """
    args = named_loggers(args)
    try:
        book = FlagBook(verb, args)
    except (LookupError, OSError):
        return False  # who imports the class knows
    if asks_for_help(args):
        print_book(verb, book)
        return True
    refuse_unknown(without(args, "space") if verb == "study" else args, book.known)
    return False


def print_book(verb: str, book: FlagBook) -> None:
    """Print the help of a verb."""
    parser = argparse.ArgumentParser(
        prog=f"python -m lightning_mods.{verb}",
        usage=f"python -m lightning_mods.{verb} {EXAMPLES[verb]}",
        description=ABOUT[verb],
        epilog="What takes a class has flags of its own: --trainer.callbacks.help=EarlyStopping lists them.",
        add_help=False,
    )
    for title, chapter in book.chapters.items():
        group = parser.add_argument_group(title)
        for flag in chapter:
            section, _, name = flag.name.rpartition(".")
            if not (section == "model" and name in LINKED):
                group.add_argument(f"--{flag.name}", metavar=name.upper(), help=_line(flag))
    parser.print_help(sys.stdout)


def _line(flag: Flag) -> str:
    default = str(MAX_EPOCHS) if flag.name == "trainer.max_epochs" else flag.default
    facts = [f"type: {flag.kind}"] if flag.kind else []
    facts += [f"default: {default}"] if default is not None else []
    return f"{flag.about} ({', '.join(facts)})".replace("%", "%%").strip()
