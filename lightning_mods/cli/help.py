"""What can be said before torch and Lightning are imported: `--help`, and that a flag is misspelt."""

import argparse
import ast
import builtins
import inspect
import re
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_mods.cli.arguments import asks_for_help, merged_config, refuse_unknown, without
from lightning_mods.cli.flags import LINKED, MAX_EPOCHS, add_verb_arguments
from lightning_mods.cli.logger_names import named_loggers


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: Without dashes, such as `trainer.max_epochs`.
        kind: What it takes, in words such as `int | null`; empty where the source does not say it plainly.
        default: As one would type it; None where it must be given.
        about: What it does.
    """

    name: str
    kind: str
    default: str | None
    about: str


def flags_in(file: Path, name: str, section: str) -> tuple[str, list[Flag]]:
    """The flags of a class whose constructor names all its arguments.

    Args:
        file: Where the class stands.
        name: Of the class.
        section: What its flags begin with.

    Returns:
        The first line about the class, and its flags.

    Raises:
        LookupError: There is no such class in the file.
        OSError: There is no such file.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None:
        raise LookupError(f"no class {name} in {file.name}")
    made = next(node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    texts = [ast.get_docstring(found) or "", ast.get_docstring(made) or ""]
    about = {key: text for each in texts for key, text in described(each)}
    given = made.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(positional) - len(given.defaults)), *given.defaults, *given.kw_defaults]
    flags = [
        Flag(
            f"{section}.{each.arg}",
            kind_in_words(each.annotation),
            None if default is None else typed(ast.unparse(default)),
            about.get(each.arg, ""),
        )
        for each, default in zip([*positional, *given.kwonlyargs], defaults, strict=True)
        if each.arg != "self"
    ]
    head = next((text.splitlines()[0] for text in texts if text), "")
    return head.rstrip("."), flags


def flags_of(made: Callable[..., Any], section: str) -> tuple[str, list[Flag]]:
    """The same of a class that is cheap to import."""
    text = inspect.getdoc(made) or ""
    about = dict(described(text))
    flags = [
        Flag(
            f"{section}.{each.name}",
            kind_of(each.annotation),
            None if each.default is each.empty else typed(repr(each.default)),
            about.get(each.name, ""),
        )
        for each in inspect.signature(made).parameters.values()
    ]
    return next(iter(text.splitlines()), "").rstrip("."), flags


def described(text: str) -> Iterator[tuple[str, str]]:
    """What a docstring in Google's style says of each argument."""
    _, found, rest = inspect.cleandoc(text).partition("\nArgs:\n")
    section = re.split(r"^\S", rest, maxsplit=1, flags=re.MULTILINE)[0] if found else ""
    for entry in re.split(r"^    (?=\w+:)", section, flags=re.MULTILINE)[1:]:
        name, _, about = entry.partition(":")
        yield name, " ".join(about.split())


def kind_of(annotation: Any) -> str:
    """A type in words."""
    return kind_in_words(ast.parse(inspect.formatannotation(annotation), mode="eval").body)


def kind_in_words(node: ast.expr | None) -> str:
    """An annotation in words: `int | null`; empty if it says nothing to a person."""
    if node is None or (isinstance(node, ast.Name) and not hasattr(builtins, node.id)):
        return ""  # a name for a longer type
    text = _words(node)
    return "" if re.search(r"\b_", text) else text


def _words(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp):
        return f"{_words(node.left)} | {_words(node.right)}"
    if isinstance(node, ast.Subscript):
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        name = ast.unparse(node.value).rpartition(".")[2]
        if name == "Optional":
            return f"{_words(inside[0])} | null"
        if name == "Union":
            return " | ".join(map(_words, inside))
        if name == "Literal":
            return " | ".join(typed(ast.unparse(each)) for each in inside)
        return f"{name}[{', '.join(map(_words, inside))}]"
    if isinstance(node, ast.Attribute):
        return node.attr
    return "null" if isinstance(node, ast.Constant) and node.value is None else ast.unparse(node)


