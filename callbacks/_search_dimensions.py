"""What one name of a search may be: a choice, a float, a whole number, a power of two. Optuna is asked only to draw."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from callbacks._search_error import SearchError

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

_PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class Choice:
    """One of a list: `[relu, tanh]`, `[[64], [128, 128]]`; a single value is a list of one.

    Lists and mappings are kept in the study as JSON text, so that a resumed study finds its own choices again.
    """

    options: tuple[Any, ...]

    def key(self, name: str) -> str:
        """The name of the parameter in the study."""
        return name

    def store(self, value: Any) -> Any:
        """What the study holds for a value."""
        plain = all(isinstance(option, _PLAIN) for option in self.options)
        return value if plain else json.dumps(value, sort_keys=True)

    def value(self, stored: Any) -> Any:
        """The value behind what the study holds."""
        return next(option for option in self.options if _same(self.store(option), stored))

    def distribution(self) -> BaseDistribution:
        """What Optuna draws from."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution([self.store(option) for option in self.options])

    def suggest(self, trial: Trial, name: str) -> Any:
        """Draw a value."""
        return self.value(trial.suggest_categorical(name, [self.store(option) for option in self.options]))

    def levels(self, count: int) -> list[Any]:
        """All values of it, for a grid."""
        return list(self.options)

    def __str__(self) -> str:
        return json.dumps(list(self.options), sort_keys=True)


@dataclass(frozen=True)
class FloatRange:
    """A float between two bounds, both included; `log` draws its logarithm uniformly: `0..0.5`, `log 1e-6..1e-2`."""

    low: float
    high: float
    log: bool = False

    def key(self, name: str) -> str:
        """The name of the parameter in the study."""
        return name

    def store(self, value: float) -> float:
        """What the study holds for a value."""
        return float(value)

    def value(self, stored: float) -> float:
        """The value behind what the study holds."""
        return stored

    def distribution(self) -> BaseDistribution:
        """What Optuna draws from."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log)

    def suggest(self, trial: Trial, name: str) -> float:
        """Draw a value."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def levels(self, count: int) -> list[float]:
        """Values from bound to bound, evenly spaced, by ratio where it is `log`; the middle if there is one alone."""
        if self.low == self.high:
            return [self.low]
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        steps = [(i / (count - 1) if count > 1 else 0.5) for i in range(count)]
        values = [low + (high - low) * step for step in steps]
        inside = [math.exp(value) for value in values] if self.log else values
        return [min(max(value, self.low), self.high) for value in inside]

    def __str__(self) -> str:
        return f"{'log ' if self.log else ''}{self.low!r}..{self.high!r}"


@dataclass(frozen=True)
class IntRange:
    """A whole number between two bounds, both included: `1..5`, `log 1..1024`."""

    low: int
    high: int
    log: bool = False

    def key(self, name: str) -> str:
        """The name of the parameter in the study."""
        return name

    def store(self, value: int) -> int:
        """What the study holds for a value."""
        return value

    def value(self, stored: int) -> int:
        """The value behind what the study holds."""
        return stored

    def distribution(self) -> BaseDistribution:
        """What Optuna draws from."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log)

    def suggest(self, trial: Trial, name: str) -> int:
        """Draw a value."""
        return trial.suggest_int(name, self.low, self.high, log=self.log)

    def levels(self, count: int) -> list[int]:
        """At most this many whole numbers from bound to bound."""
        floats = FloatRange(self.low, self.high, self.log).levels(min(count, self.high - self.low + 1))
        return sorted({round(value) for value in floats})

    def __str__(self) -> str:
        return f"{'log ' if self.log else ''}{self.low}..{self.high}"


@dataclass(frozen=True)
class PowersOfTwo:
    """`2**low`, …, `2**high`: `pow2 16..512`. The study holds the exponent as `log2_NAME`, which stays comparable."""

    low: int
    high: int

    def key(self, name: str) -> str:
        """The name of the parameter in the study."""
        return f"log2_{name}"

    def store(self, value: int) -> int:
        """What the study holds for a value."""
        exponent = value.bit_length() - 1
        if value < 1 or value != 1 << exponent:
            raise SearchError(f"A power of two is needed, not {value!r}.")
        return exponent

    def value(self, stored: int) -> int:
        """The value behind what the study holds."""
        return 1 << stored

    def distribution(self) -> BaseDistribution:
        """What Optuna draws from."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high)

    def suggest(self, trial: Trial, name: str) -> int:
        """Draw a value."""
        return self.value(trial.suggest_int(self.key(name), self.low, self.high))

    def levels(self, count: int) -> list[int]:
        """At most this many powers, from bound to bound."""
        return [1 << exponent for exponent in IntRange(self.low, self.high).levels(count)]

    def __str__(self) -> str:
        return f"pow2 {1 << self.low}..{1 << self.high}"


Dimension = Choice | FloatRange | IntRange | PowersOfTwo


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)
