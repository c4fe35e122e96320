"""The error of this package, lists of names for its messages, and checks of arguments made before anything is read."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import islice

MAX_BINS = 256
_LONGEST = 2000  # characters of a message; a cell or a name may have millions
_COMPARED = 120  # characters of a name that are looked at, and shown in a list
_RANKED = 1000  # names that are compared letter by letter


class DataError(ValueError):
    """Raised when the table, or what was asked of it, is wrong; one line: what is needed, what came, what would do."""

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST - 500]} … {line[-500:]}"
        super().__init__(printable(line))


def printable(text: str) -> str:
    """Return a text with a backslash escape for each character that no terminal should be sent, and no line end."""
    escaped = (c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)
    return "".join(escaped)


def nearest(name: str, names: Iterable[str], limit: int = 12) -> str:
    """Return `names` as a list in words, those most like `name` first; what exceeds `limit` is only counted."""
    wanted = name.casefold()[:_COMPARED]
    ranked = list(names)
    if len(ranked) > _RANKED:  # exactly are they compared only where they have the letters
        letters = {*wanted}
        ranked.sort(key=lambda n: -len(letters.intersection(n[:_COMPARED].casefold())))
    likeness = SequenceMatcher(None, b=wanted)

    def unlike(other: str) -> float:
        likeness.set_seq1(other.casefold()[:_COMPARED])
        return -likeness.ratio()

    ranked[:_RANKED] = sorted(ranked[:_RANKED], key=unlike)
    return shortened(map(repr, ranked), limit)


def shortened(items: Iterable[object], limit: int = 6) -> str:
    """Return `items` joined with commas; what exceeds `limit` is only counted, and a long one is cut."""
    words = list(islice(items := iter(items), limit))
    rest = sum(1 for _ in items)
    cut = (text if len(text) <= _COMPARED else f"{text[:_COMPARED]}…" for text in map(str, words))
    return ", ".join(cut) + (f" and {rest} more" if rest > 0 else "")


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


def check_folds(folds: object, fold: object, val_path: object, time: object) -> None:
    """Raise a DataError unless rows can be cut into so many folds, 0 for none, of which `fold` is one, 0 for none."""
    for name, value in (("folds", folds), ("fold", fold)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0 or (name == "folds" and value == 1):
            needed = "0 (none) or at least 2" if name == "folds" else "the number of a fold, from 1, or 0 (none)"
            raise DataError(f"--data.{name} must be a whole number, {needed}; got {value!r}.")
    assert isinstance(folds, int)
    assert isinstance(fold, int)
    if fold > folds:
        raise DataError(f"--data.fold={fold} needs --data.folds of at least that; got {folds}.")
    if folds and time is not None:
        what = "a fold of older rows would be predicted by what later ones taught"
        raise DataError(f"--data.folds does not go with --data.time: {what}; leave one of the two out.")
    if folds and val_path is not None:
        raise DataError("--data.folds and --data.val_path are two ways to validate; give one.")


def check_batch_size(value: object) -> None:
    """Raise a DataError unless `value` is a whole number of at least 1 or one of the two words."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value not in ("auto", "full") and not (whole and value >= 1):  # type: ignore[operator]
        raise DataError(f'--data.batch_size must be a whole number of at least 1, "auto" or "full"; got {value!r}.')
