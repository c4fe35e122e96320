"""The grammar of `--space`: what a search may choose from, written as text."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from random import Random
from typing import Any

import yaml

from callbacks._search_dimensions import Choice, Dimension, FloatRange, IntRange, PowersOfTwo
from callbacks._search_error import SearchError

_RANGE = re.compile(r"(?:(log|pow2)\s+)?(\S+?)\s*\.\.\s*(\S+)")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_HOW = "A space is a range such as `0..0.5`, `log 1e-6..1e-2`, `1..5`, `pow2 16..512`, or a list such as `[relu, tanh]`"

Space = Mapping[str, Dimension]


def parse_space(text: object, *, floats: bool = False) -> Dimension:
    """Read one dimension of a space.

    Args:
        text: `0..0.5`, `log 1e-6..1e-2`, `1..5`, `log 1..1024`, `pow2 16..512`, a YAML or JSON list, or a single
            value. Bounds are included; two whole numbers make a range of whole numbers. What is no text (a list, a
            number) is taken as it is.
        floats: Take two whole numbers for a range of floats too: `0..1` of what can be 0.5.

    Raises:
        SearchError: A bound the wrong way round, not finite, or zero under `log`; an empty list; the same choice twice.
    """
    if isinstance(text, Choice | FloatRange | IntRange | PowersOfTwo):
        return text
    if not isinstance(text, str):
        return _choice(text, text)
    if match := _RANGE.fullmatch(text.strip()):
        return _range(text, match[1] or "", match[2], match[3], floats=floats)
    try:
        return _choice(_numbers(yaml.safe_load(text)), text)
    except yaml.YAMLError:
        raise SearchError(f"{_HOW}; {text!r} is none of these.") from None


def batch_sizes(n_train: int, low: int = 8, high: int = 1024) -> PowersOfTwo:
    """The powers of two from `low` to `high` that are no more than half of the training rows.

    Half, so that even the largest takes two steps an epoch.

    Args:
        n_train: Training rows.
        low: Smallest batch size, unless the data is smaller.
        high: Largest batch size.
    """
    top = max(1, min(high, n_train // 2)).bit_length() - 1
    return PowersOfTwo(min(low.bit_length() - 1, top), top)


def decode(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """The values behind the parameters a study holds; those it does not hold are left out."""
    keys = {name: dimension.key(name) for name, dimension in space.items()}
    return {name: space[name].value(params[key]) for name, key in keys.items() if key in params}


def grid(space: Space, points: int, seed: int) -> list[dict[str, Any]]:
    """Every combination of levels, shuffled: as many levels for the ranges as keep it within so many points.

    A list takes part with all its options and every range with two levels at least, so that the grid can be larger
    than asked for: then its first points are a fair sample of it.
    """

    def size(count: int) -> int:
        return math.prod(len(dimension.levels(count)) for dimension in space.values())

    count = 2
    while size(count) < size(count + 1) <= points:
        count += 1
    names = list(space)
    cells = [dict(zip(names, cell, strict=True)) for cell in _cells(space, count)]
    Random(seed).shuffle(cells)
    return cells


def _cells(space: Space, count: int) -> Iterator[tuple[Any, ...]]:
    return product(*(dimension.levels(count) for dimension in space.values()))


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads `1e-4` as text, since it has no dot."""
    if isinstance(value, str) and _FLOAT.fullmatch(value):
        return float(value)
    return [_numbers(item) for item in value] if isinstance(value, list) else value


def _choice(value: Any, text: object) -> Choice:
    options: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    if not options:
        raise SearchError(f"A list of choices needs one at least; {text!r} has none.")
    try:
        written = [json.dumps(option, sort_keys=True, allow_nan=False) for option in options]
    except (TypeError, ValueError):
        raise SearchError(f"Choices are numbers, strings, lists and mappings of these; {text!r} has others.") from None
    if twice := {one for one in written if written.count(one) > 1}:
        raise SearchError(f"Every choice is given once; {text!r} has {min(twice)} twice.")
    return Choice(tuple(options))


def _range(text: str, kind: str, first: str, last: str, *, floats: bool) -> Dimension:
    try:
        low, high = float(first), float(last)
    except ValueError:
        raise SearchError(f"{_HOW}; {text!r} has bounds that are no numbers.") from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise SearchError(f"Bounds must be finite; {text!r} are not.")
    if low > high:
        raise SearchError(f"The lower bound comes first: {kind + ' ' if kind else ''}{last}..{first}, not {text!r}.")
    if kind and low <= 0:
        raise SearchError(f"`{kind}` needs bounds above 0; {text!r} begins at {first}.")
    if kind == "pow2":
        bottom, top = math.ceil(math.log2(low)), math.floor(math.log2(high))
        if bottom > top or bottom < 0:
            raise SearchError(f"`pow2` needs bounds with a power of two (1, 2, 4, …) between them; {text!r} has none.")
        return PowersOfTwo(bottom, top)
    whole = not floats and all(re.fullmatch(r"[+-]?\d+", bound) for bound in (first, last))
    return IntRange(int(first), int(last), kind == "log") if whole else FloatRange(low, high, kind == "log")
