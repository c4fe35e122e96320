"""The space of a study: what the flags and configuration files say, and the default for what they leave out."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from callbacks.search.plan import SearchError
from callbacks.search.space import Space as Dimensions
from callbacks.search.space import batch_sizes, parse_space
from lightning_mods.cli.classes import own_arguments
from lightning_mods.cli.command_line import CommandLine, UsageError, read_config
from lightning_mods.cli.flags import LINKED
from lightning_mods.console.terminal import say
from lightning_mods.study.trial_cli import (
    StudyCLI,
    default_of,
    refused,
    takes_floats,
)


def short_names(names: Iterable[str]) -> dict[str, str]:
    """The last word of each flag, `lr` for `model.lr`; the whole one where two would be alike."""
    names = list(names)
    last = [name.rpartition(".")[2] for name in names]
    return {name: short if last.count(short) == 1 else name for name, short in zip(names, last, strict=True)}


def shown(value: Any) -> str:
    """A value in few letters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


LR = "log 1e-4..1"


def asked_space(line: CommandLine) -> tuple[CommandLine, dict[str, Any]]:
    """Take the space out of a command line.

    Args:
        line: The command line.

    Returns:
        The other flags, with the whole space as one `--space`, and the space: dotted name to what was said of it,
        later words winning.
    """
    asked: dict[str, Any] = {}
    for flag in line.flags:
        name, value = flag.name, flag.value
        if flag.config is not None:
            asked |= _flat(flag.config.get("space") or {}, str(value))
        elif name == "space" and value is not None:
            asked |= _flat(read_config(value) if value.lstrip().startswith("{") else value, "--space")
        elif name.startswith("space."):
            if value is None:
                raise UsageError(f"--{name} needs a range such as 0..0.5, or a list.")
            asked[name.removeprefix("space.")] = value
    rest = line.without("space")
    return rest.extended(after=[f"--space={json.dumps(asked)}"] if asked else []), asked


def _flat(found: Any, where: str, above: str = "") -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise UsageError(f"`space` is a mapping, such as {{model: {{dropout: 0..0.5}}}}; {where} has {found!r}.")
    flat: dict[str, Any] = {}
    for key, value in found.items():
        flat |= _flat(value, where, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


def build_space(cli: StudyCLI, line: CommandLine, asked: Mapping[str, Any]) -> Dimensions:
    """The space of a study.

    Args:
        cli: The command, its classes made.
        line: The flags as they were typed, to see what was given by hand.
        asked: What is to be searched, from `asked_space`.

    Raises:
        UsageError: A name that is no flag, a range that is none, or nothing to search.
    """
    known = _flags_there_are(cli)
    for name in asked:
        if name.startswith(("optimizer.", "lr_scheduler.")) and cli.config.get(name.partition(".")[0]) is None:
            group = name.partition(".")[0]
            raise UsageError(f"--space.{name} needs --{group}=CLASS, such as --{group}={_EXAMPLE[group]}.")
    searched = CommandLine.parse("study", [f"--space.{name}=" for name in asked])
    searched.refuse_unknown(f"space.{name}" for name in known)
    by_hand = line.typed
    space = {}
    for name, text in asked.items():
        if name in by_hand:
            say(f"note: --{name} is given, so it is not searched.")
        else:
            space[name] = _parse(cli, name, text)
    for name, text in _default(cli, known, asked).items():
        if name not in by_hand and cli.value(name) in (None, default_of(cli, name)):
            space[name] = parse_space(text)
    if not space:
        raise UsageError("there is nothing to search: give --space.model.NAME=0..1, or leave a flag to the study.")
    return space


def check_space(cli: StudyCLI, space: Dimensions) -> None:
    """See that the flags take what may be drawn: the bounds of a range, and every choice of a list.

    Raises:
        UsageError: One of them does not.
    """
    tried = {name: dimension.levels(2)[:_MANY] for name, dimension in space.items()}
    # All first values together, then all second ones, and so on: each look makes a model.
    rounds = zip_longest(*([(name, value) for value in values] for name, values in tried.items()))
    if not any(refused(cli, dict(filter(None, each))) for each in rounds):
        return
    for name, values in tried.items():
        for value in values:
            if reason := refused(cli, {name: value}):
                raise UsageError(f"--space.{name} includes {value!r}: {reason}")


_MANY = 50  # choices to try beforehand; each makes a model
_EXAMPLE = {"optimizer": "Adam", "lr_scheduler": "StepLR"}


def _parse(cli: StudyCLI, name: str, text: Any) -> Any:
    try:
        return parse_space(text, floats=takes_floats(cli, name))
    except SearchError as error:
        raise UsageError(f"--space.{name}: {error}") from None


def _flags_there_are(cli: StudyCLI) -> list[str]:
    known = [name for name in cli.parser.get_defaults().keys() if name.startswith("trainer.")]  # noqa: SIM118
    for section in ("model", "data", "optimizer", "lr_scheduler"):
        chosen = cli.class_of(section)
        known += [f"{section}.{name}" for name in (own_arguments(chosen) if chosen else []) if name not in LINKED]
    return known


def _default(cli: StudyCLI, known: Sequence[str], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Learning rate and batch size, where there are such flags and nothing else was said."""
    # An optimizer of the user's own brings its own learning rate: the model's is dead then.
    lr = "model.lr" if cli.class_of("optimizer") is None else "optimizer.lr"
    default = {lr: LR} if lr in known and not {"optimizer.lr", "model.lr"} & {*asked} else {}
    rows = cli.training_rows()
    if "data.batch_size" in known and "data.batch_size" not in asked and rows is not None:
        default["data.batch_size"] = str(batch_sizes(rows))
    return default
