"""The classes of a command line: by short name, from a checkpoint, or as the target asks for."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from callbacks.host.inputs import as_yaml
from callbacks.host.lightning import (
    LightningArgumentParser,
    LightningCLI,
    LightningDataModule,
    MisconfigurationException,
)
from callbacks.host.secrets import without_secrets
from datamodules import DataError, TabularDataModule
from lightning_mods.cli.command_line import (
    CommandLine,
    UsageError,
    causes_of,
    error_line,
    mistakes_named,
    raised_in,
    words_of,
)
from lightning_mods.cli.flags import LINKED
from lightning_mods.cli.siblings import OUR_PACKAGES
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.ensemble import MLPEnsemble
from lightning_mods.models.regressor import MLPRegressor
from lightning_mods.runs import RunError

# Our own classes, by the short name that the command line and our checkpoints use.
OURS: dict[str, type] = {c.__name__: c for c in (MLPClassifier, MLPRegressor, MLPEnsemble, TabularDataModule)}
# By task: the model for it, and the other task.
BY_TASK = {"classification": ("MLPClassifier", "regression"), "regression": ("MLPRegressor", "classification")}
# What a section of a class has besides its arguments.
CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")


class ModsParser(LightningArgumentParser):
    """The parser of the verbs: what it writes of a configuration has no passwords, keys or tokens."""

    def dump(self, namespace: Namespace, *args: Any, hide: bool = True, **kwargs: Any) -> str:
        """Return a configuration as YAML, with `***` in the place of each secret; not to `hide` is for this process."""
        # A class within a configuration has a parser of its own, of this kind, which is not told.
        before = _HIDES.set(hide and _HIDES.get())
        try:
            shown = without_secrets(namespace) if _HIDES.get() else namespace
            text: str = super().dump(shown, *args, **kwargs)
        finally:
            _HIDES.reset(before)
        return text


_HIDES: ContextVar[bool] = ContextVar("hides", default=True)


# The flag that takes a class of a kind, for the messages.
_FLAG_OF = {
    **{"LightningModule": "model", "LightningDataModule": "data", "Optimizer": "optimizer"},
    **{"LRScheduler": "lr_scheduler", "Callback": "trainer.callbacks", "Logger": "trainer.logger"},
}


def find_class(name: str, base: type) -> type:
    """Return the subclass of `base` that a dotted path means, or the short name of one imported; else a UsageError."""
    if name in OURS and issubclass(OURS[name], base):
        return OURS[name]
    if base is LightningDataModule and (Path(name).is_file() or Path(name).suffix in (".csv", ".tsv", ".parquet")):
        raise UsageError(f"--data names a data module; a table is given as --data.path={name}.")
    asked = f"--{_FLAG_OF.get(base.__name__, 'config')}: {name}"
    module, _, short = name.rpartition(".")
    if module:
        with mistakes_named(f"{asked} is needed as a {base.__name__}, but cannot be imported"):
            found = import_class(name)
    else:
        found = next((known for known in _subclasses(base) if known.__name__ == name), None)
    if not isinstance(found, type) or not issubclass(found, base):
        names = {known.__name__.lower(): known.__name__ for known in _subclasses(base)}
        near = get_close_matches(short.lower(), names, 1)
        hint = f"; did you mean {names[near[0]]}?" if near else "; give `package.module.Class`."
        raise UsageError(f"{asked} is no {base.__name__} known here{hint}")
    return found


def import_class(path: str) -> Any:
    """Import what a dotted path means, by a former path of a class of ours too: faces know these as attributes."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module or "." not in module:
            raise
        return getattr(import_class(module), name)


@contextmanager
def made_from_flags(flag: str) -> Iterator[None]:
    """Make a UsageError of what a constructor raises on the arguments that a person gave it.

    An error that our own code raises is a defect, unless it is a ValueError, and goes on as it is.
    """
    try:
        yield
    except (UsageError, DataError, RunError, MisconfigurationException):
        raise
    except Exception as error:
        if any(isinstance(each, UsageError | DataError | RunError) for each in causes_of(error)):
            raise UsageError(error_line(error)) from error
        if not isinstance(error, ValueError) and raised_in(error).partition(".")[0] in OUR_PACKAGES:
            raise
        made = [frame.f_locals.get("self") for frame, _ in walk_tb(error.__traceback__) if _is_constructor(frame)]
        named = re.search(r"class_path='(?:[\w.]*\.)?(\w+)'", str(error))  # by jsonargparse, which keeps no cause
        usual = named[1] if named else flag
        chosen = next((type(each).__name__ for each in made if not isinstance(each, LightningCLI)), usual)
        raise UsageError(f"{chosen} cannot be made with these flags; {words_of(error)}.") from error


