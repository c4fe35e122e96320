"""One line out of an error: what is needed, what came."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from datamodules import DataError
from lightning_mods.runs import RunError

# Below these a flag belongs to a class the user chose; jsonargparse knows its names, we do not.
_OPEN_GROUPS = (
    *("trainer.callbacks", "trainer.logger", "trainer.strategy", "trainer.plugins", "trainer.profiler"),
    *("optimizer", "lr_scheduler"),
)


class UsageError(ValueError):
    """What is wrong with the command line, in one line for the person who typed it."""


def flags(args: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """The flags of a command line in order, each with its value (None for one without)."""
    for name, value, _ in _words(args):
        if name is not None:
            yield name, value


def asks_for_help(args: Sequence[str]) -> bool:
    """Whether `--help` stands on a command line."""
    return any(name in ("h", "help") for name, _ in flags(args))


def each_flag(args: Sequence[str]) -> Iterator[tuple[str | None, str | None, list[str]]]:
    """Name, value and words of each flag of a command line in order; a word that belongs to none has no name."""
    return _words(args)


def without(args: Sequence[str], group: str) -> list[str]:
    """The command line without the flag `--GROUP` and those below it, `--GROUP.…`."""
    return [
        word
        for name, _, words in _words(args)
        if name is None or not (name == group or name.startswith(f"{group}."))
        for word in words
    ]


def without_sections(args: Sequence[str], sections: Sequence[str]) -> list[str]:
    """The command line with some sections of its `--config` files left out: those that another verb reads."""
    kept = []
    for name, value, words in _words(args):
        if name in ("config", "c") and value is not None:
            content = read_config(value)
            if any(section in content for section in sections):
                rest = {key: found for key, found in content.items() if key not in sections}
                words = [f"--config={json.dumps(rest)}"]
        kept += words
    return kept


def _words(args: Sequence[str]) -> Iterator[tuple[str | None, str | None, list[str]]]:
    """Name, value and words of each flag; a word that belongs to none has no name."""
    words = list(args)
    while words:
        own = [words.pop(0)]
        if not own[0].startswith("-") or own[0] == "-":
            yield None, None, own
            continue
        name, equals, value = own[0].partition("=")
        name = name.lstrip("-").removesuffix("+")
        if not equals and words and not words[0].startswith("--"):
            own.append(words.pop(0))
            value, equals = own[1], "="
        yield name, value if equals else None, own


def merged_config(args: Sequence[str], section: str) -> dict[str, Any]:
    """What the `--config` files and the flags of a command line say of `section`, later ones winning.

    Args:
        args: The command line.
        section: `model` or `data`.

    Returns:
        `{"class_path": …, "init_args": {…}}`, either left out where nothing was said.

    Raises:
        UsageError: A configuration file that is not there or is not YAML.
    """
    said: dict[str, Any] = {}
    for name, value in flags(args):
        if name in ("config", "c") and value is not None:
            found = read_config(value).get(section)
            if isinstance(found, dict):
                _merge(said, found)
            elif isinstance(found, str):
                said["class_path"] = found
        elif name == section and value is not None:
            said["class_path"] = value
        elif name.startswith(f"{section}.") and value is not None:
            said.setdefault("init_args", {})[name.removeprefix(f"{section}.")] = _plain(value)
    return said


def said(args: Sequence[str], key: str) -> Any:
    """The last value that `--config` files and flags give to a dotted key, None where they give none."""
    value: Any = None
    for name, text in flags(args):
        if name in ("config", "c") and text is not None:
            found: Any = read_config(text)
            for part in key.split("."):
                found = found.get(part) if isinstance(found, dict) else None
            value = value if found is None else found
        elif name == key:
            value = text
    return None if value in ("null", "") else value


def _merge(said: dict[str, Any], found: dict[str, Any]) -> None:
    if "class_path" not in found and "init_args" not in found:
        found = {"init_args": found}
    if found.get("class_path"):
        said["class_path"] = found["class_path"]
    said.setdefault("init_args", {}).update(found.get("init_args") or {})


def read_config(text: str) -> dict[str, Any]:
    """The sections of a configuration file, given by its path or as JSON.

    Raises:
        UsageError: It is not there, is no YAML, or has no sections.
    """
    import yaml  # here, as a prediction with an exported model needs none of it

    try:
        path = Path(text)
        if text.lstrip().startswith("{"):
            content = yaml.safe_load(text)
        else:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config needs a YAML file that can be read; {text}: {_why(error)}.") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise UsageError(f"--config needs YAML; {text}{line} is not.") from error
    if not isinstance(content, dict):
        raise UsageError(f"--config needs YAML with sections such as `model:` and `data:`; {text} has none.")
    return content


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _plain(value: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def refuse_unknown(args: Sequence[str], known: Iterable[str]) -> None:
    """Refuse a flag that is not one, naming the nearest that is.

    Args:
        args: The command line.
        known: All flags there are, without dashes.

    Raises:
        UsageError: The first flag that is abbreviated or misspelt.
    """
    names = sorted(set(known))
    for name, _ in flags(args):
        if name in names or name in ("h", "c") or name.removesuffix(".help") in names:
            continue
        if any(name.startswith(f"{group}.") for group in _OPEN_GROUPS):
            continue
        dash = "-" if len(name) == 1 else "--"
        raise UsageError(f"{dash}{name} is not a flag{_nearest(name, names)}; `--help` lists them.")


def _nearest(name: str, names: list[str]) -> str:
    last = name.rpartition(".")[2]
    # An abbreviation is a beginning, a wrong group has the right last word, a slip of the finger is close.
    matches = [other for other in names if other.startswith(name)] or get_close_matches(name, names, 1, 0.75)
    matches = matches or [other for other in names if other.rpartition(".")[2] == last]
    matches = matches or get_close_matches(name, names, 1, 0.5)
    return f"; did you mean --{matches[0]}?" if matches else ""


_KEY = re.compile(r'(?:Parser key|Key) "([^"]+)"')
# What jsonargparse says around and beside the reason.
_NOISE = re.compile(
    r"^(Does not validate against|Subtypes:|Errors:|Given value|Problem with given|Expected a <class 'NoneType'>"
    r"|Parser key|Expected a path but|Call to compute_fn)"
)


def explain(error: BaseException) -> str:
    """One line for the person at the terminal.

    Args:
        error: What was raised, by us, by jsonargparse or by the system.

    Returns:
        The message of the innermost error of ours where there is one; else the gist of what was said.
    """
    for cause in _chain(error):
        if isinstance(cause, DataError | UsageError | RunError):
            return _one_line(str(cause))
    innermost = _chain(error)[-1]
    if isinstance(innermost, OSError) and not isinstance(error, ValueError):
        return _system(innermost)
    return _gist(str(error))


def _chain(error: BaseException) -> list[BaseException]:
    chain, current = [], error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__  # type: ignore[assignment]
    return chain


def _system(error: OSError) -> str:
    what = error.strerror or str(error)
    where = f": {error.filename}" if error.filename else ""
    return f"{what}{where}; what was there before is left as it was."


def _gist(message: str) -> str:
    """The key and the reason out of jsonargparse's nested report."""
    keys = _KEY.findall(message)
    lines = [re.sub(r"^[\s-]+", "", line) for line in message.splitlines()]
    reasons = [line for line in lines if line and not _NOISE.match(line)]
    reason = reasons[0] if reasons else lines[0]
    if message.startswith(("Parser key", "Key")) and keys:
        inline = message.splitlines()[0].partition(":")[2].strip()
        names = keys[:1] + [key for key in keys[1:] if not key.startswith(keys[0])]
        came = next((line.removeprefix("Given value: ") for line in lines if line.startswith("Given value: ")), None)
        reason = inline or reason
        if came and "Got value" not in reason and "NestedArg" not in came and "Namespace" not in came:
            reason = f"{reason.rstrip('.')}, not {came}"
        return _one_line(f"--{'.'.join(names)}: {_plain_types(reason)}")
    return _one_line(_plain_types(reason))


def _plain_types(text: str) -> str:
    text = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", text)
    choices = re.search(r"Expected an? typing\.Literal\[(.*?)\]\.?", text)
    if choices:
        words = choices[1].replace("'", "").replace(", ", " or ")
        text = text.replace(choices[0], f"needs {words}").replace(" Got value:", ", not")
    return re.sub(r"Expected an? (\w+)\. Got value: (.*)", r"needs a number or word of type \1, not \2", text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
