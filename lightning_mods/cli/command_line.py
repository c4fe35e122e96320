"""The command line as one frozen value: flags as typed, configuration files read once; and mistakes in one line."""

import errno
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from datamodules import DataError
from lightning_mods.cli.siblings import NAMES, shadowed
from lightning_mods.runs import RunError

# Below these a flag belongs to a class the user chose; jsonargparse knows its names, we do not.
_OPEN_GROUPS = (
    *("trainer.callbacks", "trainer.logger", "trainer.strategy", "trainer.plugins", "trainer.profiler"),
    *("optimizer", "lr_scheduler"),
)
# Flags that a person types without a value, and that our parser wants to have one.
_SWITCHES = ("overwrite",)


class UsageError(ValueError):
    """Names a mistake on the command line in one line for the person who typed it."""


@dataclass(frozen=True)
class Flag:
    """Holds a flag of a command line."""

    name: str  # without dashes; empty for a word that belongs to no flag
    value: str | None
    words: tuple[str, ...]  # as they were typed
    config: Mapping[str, Any] | None = None  # what the file says that `--config` names; None for every other flag

    def with_config(self, config: Mapping[str, Any]) -> "Flag":
        """Return the `--config` with other content."""
        return replace(self, config=config, words=(f"--config={json.dumps(config, default=str)}",))


@dataclass(frozen=True)
class CommandLine:
    """Holds a command line that was taken apart once."""

    verb: str  # `fit`, `validate`, `test`, `predict`, `export` or `study`
    flags: tuple[Flag, ...]  # in the order they were typed, which decides: later ones win, over `--config` files too

    @classmethod
    def parse(cls, verb: str, args: Sequence[str], *, configs: bool = True) -> "CommandLine":
        """Take the words of a command line apart; with `configs`, read the files that `--config` names."""
        return cls(verb, tuple(_flags(args, configs)))

    @property
    def words(self) -> list[str]:
        """Put the command line in words, as a parser takes it."""
        return [word for flag in self.flags for word in flag.words]

    @property
    def typed(self) -> dict[str, str | None]:
        """Return the last value of each flag that stands on the line itself."""
        return {flag.name: flag.value for flag in self.flags if flag.name}

    @property
    def asks_for_help(self) -> bool:
        """Whether `--help` stands on the line."""
        return any(flag.name in ("h", "help") for flag in self.flags)

    def section(self, name: str) -> dict[str, Any]:
        """Merge what files and flags say of `model` or `data`: its class_path and init_args, if anything was said."""
        merged: dict[str, Any] = {}
        for flag in self.flags:
            if flag.config is not None:
                _merge(merged, flag.config.get(name))
            elif flag.name == name and flag.value is not None:
                merged["class_path"] = flag.value
            elif flag.name.startswith(f"{name}.") and flag.value is not None:
                merged.setdefault("init_args", {})[flag.name.removeprefix(f"{name}.")] = from_yaml(flag.value)
        return merged

    def said(self, key: str) -> Any:
        """Return the last value that files and flags give to a dotted key, None where they give none."""
        value: Any = None
        for flag in self.flags:
            if flag.config is not None:
                found = _looked_up(flag.config, key)
                value = value if found is None else found
            elif flag.name == key:
                value = flag.value
        return None if value in ("null", "") else value

    def extended(self, before: Sequence[str] = (), after: Sequence[str] = ()) -> "CommandLine":
        """Return the line with words in front, over which all others win, and words at the end, which win."""
        return replace(self, flags=(*_flags(before), *self.flags, *_flags(after)))

    @property
    def front(self) -> "CommandLine":
        """Return the first flag alone, which is what the recipe put there."""
        return replace(self, flags=self.flags[:1])

    def without(self, group: str) -> "CommandLine":
        """Return the line without the flag `--GROUP` and those below it, `--GROUP.…`."""
        kept = (flag for flag in self.flags if not f"{flag.name}.".startswith(f"{group}."))
        return replace(self, flags=tuple(kept))

    def without_sections(self, *sections: str) -> "CommandLine":
        """Return the line with sections of its configuration files left out: those that another verb reads."""
        kept = (
            flag.with_config({key: said for key, said in (flag.config or {}).items() if key not in sections})
            if {*sections} & {*(flag.config or {})}
            else flag
            for flag in self.flags
        )
        return replace(self, flags=tuple(kept))

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """Raise a UsageError for a flag that is abbreviated or misspelt, naming the nearest that is known."""
        names = sorted(set(known))
        for name in self.typed:
            is_known = name in names or name in ("h", "c") or name.removesuffix(".help") in names
            if not is_known and not name.startswith(tuple(f"{group}." for group in _OPEN_GROUPS)):
                dash = "-" if len(name) == 1 else "--"
                raise UsageError(f"{dash}{name} is not a flag{_nearest(name, names)}; `--help` lists them.")


