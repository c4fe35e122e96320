"""The flags that a class's constructor makes, read from its source: nothing of it is imported."""

import ast
import builtins
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: Without dashes, such as `trainer.max_epochs`.
        kind: What it takes, in words such as `int | null`; empty where the source does not say it plainly.
        default: As one would type it; None where it must be given.
        about: What it does.
    """

    name: str
    kind: str
    default: str | None
    about: str


def flags_in(file: Path, name: str, section: str) -> tuple[str, list[Flag]]:
    """The flags of a class whose constructor names all its arguments.

    Args:
        file: Where the class stands.
        name: Of the class.
        section: What its flags begin with.

    Returns:
        The first line about the class, and its flags.

    Raises:
        LookupError: There is no such class in the file.
        OSError: There is no such file.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None:
        raise LookupError(f"no class {name} in {file.name}")
    made = next(node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    texts = [ast.get_docstring(found) or "", ast.get_docstring(made) or ""]
    about = {key: text for each in texts for key, text in described(each)}
    given = made.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(positional) - len(given.defaults)), *given.defaults, *given.kw_defaults]
    flags = [
        Flag(
            f"{section}.{each.arg}",
            kind_in_words(each.annotation),
            None if default is None else typed(ast.unparse(default)),
            about.get(each.arg, ""),
        )
        for each, default in zip([*positional, *given.kwonlyargs], defaults, strict=True)
        if each.arg != "self"
    ]
    head = next((text.splitlines()[0] for text in texts if text), "")
    return head.rstrip("."), flags


def flags_of(made: Callable[..., Any], section: str) -> tuple[str, list[Flag]]:
    """The same of a class that is cheap to import."""
    text = inspect.getdoc(made) or ""
    about = dict(described(text))
    flags = [
        Flag(
            f"{section}.{each.name}",
            kind_of(each.annotation),
            None if each.default is each.empty else typed(repr(each.default)),
            about.get(each.name, ""),
        )
        for each in inspect.signature(made).parameters.values()
    ]
    return next(iter(text.splitlines()), "").rstrip("."), flags


def described(text: str) -> Iterator[tuple[str, str]]:
    """What a docstring in Google's style says of each argument."""
    _, found, rest = inspect.cleandoc(text).partition("\nArgs:\n")
    section = re.split(r"^\S", rest, maxsplit=1, flags=re.MULTILINE)[0] if found else ""
    for entry in re.split(r"^    (?=\w+:)", section, flags=re.MULTILINE)[1:]:
        name, _, about = entry.partition(":")
        yield name, " ".join(about.split())


def kind_of(annotation: Any) -> str:
    """A type in words."""
    return kind_in_words(ast.parse(inspect.formatannotation(annotation), mode="eval").body)


def kind_in_words(node: ast.expr | None) -> str:
    """An annotation in words: `int | null`; empty if it says nothing to a person."""
    if node is None or (isinstance(node, ast.Name) and not hasattr(builtins, node.id)):
        return ""  # a name for a longer type
    text = _words(node)
    return "" if re.search(r"\b_", text) else text


def _words(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp):
        return f"{_words(node.left)} | {_words(node.right)}"
    if isinstance(node, ast.Subscript):
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        name = ast.unparse(node.value).rpartition(".")[2]
        if name == "Optional":
            return f"{_words(inside[0])} | null"
        if name == "Union":
            return " | ".join(map(_words, inside))
        if name == "Literal":
            return " | ".join(typed(ast.unparse(each)) for each in inside)
        return f"{name}[{', '.join(map(_words, inside))}]"
    if isinstance(node, ast.Attribute):
        return node.attr
    return "null" if isinstance(node, ast.Constant) and node.value is None else ast.unparse(node)


def typed(source: str) -> str:
    """A Python value as one would type it after a flag."""
    words = {"None": "null", "True": "true", "False": "false"}
    if re.fullmatch(r"'[^']*'", source):
        return source[1:-1]
    return words.get(source, source)
