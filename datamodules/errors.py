"""The one error a user sees when the table or what was asked of it is wrong."""

from collections.abc import Iterable
from difflib import SequenceMatcher


class DataError(ValueError):
    """The table, or what was asked of it, is wrong; one line: what is needed, what came, what would do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def nearest(name: str, names: Iterable[str], limit: int = 12) -> str:
    """List `names`, those most like `name` first, for the end of an error message.

    Args:
        name: What was asked for.
        names: What there is.
        limit: How many are spelt out; the others are counted.
    """
    wanted = name.casefold()
    ranked = sorted(names, key=lambda n: -SequenceMatcher(None, wanted, n.casefold()).ratio())
    return shortened([repr(n) for n in ranked], limit)


def shortened(items: Iterable[object], limit: int = 6) -> str:
    """Join `items` with commas; what exceeds `limit` is only counted."""
    words = [str(item) for item in items]
    rest = len(words) - limit
    return ", ".join(words[:limit]) + (f" and {rest} more" if rest > 0 else "")