def _flags(args: Sequence[str], configs: bool = True) -> Iterator[Flag]:
    words = list(args)
    while words:
        own = [words.pop(0)]
        if not own[0].startswith("-") or own[0] == "-":
            yield Flag("", None, tuple(own))
            continue
        name, equals, text = own[0].partition("=")
        name, value = name.lstrip("-").removesuffix("+"), text if equals else None
        if name in _SWITCHES and value is None and not "".join(words[:1])[:1].isalnum():
            own, value = [f"{own[0]}=true"], "true"
        elif value is None and words and not words[0].startswith("--"):
            value = words.pop(0)
            own.append(value)
        is_config = configs and value is not None and own[0].partition("=")[0] in ("--config", "-c")
        yield Flag(name, value, tuple(own), read_config(str(value)) if is_config else None)


def _nearest(name: str, names: list[str]) -> str:
    last = name.rpartition(".")[2]
    # An abbreviation is a beginning, a wrong group has the right last word, a slip of the finger is close.
    matches = [other for other in names if other.startswith(name)] or get_close_matches(name, names, 1, 0.75)
    matches = matches or [other for other in names if other.rpartition(".")[2] == last]
    matches = matches or get_close_matches(name, names, 1, 0.5)
    return f"; did you mean --{matches[0]}?" if matches else ""


def _merge(merged: dict[str, Any], found: Any) -> None:
    if isinstance(found, str):
        merged["class_path"] = found
    elif isinstance(found, dict):
        is_class = "class_path" in found or "init_args" in found
        if is_class and found.get("class_path"):
            merged["class_path"] = found["class_path"]
        merged.setdefault("init_args", {}).update((found.get("init_args") or {}) if is_class else found)


def _looked_up(config: Any, key: str) -> Any:
    found = config
    for part in key.split("."):
        found = found if isinstance(found, Mapping) else {}
        arguments = found.get("init_args")
        found = arguments.get(part) if isinstance(arguments, Mapping) and part not in found else found.get(part)
    return found


def read_config(text: str) -> dict[str, Any]:
    """Read the sections of a YAML file, given by its path or as JSON; a UsageError says why they cannot be read."""
    import yaml  # here, as a prediction with an exported model needs none of it

    try:
        content = yaml.safe_load(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--config needs a YAML file that can be read; {text}: {why}.") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise UsageError(f"--config needs YAML; {text}{line} is not.") from error
    if not isinstance(content, dict):
        raise UsageError(f"--config needs YAML with sections such as `model:` and `data:`; {text} has none.")
    return content


def from_yaml(value: str) -> Any:
    """Read a value as YAML; what is none stays the text it is."""
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


# ------------------------------------------------------------------ class paths, where `callbacks` is the user's

_OUR_PATHS = re.compile(rf"(?<![\w.])(?:{'|'.join(NAMES)})(?:\.\w+)+")
_LONG_PATHS = re.compile(rf"\blightning_mods\.(?=(?:{'|'.join(NAMES)})\.)")


def with_own_classes(line: CommandLine) -> CommandLine:
    """Return the command line with our class paths as they can be imported in this project.

    `callbacks.FitMonitor` becomes `lightning_mods.callbacks.FitMonitor` where `callbacks` is a package of the user's
    without such a name, also in `--config` files.
    """
    return replace(line, flags=tuple(map(_with_own_classes, line.flags))) if shadowed() else line


def _with_own_classes(flag: Flag) -> Flag:
    if flag.config is not None:
        found = _importable(flag.config)
        return flag if found == flag.config else flag.with_config(found)
    return replace(flag, value=_importable(flag.value), words=tuple(map(_importable, flag.words)))


def short_class_paths(text: str) -> str:
    """Return a text with our class paths as they read in a project that has no such folder of its own."""
    return _LONG_PATHS.sub("", text)


def _importable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _importable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_importable(each) for each in value]
    return _OUR_PATHS.sub(lambda found: _own_path(found[0]), value) if isinstance(value, str) else value


