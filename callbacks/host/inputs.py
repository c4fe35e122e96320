"""What came from outside: files read up to a limit and never waited for, and YAML of any sort as plain values."""

import json
import math
import os
import re
import select
import stat
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_PATIENCE = 10.0  # seconds for a pipe to say something
_BLOCK = 1 << 20


def read_bounded(path: Path, most: int) -> tuple[bytes, bool]:
    """Return the first `most` bytes of a file, device or pipe, and whether that is all of it.

    Raises:
        OSError: It cannot be read, or nothing comes out of it for ten seconds.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL in the name, or what is no text in any encoding of file names
        raise OSError(0, f"{error}".capitalize(), str(path)) from error
    try:
        return _read(handle, most, path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(handle)


def _read(handle: int, most: int, path: Path) -> tuple[bytes, bool]:
    if stat.S_ISDIR(os.fstat(handle).st_mode):
        raise IsADirectoryError(21, "It is a folder", str(path))
    is_plain = stat.S_ISREG(os.fstat(handle).st_mode)
    found = bytearray()
    deadline = time.monotonic() + _PATIENCE
    while len(found) <= most:
        if not is_plain and not select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError(110, f"Nothing came out of it for {_PATIENCE:g} s", str(path))
        block = os.read(handle, min(_BLOCK, most + 1 - len(found)))
        if not block:
            return bytes(found), True
        found += block
    return bytes(found[:most]), False


# ------------------------------------------------------------------ YAML

_MOST_VALUES = 100_000  # of a configuration, counted again wherever an alias repeats them
_DEEPEST = 30  # lists and mappings within each other
# As jsonargparse reads numbers, which is YAML 1.2: `1e-3` is one. A date stays the text it is.
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)


def load_yaml(text: str) -> Any:
    """Read YAML into plain values; what is too deep, repeats itself without end or has a key twice is a ValueError."""
    import yaml  # here, as most that use this module need none of it

    try:
        found = yaml.load(text, _loader())  # plain values alone
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}: " if where else ""
        why = getattr(error, "problem", None) or getattr(error, "reason", None) or "no YAML"
        raise ValueError(f"{line}{why}") from error
    except RecursionError as error:
        raise ValueError(f"its values are nested more than {_DEEPEST} deep") from error
    _check_size(found)
    return found


@cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """PyYAML's loader of plain values, with numbers as in YAML 1.2, text for dates, and no key twice."""

        yaml_implicit_resolvers = {  # noqa: RUF012  # as PyYAML declares it
            first: [(tag, pattern) for tag, pattern in known if not tag.endswith((":float", ":timestamp"))]
            for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            if len(names) > len({*names}):
                again = next(at for at, name in enumerate(names) if name in names[:at])
                mark = [key for key, _ in node.value if key.value != "<<"][again].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"`{names[again]}` is there twice", mark)
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    return Loader


def _check_size(found: Any) -> None:
    """Raise a ValueError for values that aliases make endless, or so many that a few lines of YAML fill the memory."""
    level, count, depth = [found], 0, 0
    while level:
        count, depth = count + len(level), depth + 1
        if depth > _DEEPEST:
            raise ValueError(f"its values are nested more than {_DEEPEST} deep")
        if count > _MOST_VALUES:
            raise ValueError(f"it has more than {_MOST_VALUES} values")
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ][: _MOST_VALUES + 1]


def as_yaml(config: Any) -> str:
    """Put plain values in one line of YAML, which is JSON but for the numbers that JSON does not know."""
    return re.sub(r'"\\u0000(\S+?)\\u0000"', r"\1", json.dumps(_marked(config), default=str))


def _marked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _marked(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return f"\0{'.nan' if math.isnan(value) else '.inf' if value > 0 else '-.inf'}\0"
    return value
