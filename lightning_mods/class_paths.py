"""Class paths on a command line and in configuration files that were written where `callbacks` means our package."""

import json
import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from lightning_mods.arguments import each_flag, read_config
from lightning_mods.siblings import NAMES, shadowed

_OURS = re.compile(rf"(?<![\w.])(?:{'|'.join(NAMES)})(?:\.\w+)+")
_LONG = re.compile(rf"\blightning_mods\.(?=(?:{'|'.join(NAMES)})\.)")


def with_own_classes(args: Sequence[str]) -> list[str]:
    """Return the command line with our class paths as they can be imported in this project.

    `callbacks.FitMonitor` becomes `lightning_mods.callbacks.FitMonitor` where `callbacks` is a package of the user's
    without such a name, also in `--config` files.

    Raises:
        UsageError: A configuration file cannot be read.
    """
    if not shadowed():
        return list(args)
    changed: list[str] = []
    for name, value, words in each_flag(args):
        if name in ("config", "c") and value is not None:
            content = read_config(value)
            found = _importable(content)
            changed += words if found == content else [f"--config={json.dumps(found, default=str)}"]
        else:
            changed += map(_importable, words)
    return changed


def short(text: str) -> str:
    """Return a text with our class paths as they read in a project that has no such folder of its own."""
    return _LONG.sub("", text)


def _importable(value: Any) -> Any:
    if isinstance(value, dict):
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
