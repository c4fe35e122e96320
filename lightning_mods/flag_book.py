"""`FlagBook`: the flags of a verb, from the source of the classes they belong to, without torch or Lightning."""

from argparse import SUPPRESS
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_mods.arguments import merged_config
from lightning_mods.class_paths import short
from lightning_mods.flag_source import Flag, flags_in, flags_of, kind_of, typed
from lightning_mods.verbs import add_verb_arguments

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
        if place in _OURS.get(section, {}).values():  # beside us, whatever the user calls by its name
            self._add(section, *flags_in(Path(__file__).parent.parent / place, name, section), shown=shown)
            return
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
    asked = short(str(asked))
    for name, place in _OURS[section].items():
        package = place.partition("/")[0]
        if asked in (name, f"{package}.{name}", f"{place.removesuffix('.py').replace('/', '.')}.{name}"):
            return [name]
    raise LookupError(f"{asked} is not ours")
