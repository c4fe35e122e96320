"""The command line as one frozen value: flags as typed, configuration files read once; and mistakes in one line."""

import errno
import os
import re
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from traceback import walk_tb
from typing import Any

from callbacks.host.inputs import as_yaml, load_yaml, read_bounded
from callbacks.host.secrets import without_passwords, without_secrets
from datamodules import DataError
from datamodules.errors import printable
from lightning_mods.cli.siblings import NAMES, shadowed
from lightning_mods.runs import RunError

# Below these a flag belongs to a class the user chose; jsonargparse knows its names, we do not.
_OPEN_GROUPS = (
    *("trainer.callbacks", "trainer.logger", "trainer.strategy", "trainer.plugins", "trainer.profiler"),
    *("optimizer", "lr_scheduler"),
)
# Flags that a person types without a value, and that our parser wants to have one.
_SWITCHES = ("calibrate", "importance", "overwrite", "trust")


class UsageError(ValueError):
    """Names a mistake on the command line in one line for the person who typed it."""


@dataclass(frozen=True)
class Flag:
    """Holds a flag of a command line."""

    name: str  # without dashes; empty for a word that belongs to no flag
    value: str | None
    words: tuple[str, ...]  # as they were typed
    config: Mapping[str, Any] | None = None  # what the file says that `--config` names; None for every other flag
    typed: tuple[str, ...] = ()  # the words before anything was put in the place of them

    @property
    def appends(self) -> bool:
        """Whether the value is added to a list, as in `--trainer.callbacks+=Timer`."""
        return self.words[0].partition("=")[0].endswith("+")

    @property
    def config_file(self) -> str | None:
        """The file that `--config` names; None for every other flag, and for a `--config` that is JSON itself."""
        return None if self.config is None or (self.value or "").lstrip()[:1] == "{" else self.value

    def with_config(self, config: Mapping[str, Any]) -> "Flag":
        """Return the `--config` with other content."""
        return replace(self, config=config, words=(f"--config={as_yaml(config)}",))


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

    def refuse_unknown(self, known: Iterable[str], habits: Mapping[str, str] | None = None) -> None:
        """Raise a UsageError for a flag that is misspelt, or that others call so (`habits`), naming what is meant."""
        names = sorted(set(known))
        for name in self.typed:
            is_known = name in names or name in ("h", "c") or name.removesuffix(".help") in names
            if not is_known and not name.startswith(tuple(f"{group}." for group in _OPEN_GROUPS)):
                near = _nearest(name, names, habits or {})
                raise UsageError(f"{'-' * (1 + (len(name) > 1))}{name} is not a flag{near}; `--help` lists them.")


def _flags(args: Sequence[str], configs: bool = True) -> Iterator[Flag]:
    words = list(args)
    while words:
        own = [words.pop(0)]
        if not own[0].startswith("-") or own[0] == "-":
            yield Flag("", None, tuple(own), typed=tuple(own))
            continue
        name, equals, text = own[0].partition("=")
        name, value = name.lstrip("-").removesuffix("+"), text if equals else None
        if name in _SWITCHES and value is None and not "".join(words[:1])[:1].isalnum():
            own, value = [f"{own[0]}=true"], "true"
        elif value is None and words and not words[0].startswith("--"):
            value = words.pop(0)
            own.append(value)
        _check_value(name, value or "")
        flag = Flag(name, value, tuple(own), typed=tuple(own))
        if configs and value is not None and own[0].partition("=")[0] in ("--config", "-c"):
            found = read_config(value)
            # A pipe can be read once; a file is the parser's, for which paths in it may begin beside it.
            is_file = os.path.isfile(value)  # noqa: PTH113  # pathlib's raises over a JSON text of 300 characters
            flag = replace(flag, config=found) if is_file else flag.with_config(found)
        yield flag


def _check_value(name: str, value: str) -> None:
    """Raise a UsageError for a value that no parser after us is sure to survive."""
    if "\0" in value:
        raise UsageError(f"--{name} holds a NUL character, which no name or number has.")
    refers = "&" in value and "*" in value  # to itself, perhaps
    if (len(value) > _SHORT or refers) and name not in ("config", "c"):
        try:
            load_yaml(value)
        except ValueError as error:
            if not hasattr(error.__cause__, "problem"):  # what is no YAML may be a text
                raise UsageError(f"--{name}: {error}.") from error


def without_secrets_in(line: CommandLine) -> list[str]:
    """Return the words of a command line with `***` in the place of each secret."""
    words: list[str] = []
    for flag in line.flags:
        value = flag.value or ""
        said = flag.config if flag.config is not None else from_yaml(value) if value[:1] in ("[", "{") else value
        hidden = without_secrets(said, f".{flag.name}")
        if hidden == said or (flag.config is not None and flag.words[-1].endswith(value) and value[:1] != "{"):
            words += flag.words
        else:
            words.append(f"--{flag.name}{'+' * flag.appends}={hidden if isinstance(hidden, str) else as_yaml(hidden)}")
    return words


def _nearest(name: str, names: list[str], habits: Mapping[str, str]) -> str:
    last = name.rpartition(".")[2]  # which is right where the group is wrong
    meant = habits.get(last.replace("-", "_").lower(), "")
    # A study's own flag is meant first. An abbreviation is a beginning, a slip of the finger is close.
    meant = next((each for each in (f"study.{meant.rpartition('.')[2]}", meant) if each in names), "")
    matches = [meant] if meant else [other for other in names if other.startswith(name)]
    matches = matches or get_close_matches(name, names, 1, 0.75) or [n for n in names if n.rpartition(".")[2] == last]
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


