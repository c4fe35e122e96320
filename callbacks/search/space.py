"""Read what a search may choose from, written as text: the grammar of `--space`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any

from callbacks.host.inputs import load_yaml
from callbacks.search.plan import SearchError

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution


_PLAIN = (type(None), bool, int, float, str)


class Dimension:
    """Says what one name of a space may be: how its values are drawn, and what the study holds for them."""

    def key(self, name: str) -> str:
        """Return the name of the parameter in the study."""
        return name

    def store(self, value: Any) -> Any:
        """Return what the study holds for a value."""
        return value

    def value(self, stored: Any) -> Any:
        """Return the value behind what the study holds."""
        return stored

    def distribution(self) -> BaseDistribution:
        """Return what Optuna draws from."""
        raise NotImplementedError

    def suggest(self, trial: Trial, name: str) -> Any:
        """Draw a value."""
        raise NotImplementedError

    def levels(self, count: int) -> list[Any]:
        """Return the values of a grid, from bound to bound: at most so many of a range, all of a list."""
        raise NotImplementedError

    def place(self, value: Any) -> float | None:
        """Return where a value lies between the bounds, 0 to 1; None where there are none."""
        return None

    def wider(self, *, up: bool) -> str:
        """Return the text of a space that goes on beyond a bound; empty where it is a natural one, such as 0."""
        return ""


@dataclass(frozen=True)
class Choice(Dimension):
    """Chooses one of a list: `[relu, tanh]`, `[[64], [128, 128]]`; a single value is a list of one.

    Lists and mappings are kept in the study as JSON text, so that a resumed study finds its own choices again.
    """

    options: tuple[Any, ...]

    def store(self, value: Any) -> Any:
        plain = all(isinstance(option, _PLAIN) for option in self.options)
        return value if plain else json.dumps(value, sort_keys=True)

    def value(self, stored: Any) -> Any:
        stores = ((option, self.store(option)) for option in self.options)
        return next(option for option, its in stores if type(its) is type(stored) and its == stored)

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution([self.store(option) for option in self.options])

    def suggest(self, trial: Trial, name: str) -> Any:
        return self.value(trial.suggest_categorical(name, [self.store(option) for option in self.options]))

    def levels(self, count: int) -> list[Any]:
        return list(self.options)

    def place(self, value: Any) -> float | None:
        """Return it for three numbers or more, or lists of numbers, which go by their sums."""
        sizes = [_size(option) for option in self.options]
        known = sorted({size for size in sizes if size is not None})
        size = _size(value)
        return None if None in sizes or size is None or len(known) < 3 else known.index(size) / (len(known) - 1)

    def wider(self, *, up: bool) -> str:
        return "[…]"

    def __str__(self) -> str:
        return json.dumps(list(self.options), sort_keys=True)


@dataclass(frozen=True)
class FloatRange(Dimension):
    """Draws a float between two bounds, both included, by its logarithm if `log`: `0..0.5`, `log 1e-6..1e-2`."""

    low: float
    high: float
    log: bool = False

    def store(self, value: float) -> float:
        return float(value)

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log)

    def suggest(self, trial: Trial, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def levels(self, count: int) -> list[float]:
        """Return evenly spaced values, by ratio where it is `log`; the middle if there is one alone."""
        if self.low == self.high:
            return [self.low]
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        steps = [(i / (count - 1) if count > 1 else 0.5) for i in range(count)]
        values = [low + (high - low) * step for step in steps]
        inside = [math.exp(value) for value in values] if self.log else values
        return [min(max(value, self.low), self.high) for value in inside]

    def place(self, value: float) -> float | None:
        if self.low == self.high:
            return None
        at = (lambda number: math.log(number)) if self.log else float
        return (at(value) - at(self.low)) / (at(self.high) - at(self.low))

    def wider(self, *, up: bool) -> str:
        low, high, half = self.low, self.high, (self.high - self.low) / 2
        if self.log:
            return f"log {low:g}..{10 * high:g}" if up else f"log {low / 10:g}..{high:g}"
        if up:  # most of what lies between 0 and 1 has to stay there
            further = high + min(half, (1 - high) / 2) if low >= 0 and high <= 1 else high + half
            return f"{low:g}..{further:g}" if further > high else ""
        further = low / 2 if low >= 0 else low - half
        return f"{further:g}..{high:g}" if further < low else ""

    def __str__(self) -> str:
        return f"{'log ' if self.log else ''}{self.low!r}..{self.high!r}"


@dataclass(frozen=True)
class IntRange(Dimension):
    """Draws a whole number between two bounds, both included: `1..5`, `log 1..1024`."""

    low: int
    high: int
    log: bool = False

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log)

    def suggest(self, trial: Trial, name: str) -> int:
        return int(self.value(trial.suggest_int(self.key(name), self.low, self.high, log=self.log)))

    def levels(self, count: int) -> list[int]:
        floats = FloatRange(self.low, self.high, self.log).levels(min(count, self.high - self.low + 1))
        return sorted({int(self.value(round(value))) for value in floats})

    def place(self, value: int) -> float | None:
        return FloatRange(self.low, self.high, self.log).place(self.store(value))

    def wider(self, *, up: bool) -> str:
        """Return a range twice as far; numbers are counts as a rule, and none is below 1."""
        if up:
            return str(type(self)(self.low, 2 * self.high if self.log else 2 * self.high - self.low, self.log))
        return str(type(self)(max(1, self.low // 2), self.high, self.log)) if self.low > 1 else ""

    def __str__(self) -> str:
        return f"{'log ' if self.log else ''}{self.low}..{self.high}"


@dataclass(frozen=True)
class PowersOfTwo(IntRange):
    """Draws one of `2**low`, …, `2**high`: `pow2 16..512`; the study holds the exponent, comparable, as `log2_NAME`."""

    def key(self, name: str) -> str:
        return f"log2_{name}"

    def store(self, value: int) -> int:
        exponent = value.bit_length() - 1
        if value < 1 or value != 1 << exponent:
            raise SearchError(f"A power of two is needed, not {value!r}.")
        return exponent

    def value(self, stored: int) -> int:
        return 1 << stored

    def wider(self, *, up: bool) -> str:
        """Return a range twice as far."""
        low, high = (self.low, self.high + 1) if up else (max(0, self.low - 1), self.high)
        return "" if low == self.low and high == self.high else str(PowersOfTwo(low, high))

    def __str__(self) -> str:
        return f"pow2 {1 << self.low}..{1 << self.high}"


Space = Mapping[str, Dimension]

_RANGE = re.compile(r"(?:(log|pow2)\s+)?(\S+?)\s*\.\.\s*(\S+)")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_HOW = "A space is a range such as `0..0.5`, `log 1e-6..1e-2`, `1..5`, `pow2 16..512`, or a list such as `[relu, tanh]`"


def parse_space(text: object, *, floats: bool = False) -> Dimension:
    """Read one dimension of a search space.

    Args:
        text: `0..0.5`, `log 1e-6..1e-2`, `1..5`, `log 1..1024`, `pow2 16..512`, a YAML or JSON list, or a single
            value. Bounds are included; two whole numbers make a range of whole numbers. What is no text (a list, a
            number) is taken as it is.
        floats: Take two whole numbers for a range of floats too: `0..1` of what can be 0.5.

    Raises:
        SearchError: A bound the wrong way round, not finite, or zero under `log`; an empty list; the same choice twice.
    """
    if isinstance(text, Dimension):
        return text
    if not isinstance(text, str):
        return _choice(text, text)
    if match := _RANGE.fullmatch(text.strip()):
        return _range(text, match[1] or "", match[2], match[3], floats=floats)
    try:
        found = load_yaml(text)
    except ValueError:
        raise SearchError(f"{_HOW}; {text!r} is none of these.") from None
    return _choice(_numbers(found), text)


def batch_sizes(n_train: int, low: int = 8, high: int = 1024) -> PowersOfTwo:
    """Return the powers of two from `low` to `high` that are no more than half of the training rows.

    Half, so that even the largest takes two steps an epoch.

    Args:
        n_train: Training rows.
        low: Smallest batch size, unless the data is smaller.
        high: Largest batch size.
    """
    top = max(1, min(high, n_train // 2)).bit_length() - 1
    return PowersOfTwo(min(low.bit_length() - 1, top), top)


def decode(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values behind the parameters a study holds; those it does not hold are left out."""
    keys = {name: dimension.key(name) for name, dimension in space.items()}
    return {name: space[name].value(params[key]) for name, key in keys.items() if key in params}


def grid(space: Space, points: int, seed: int) -> list[dict[str, Any]]:
    """Return every combination of levels, shuffled: as many for the ranges as keep it within so many points.

    A list takes part with all its options and every range with two levels at least, so that the grid can be larger
    than asked for: then its first points are a fair sample of it.
    """

    def size(count: int) -> int:
        return math.prod(len(dimension.levels(count)) for dimension in space.values())

    count = 2
    while size(count) < size(count + 1) <= points:
        count += 1
    levels = [dimension.levels(count) for dimension in space.values()]
    cells = [dict(zip(space, cell, strict=True)) for cell in product(*levels)]
    Random(seed).shuffle(cells)
    return cells


def _size(option: Any) -> float | None:
    """Return a number, or the sum of a list of numbers; None for anything else."""
    parts = option if isinstance(option, list | tuple) else [option]
    fit = all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts)
    return float(sum(parts)) if fit else None


def _numbers(value: Any) -> Any:
    """Turn what YAML 1.1 reads as text since it has no dot, such as `1e-4`, into numbers."""
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
