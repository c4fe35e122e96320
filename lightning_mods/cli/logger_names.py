"""Loggers by short name, `--trainer.logger=wandb`: what they mean, and what has to be installed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

import yaml

from lightning_mods.cli.arguments import UsageError, each_flag, read_config
from lightning_mods.loggers import BUILD_VISDOM

FLAG = "trainer.logger"
HERE = "."  # where a logger writes to of which nothing else was said; the run's folder takes its place


@dataclass(frozen=True)
class Named:
    """A logger that is known by a short name.

    Args:
        path: Of its class.
        package: What it needs that is not always there, as it is imported; empty for nothing.
        extra: Ours that brings it.
        folder: Whether its class must be told a folder.
        note: What else to know about installing it.
    """

    path: str
    package: str = ""
    extra: str = ""
    folder: bool = False
    note: str = ""


_LIGHTNING = "pytorch_lightning.loggers"
NAMED = {
    "tensorboard": Named("lightning_mods.loggers.tensorboard.EventLogger", folder=True),
    "wandb": Named(f"{_LIGHTNING}.WandbLogger", "wandb", "wandb"),
    "comet": Named(f"{_LIGHTNING}.CometLogger", "comet_ml", "comet"),
    "visdom": Named("lightning_mods.loggers.visdom.VisdomLogger", "visdom", "visdom", note=BUILD_VISDOM),
    "mlflow": Named(f"{_LIGHTNING}.MLFlowLogger", "mlflow", "mlflow"),
    "csv": Named(f"{_LIGHTNING}.CSVLogger", folder=True),
}
_CLASSES = {named.path.rpartition(".")[2]: named for named in NAMED.values()}
_CLASSES["OfflineCometLogger"] = Named("lightning_mods.loggers.comet.OfflineCometLogger", "comet_ml", "comet")
_PLAIN = ("true", "false", "null", "none", "")


def named_loggers(args: Sequence[str]) -> list[str]:
    """The command line with loggers' short names, also those in `--config` files, put as classes.

    Raises:
        UsageError: There is no such name, or the package it needs is not installed.
    """
    changed: list[str] = []
    for name, value, words in each_flag(args):
        if name == FLAG and value is not None and value.lower() not in _PLAIN:
            plus = "+" if words[0].partition("=")[0].endswith("+") else ""
            changed.append(f"--{FLAG}{plus}={_as_flag(_found(value, value))}")
        elif name in ("config", "c") and value is not None:
            changed += _config(value, words)
        else:
            changed += words
    return changed


def _config(value: str, words: list[str]) -> list[str]:
    content = read_config(value)
    trainer = content.get("trainer")
    asked = trainer.get("logger") if isinstance(trainer, dict) else None
    if not isinstance(asked, str | list | dict):
        return words
    found = _found(asked, json.dumps(asked, default=str))
    if found == asked:
        return words
    assert isinstance(trainer, dict)
    return [f"--config={json.dumps({**content, 'trainer': {**trainer, 'logger': found}}, default=str)}"]


def _found(asked: Any, text: str) -> Any:
    """A name, a class, or several of them, as jsonargparse takes them."""
    if isinstance(asked, str):
        inside = asked.strip()
        if inside[:1] in ("[", "{"):
            asked = yaml.safe_load(inside)
        elif "," in inside:
            asked = [each.strip() for each in inside.split(",")]
    if isinstance(asked, list):
        return [_found(each, str(each)) for each in asked]
    if isinstance(asked, dict):
        path = asked.get("class_path")
        return {**asked, "class_path": _one(path)[0]} if isinstance(path, str) else asked
    if not isinstance(asked, str):
        raise UsageError(f"--{FLAG} takes {_all()}; not {text}.")
    path, named = _one(asked)
    return {"class_path": path, "init_args": {"save_dir": HERE}} if named and named.folder else path


def _one(name: str) -> tuple[str, Named | None]:
    """The class that a name means, and what is known of it."""
    short = name.rpartition(".")[2]
    named = NAMED.get(name.lower()) or _CLASSES.get(short)
    if named is not None:
        if named.package and find_spec(named.package) is None:
            how = f"pip install 'lightning-mods[{named.extra}]'{named.note}"
            raise UsageError(f"--{FLAG}={name} needs the package {named.package}: {how}")
        return (named.path if "." not in name else name), named
    if "." not in name and (not name[:1].isupper() or near(name)):
        hint = near(name)
        raise UsageError(f"--{FLAG} knows no `{name}`{f'; did you mean {hint}?' if hint else '.'} It takes {_all()}.")
    return name, None


def near(name: str) -> str:
    """The short name that one that is misspelt is nearest to; empty if to none."""
    found = get_close_matches(name.lower().removesuffix("logger"), [*NAMED, "false"], 1, 0.6)
    return found[0] if found else ""


def _all() -> str:
    return f"{', '.join(NAMED)}, false, a list of these such as [tensorboard,csv], or a class"


def _as_flag(found: Any) -> str:
    return found if isinstance(found, str) else json.dumps(found)


def asked_for(logger: Any) -> Iterator[Any]:
    """The configurations of the loggers of a parsed command line, each with `class_path`; none for true and false."""
    for each in logger if isinstance(logger, list | tuple) else [logger]:
        if getattr(each, "class_path", None):
            yield each