# ------------------------------------------------------------------ configurations

_SHORT = 100  # characters in which nothing can be too deep or too many
_LARGEST = 1_000_000  # bytes of a configuration; PyYAML reads as many in ten seconds


def read_config(text: str, flag: str = "--config") -> dict[str, Any]:
    """Read the sections of a YAML file, given by its path or as JSON; a UsageError says why they cannot be read."""
    named = text if len(text) <= 200 else f"{text[:200]}…"
    with mistakes_named(f"{flag} needs a YAML file that can be read; {named}"):
        content = load_yaml(text if text.lstrip().startswith("{") else _text_of(text))
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError(f"{flag} needs YAML with sections such as `model:` and `data:`; {named} has none.")
    for section in _SECTIONS:
        _check_section(section, content.get(section), named)
    return content


_SECTIONS = ("model", "data", "trainer", "optimizer", "lr_scheduler", "study", "space")


def _check_section(section: str, said: Any, named: str) -> None:
    """Raise a UsageError for a section that has not the shape of one; what is in it the parser checks."""
    takes_class = section in ("model", "data", "optimizer", "lr_scheduler")
    is_word = said is None or (takes_class and isinstance(said, str))
    if not is_word and not (isinstance(said, dict) and all(isinstance(name, str) for name in said)):
        what = "a class or its arguments" if takes_class else "flags"
        raise UsageError(f"--config={named}: `{section}:` needs {what}, not {shortened_value(said)}.")
    if takes_class and isinstance(said, dict):
        for part, kind, needed in (("class_path", str, "a name"), ("init_args", dict, "arguments")):
            if not isinstance(said.get(part), kind | None):
                found = shortened_value(said[part])
                raise UsageError(f"--config={named}: `{section}.{part}:` needs {needed}, not {found}.")


def shortened_value(value: Any) -> str:
    """Return a value as Python writes it, cut short where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _text_of(path: str) -> str:
    content, is_all = read_bounded(Path(path), _LARGEST)
    if not is_all:
        raise ValueError(f"it is larger than {_LARGEST // 1_000_000} MB")
    return content.decode("utf-8-sig")


def from_yaml(value: str) -> Any:
    """Read a value as YAML; what is none stays the text it is."""
    try:
        return load_yaml(value)
    except ValueError:
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
_LONGEST, _LONGEST_LINE = 600, 2000  # characters of what others say, and of a line
# What jsonargparse says around and beside the reason.
_NOISE = re.compile(
    r"^(Does not validate against|Subtypes:|Errors:|Given value|Problem with given|Expected a <class 'NoneType'>"
    r"|Parser key|Expected a path but|Call to compute_fn)"
)


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def mistakes_named(what: str) -> Iterator[None]:
    """Make a UsageError, which begins with `what` it was about, of all that a parser or reader of others raises.

    What is in one line already stays; what a module of the user's does when it is imported, such as ending the process,
    counts too. Around our own code it would hide our defects.
    """
    try:
        yield
    except (UsageError, DataError, RunError, ArgumentError):
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and raised_in(error).startswith(("argparse", "jsonargparse")):
            raise  # it has printed what was asked for
        raise UsageError(f"{what}: {words_of(error)}.") from error


def raised_in(error: BaseException) -> str:
    """Return the name of the module whose code raised an error."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", ""))


def words_of(error: BaseException) -> str:
    """Put an error of others in one line without a full stop, with its kind where its text needs that."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = _gist(str(error)) if "Does not validate" in str(error) else str(error)
    text = " ".join(said.split()).rstrip(".") or "it"
    plain = isinstance(error, ValueError | ImportError | UsageError)
    text = text if plain else f"{type(error).__name__}: {text}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def error_line(error: BaseException) -> str:
    """Put an error of ours, jsonargparse's or the system's in one line: the first message of ours, else the gist."""
    chain = causes_of(error)
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
    found = (cause for cause in causes_of(error) if isinstance(cause, OSError) and cause.errno in _DISK)
    return next(found, None)


def naming_its_origin(text: str, line: CommandLine) -> str:
    """Put before a line that names no flag and no file of a command line those that it may be about.

    They are the flags whose last word is in it, or whose value is, else all that were typed.
    """
    typed = {f"--{flag.name}": flag for flag in line.flags if flag.name and flag.value}
    files = [flag.config_file for flag in line.flags if flag.config_file]
    if re.search(r"--\w", text) or any(file in text for file in files):
        return text
    words = {word.strip("`'\".,:;()=") for word in re.split(r"[\s=]+", text)}
    by_name = [name for name in typed if name.rpartition(".")[2].lstrip("-") in words]
    by_value = [name for name, flag in typed.items() if flag.value in words and len(str(flag.value)) > 1]
    named = by_name or by_value or list(typed) or ["the defaults"]
    more = f"{len(named) - 5} more and " if len(named) > 5 else ""
    return f"{more}{', '.join(named[-5:])}: {text}"


def causes_of(error: BaseException) -> list[BaseException]:
    """Return an error and those behind it, the outermost first."""
    chain, current = [], error
    while current is not None and current not in chain:
        chain.append(current)
        behind = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or behind  # type: ignore[assignment]
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
    whole = without_passwords(printable(" ".join(text.split())))
    return whole if len(whole) <= _LONGEST_LINE else f"{whole[:_LONGEST_LINE]}…"
