"""Short names for what is searched, and values as a person reads them."""

from collections.abc import Iterable
from typing import Any


def short_names(names: Iterable[str]) -> dict[str, str]:
    """The last word of each flag, `lr` for `model.lr`; the whole one where two would be alike."""
    names = list(names)
    last = [name.rpartition(".")[2] for name in names]
    return {name: short if last.count(short) == 1 else name for name, short in zip(names, last, strict=True)}


def shown(value: Any) -> str:
    """A value in few letters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
