"""What the trials of a wave have in common, so that they can be trained as few groups. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, prod
from typing import Any

from callbacks._search_dimensions import Choice, IntRange, PowersOfTwo
from callbacks._search_space import Space


class Shares:
    """Values that the places of a wave take over from its first one, for which the sampler chooses among all.

    Not in the first wave, whose places are all drawn; and only where there are so few values that it tries each twice
    or so. Who leads is a matter of the place, so that a study that was killed while it drew goes on as it would have.

    Args:
        space: What is searched.
        names: Those of its names that the trials of a group have in common.
        width: Places of a wave.
    """

    def __init__(self, space: Space, names: Sequence[str], *, width: int) -> None:
        found = [name for name in names if name in space]
        many = prod(_count(space[name]) for name in found)
        self._names = found if 1 < many <= width // 2 else []
        self._width = width
        self._leaders: dict[int, dict[str, Any]] = {}

    def note(self, place: int, values: Mapping[str, Any]) -> None:
        """Take note of what a place tries."""
        if place >= self._width and place % self._width == 0 and all(name in values for name in self._names):
            self._leaders[place] = {name: values[name] for name in self._names}

    def at(self, place: int) -> Mapping[str, Any]:
        """What a place takes over."""
        return self._leaders.get(place - place % self._width, {})


def _count(dimension: object) -> float:
    """How many values a dimension has."""
    if isinstance(dimension, Choice):
        return len(dimension.options)
    return dimension.high - dimension.low + 1 if isinstance(dimension, PowersOfTwo | IntRange) else inf
