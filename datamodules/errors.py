"""The error of this package, lists of names for its messages, and checks of arguments made before anything is read."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

MAX_BINS = 256


class DataError(ValueError):
    """Raised when the table, or what was asked of it, is wrong; one line: what is needed, what came, what would do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def printable(text: str) -> str:
    """Return a text with a backslash escape for each character that no terminal should be sent, and no line end."""
    escaped = (c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)
    return "".join(escaped)


def nearest(name: str, names: Iterable[str], limit: int = 12) -> str:
    """Return `names` as a list in words, those most like `name` first; what exceeds `limit` is only counted."""
    wanted = name.casefold()
    ranked = sorted(names, key=lambda n: -SequenceMatcher(None, wanted, n.casefold()).ratio())
    return shortened([repr(n) for n in ranked], limit)


def shortened(items: Iterable[object], limit: int = 6) -> str:
    """Return `items` joined with commas; what exceeds `limit` is only counted."""
    words = [str(item) for item in items]
    rest = len(words) - limit
    return ", ".join(words[:limit]) + (f" and {rest} more" if rest > 0 else "")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise a DataError unless `value` is one of `choices`."""
    if value not in choices:
        raise DataError(f"--data.{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def check_fractions(val: float, test: float) -> None:
    """Raise a DataError unless both are shares and leave some rows to train on; NaN is no share."""
    for name, value in (("val_fraction", val), ("test_fraction", test)):
        if not 0 <= value < 1:
            raise DataError(f"--data.{name} must be at least 0 and below 1, a share of the rows; got {value!r}.")
    if val + test >= 1:
        given = f"--data.val_fraction={val:g} and --data.test_fraction={test:g}"
        raise DataError(f"{given} leave no training rows; their sum must be below 1.")


def check_bins(value: object) -> None:
    """Raise a DataError unless `value` is 0 or a whole number from 2 to `MAX_BINS`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole and (value == 0 or 2 <= value <= MAX_BINS)):  # type: ignore[operator]
        raise DataError(f"--data.bins must be 0 (none) or a whole number from 2 to {MAX_BINS}; got {value!r}.")


def check_batch_size(value: object) -> None:
    """Raise a DataError unless `value` is a whole number of at least 1 or one of the two words."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value not in ("auto", "full") and not (whole and value >= 1):  # type: ignore[operator]
        raise DataError(f'--data.batch_size must be a whole number of at least 1, "auto" or "full"; got {value!r}.')