def typed(source: str) -> str:
    """A Python value as one would type it after a flag."""
    words = {"None": "null", "True": "true", "False": "false"}
    if re.fullmatch(r"'[^']*'", source):
        return source[1:-1]
    return words.get(source, source)


# Our classes by section, the first the one that is shown, and where they stand.
_OURS = {
    "data": {"TabularDataModule": "datamodules/tabular.py"},
    "model": {"MLPClassifier": "lightning_mods/classifier.py", "MLPRegressor": "lightning_mods/regressor.py"},
}
# What a section of a class has besides its arguments.
_CHOICE = ("class_path", "init_args", "dict_kwargs")


class FlagBook:
    """All flags of a verb for the classes that a command line names.

    Attributes:
        chapters: What belongs together: its title and its flags.
        known: Names of all flags, also of those that are not shown.

    Args:
        verb: `fit`, `validate`, `test`, `predict` or `study`.
        args: The command line.

    Raises:
        LookupError: A class is not ours, or stands elsewhere than it did.
        OSError: A class's source is not there.
        UsageError: A configuration file cannot be read.
    """

    def __init__(self, verb: str, args: Sequence[str]) -> None:
        own: list[Flag] = []
        self.chapters: dict[str, list[Flag]] = {"This command": own}
        self.known = {"config", "print_config", "help"}
        self._own = own
        add_verb_arguments(self, verb)
        self.add_argument("--config", help="YAML file with these flags; may be given more than once.")
        self.add_argument("--print_config", help="Print all settings as YAML and stop.")
        self.add_argument(
            "--seed_everything", type=int, default=0, help="Seed of the split, the weights and the order."
        )
        self.add_argument("--optimizer", help="Any of torch.optim, e.g. Adam, with --optimizer.lr and so on.")
        self.add_argument(
            "--lr_scheduler", help="Any of torch.optim.lr_scheduler, with --lr_scheduler.step_size and so on."
        )
        for section in ("data", "model"):
            self.known |= {f"{section}.{word}" for word in _CHOICE}
            for at, name in enumerate(_chosen(args, section)):
                self._add_class(section, name, _OURS[section][name], shown=at == 0)
        self._add_class("trainer", "Trainer", "pytorch_lightning/trainer/trainer.py", shown=True)

    # What `add_verb_arguments` asks of a parser.

    def add_argument(self, name: str, *, type: Any = None, default: Any = None, help: str = "") -> None:
        """Add a flag of the verb's own."""
        self.known.add(name.lstrip("-"))
        if help != SUPPRESS:
            kind = "" if type is None else kind_of(type)
            self._own.append(Flag(name.lstrip("-"), kind, typed(repr(default)), help))

    def add_class_arguments(self, made: type, section: str) -> None:
        """Add the flags of a class that is imported."""
        self._add(section, *flags_of(made, section), shown=True)

    def _add_class(self, section: str, name: str, place: str, *, shown: bool) -> None:
        package, _, rest = place.partition("/")
        spec = find_spec(package)  # of a package, so that nothing is imported
        if spec is None or not spec.submodule_search_locations:
            raise LookupError(f"no package {package}")
        self._add(section, *flags_in(Path(spec.submodule_search_locations[0]) / rest, name, section), shown=shown)

    def _add(self, section: str, title: str, flags: list[Flag], *, shown: bool) -> None:
        self.known |= {section, *(flag.name for flag in flags)}
        if shown:
            self.chapters[title] = flags


def _chosen(args: Sequence[str], section: str) -> list[str]:
    """Which of our classes may be meant: all where nothing is said, as the target then decides."""
    asked = merged_config(args, section).get("class_path")
    if asked is None:
        return list(_OURS[section])
    for name, place in _OURS[section].items():
        package = place.partition("/")[0]
        if asked in (name, f"{package}.{name}", f"{place.removesuffix('.py').replace('/', '.')}.{name}"):
            return [name]
    raise LookupError(f"{asked} is not ours")


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