def _is_constructor(frame: FrameType) -> bool:
    return frame.f_code.co_name == "__init__"


@cache  # 12 ms, and every trial of a study asks
def own_arguments(chosen: type) -> tuple[str, ...]:
    """Name the arguments of a class's constructor, those of its parents behind `**kwargs` included."""
    added: list[str] = ArgumentParser().add_class_arguments(chosen, "own", fail_untyped=False)
    return tuple(name.removeprefix("own.") for name in added)


def _subclasses(base: type) -> Iterator[type]:
    known: type
    for known in base.__subclasses__():
        yield known
        yield from _subclasses(known)


def with_classes(line: CommandLine, checkpoint: dict[str, Any] | None) -> tuple[CommandLine, TabularDataModule | None]:
    """Put the model's and the data module's class first on a command line that names none.

    From a checkpoint come the hyperparameters of our own classes; for a foreign class the user gives the flags, as a
    file must not decide which code runs. Without a checkpoint the task the target asks for decides the model: the data
    module that has read the table for it, if it had to, comes second.
    """
    model, data = line.section("model").get("class_path"), line.section("data").get("class_path")
    base = _remembered(_as_member(line, checkpoint), model, data) if checkpoint else {}
    words = [f"--config={as_yaml(base)}"] if base else []
    table = None
    is_ours = checkpoint is None or any(name.startswith("network.") for name in checkpoint.get("state_dict", {}))
    if not (model or "model" in base or is_ours):
        raise UsageError("the checkpoint is of no model of ours; name its class: --model=package.module.Class.")
    if not data and "data" not in base:
        words.append("--data=TabularDataModule")
    if not model and "model" not in base:
        if data and find_class(data, LightningDataModule) is not TabularDataModule:
            raise UsageError(f"--model CLASS is needed with --data={data}: its task is not known.")
        table = asked_table(line)
        words.append(f"--model={BY_TASK[table.task][0]}")
    return line.extended(before=words), table


def _as_member(line: CommandLine, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Describe a checkpoint of an ensemble by a member where the line asks for an ensemble: so its flags are known."""
    asked, names = line.said("ensemble"), checkpoint.get("lightning_mods", {})
    if asked is None:
        return checkpoint
    is_ensemble, kept = names.get("model") == MLPEnsemble.__name__, checkpoint.get("hyper_parameters", {})
    count = len(kept["settings"]) if is_ensemble else 1
    if str(asked) != str(count):
        what = f"an ensemble of {count}" if is_ensemble else "one model"
        raise UsageError(f"--ensemble={asked} does not fit the checkpoint, which holds {what}.")
    if not is_ensemble:
        return checkpoint
    of_member = {"lightning_mods": {**names, "model": kept["member"]}, "hyper_parameters": kept["settings"][0]}
    return {**checkpoint, **of_member}


def _remembered(checkpoint: dict[str, Any], model: str | None, data: str | None) -> dict[str, Any]:
    names = checkpoint.get("lightning_mods", {})
    kept = {"model": ("hyper_parameters", model), "data": ("datamodule_hyper_parameters", data)}
    base = {}
    for section, (key, chosen) in kept.items():
        name = names.get(section)
        if name in OURS and (chosen is None or chosen.rpartition(".")[2] == name):
            known = {*own_arguments(OURS[name])} - {*LINKED}
            values = {argument: value for argument, value in checkpoint.get(key, {}).items() if argument in known}
            base[section] = {"class_path": f"{OURS[name].__module__}.{name}", "init_args": values}
    return base


def asked_table(line: CommandLine) -> TabularDataModule:
    """Make the data module of ours that a command line asks for, before the rest of it is parsed."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(TabularDataModule, "data", fail_untyped=False)
    known, words = own_arguments(TabularDataModule), []
    for flag in line.flags:
        name = flag.name.removeprefix("data.").removeprefix("init_args.")
        if flag.config is not None:
            said = replace(line, flags=(flag,)).section("data").get("init_args", {})
            words.append(f"--config={as_yaml({'data': {key: said[key] for key in said if key in known}})}")
        elif flag.name.startswith("data.") and name in known and flag.value is not None:
            # as it was typed: `1` may be the name of a column
            words.append(f"--data.{name}{'+' * flag.appends}={flag.value}")
    with mistakes_named("--data"):
        given = parser.parse_args(words).data
    return TabularDataModule(**given.as_dict())
