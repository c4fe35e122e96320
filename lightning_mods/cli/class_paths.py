"""Class paths on a command line and in configuration files that were written where `callbacks` means our package."""

import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

from lightning_mods.cli.command_line import CommandLine, Flag
from lightning_mods.cli.siblings import NAMES, shadowed

_OURS = re.compile(rf"(?<![\w.])(?:{'|'.join(NAMES)})(?:\.\w+)+")
_LONG = re.compile(rf"\blightning_mods\.(?=(?:{'|'.join(NAMES)})\.)")


def with_own_classes(line: CommandLine) -> CommandLine:
    """Return the command line with our class paths as they can be imported in this project.

    `callbacks.FitMonitor` becomes `lightning_mods.callbacks.FitMonitor` where `callbacks` is a package of the user's
    without such a name, also in `--config` files.
    """
    return replace(line, flags=tuple(map(_own, line.flags))) if shadowed() else line


def _own(flag: Flag) -> Flag:
    if flag.config is not None:
        found = _importable(flag.config)
        return flag if found == flag.config else flag.with_config(found)
    return replace(flag, value=_importable(flag.value), words=tuple(map(_importable, flag.words)))


def short(text: str) -> str:
    """Return a text with our class paths as they read in a project that has no such folder of its own."""
    return _LONG.sub("", text)


def _importable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _importable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_importable(each) for each in value]
    return _OURS.sub(lambda found: _path(found[0]), value) if isinstance(value, str) else value


def _path(path: str) -> str:
    ours = f"lightning_mods.{path}"
    return ours if path.partition(".")[0] in shadowed() and _exists(ours) and not _exists(path) else path


def _exists(path: str) -> bool:
    module, _, name = path.rpartition(".")
    try:
        return hasattr(import_module(module), name)
    except ImportError:
        return False