def _own_path(path: str) -> str:
    ours = f"lightning_mods.{path}"
    return ours if path.partition(".")[0] in shadowed() and _exists(ours) and not _exists(path) else path


def _exists(path: str) -> bool:
    module, _, name = path.rpartition(".")
    try:
        return hasattr(import_module(module), name)
    except ImportError:
        return False


# ------------------------------------------------------------------ mistakes

_KEY = re.compile(r'(?:Parser key|Key) "([^"]+)"')
# What jsonargparse says around and beside the reason.
_NOISE = re.compile(
    r"^(Does not validate against|Subtypes:|Errors:|Given value|Problem with given|Expected a <class 'NoneType'>"
    r"|Parser key|Expected a path but|Call to compute_fn)"
)


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def error_line(error: BaseException) -> str:
    """Put an error of ours, jsonargparse's or the system's in one line: the first message of ours, else the gist."""
    chain = _chain(error)
    for cause in chain:
        if isinstance(cause, DataError | UsageError | RunError):
            return _one_line(str(cause))
    of_system = disk_error(error) or chain[-1]
    if isinstance(of_system, OSError) and not isinstance(error, ValueError):
        where = f": {of_system.filename}" if of_system.filename else ""
        return f"{of_system.strerror or of_system}{where}; what was there before is left as it was."
    return _one_line(_gist(str(error)))


def disk_error(error: BaseException) -> OSError | None:
    """Return the system's error behind one that a library made of it: a disk that is full, failing or not to write."""
    found = (cause for cause in _chain(error) if isinstance(cause, OSError) and cause.errno in _DISK)
    return next(found, None)


def _chain(error: BaseException) -> list[BaseException]:
    chain, current = [], error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__  # type: ignore[assignment]
    return chain


def _gist(message: str) -> str:
    """The key and the reason out of jsonargparse's nested report."""
    keys = _KEY.findall(message)
    lines = [re.sub(r"^[\s-]+", "", line) for line in message.splitlines()]
    reason = next((line for line in lines if line and not _NOISE.match(line)), lines[0])
    if not (message.startswith(("Parser key", "Key")) and keys):
        return _plain_types(reason)
    reason = message.splitlines()[0].partition(":")[2].strip() or reason
    names = keys[:1] + [key for key in keys[1:] if not key.startswith(keys[0])]
    came = next((line.removeprefix("Given value: ") for line in lines if line.startswith("Given value: ")), None)
    if came and "Got value" not in reason and "NestedArg" not in came and "Namespace" not in came:
        reason = f"{reason.rstrip('.')}, not {came}"
    return f"--{'.'.join(names)}: {_plain_types(reason)}"


def _plain_types(text: str) -> str:
    text = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", text)
    choices = re.search(r"Expected an? typing\.Literal\[(.*?)\]\.?", text)
    if choices:
        words = choices[1].replace("'", "").replace(", ", " or ")
        text = text.replace(choices[0], f"needs {words}").replace(" Got value:", ", not")
    return re.sub(r"Expected an? (\w+)\. Got value: (.*)", r"needs a number or word of type \1, not \2", text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
