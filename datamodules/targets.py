"""The target column: what task it makes, its classes or numbers, and what a constant would score."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.cells import SAMPLE, Kind, as_labels, as_numbers, kind_of, number_of, single
from datamodules.columns.written import NumberCounts, Written, described, maybe_thousands, read_written
from datamodules.errors import DataError, nearest, shortened
from datamodules.readers.table import Table

Task = Literal["classification", "regression"]

MAX_INTEGER_CLASSES = 20  # whole numbers with more distinct values than this are amounts, not classes
MIN_ROWS_PER_CLASS = 5  # on average, for whole numbers to be classes
MAX_TARGET = 1e18
_EXACT = 2.0**53  # float64 tells whole numbers apart up to here
_KINDS: dict[Kind, str] = {"time": "dates or times", "other": "neither numbers nor names"}  # that are no target


@dataclass(frozen=True)
class Target:
    """A target column that was read."""

    task: Task
    values: NDArray[Any]  # shape (rows,): class numbers as int64 (-1 where missing), or float64 (NaN where missing)
    class_names: tuple[str, ...] | None = None  # by number, for a classification
    written: Written = ()  # how its numbers are written, see there
    note: str | None = None  # what a user should know about that

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Return which rows have no target, shape (rows,)."""
        return np.asarray(self.values < 0 if self.task == "classification" else np.isnan(self.values))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Return the rows of each class, for a classification."""
        return np.bincount(self.values[self.values >= 0], minlength=len(self.class_names or ()))


def check_target(table: Table, target: str | None) -> str:
    """Return the name of the target column; raise a DataError if a file's was not named, or is not there."""
    name = target if target is not None else table.default_target
    if name is None:
        asked = f"Which column of {table.label!r} shall be predicted? Give --data.target=NAME"
        raise DataError(f"{asked}; it has {shortened(map(repr, table.names), 30)}.")
    if name not in table.names:
        raise DataError(f"{table.label!r} has no column {name!r} for a target; it has {nearest(name, table.names)}.")
    return name


def read_target(table: Table, name: str, task: str, counts: NumberCounts | None = None) -> Target:
    """Read the target for a task, which "auto" tells from its values; raise a DataError if it cannot be that.

    `counts`, of nothing so far, know what the user said of how numbers are written.
    """
    written, note = _written(table, name, counts or NumberCounts())
    return replace(_read_target(table, name, task, written), written=written, note=note)


def _written(table: Table, name: str, counts: NumberCounts) -> tuple[Written, str | None]:
    # A plain column is not counted, unless the user said something.
    arrays = (single(chunk, name) for chunk in table.chunks([name]))
    texts = [array for array in arrays if kind_of(array.type) == "text"]
    if not texts:
        return (), None
    if not counts.forced and not any(as_numbers(array).n_junk for array in texts):
        return _dots(table, name, texts)
    for array in texts:
        counts.add(array)
    written = counts.written() or ()
    return written, f"{name}: {described(written)}" if written else None


def _dots(table: Table, name: str, texts: Sequence[Any]) -> tuple[Written, str | None]:
    # Numbers such as 1.234 alone are a thousand and more where other columns have decimal commas.
    if table.delimiter is None or not (example := maybe_thousands(texts[0].slice(0, SAMPLE).to_pylist())):
        return (), None
    counts = NumberCounts(",", ".")
    for array in texts:
        counts.add(array)
    if not counts.only_thousands:
        return (), None
    if _has_decimal_commas(table, name):
        as_others = f"as others have decimal commas; --data.decimal=. reads {example!r} as a fraction"
        return (",", ".", ""), f"{name}: numbers written with a point between thousands, {as_others}"
    if table.delimiter != ";":
        return (), None
    return (), f"{name}: {example!r} is read as a fraction; if it is a thousand and more, --data.thousands=."


def _has_decimal_commas(table: Table, target: str) -> bool:
    some = next(iter(table.chunks([name for name in table.names if name != target]))).slice(0, SAMPLE)
    for name in some.column_names:
        counts = NumberCounts()
        counts.add(single(some, name))
        if not counts.ambiguous and (counts.written() or ("",))[0] == ",":
            return True
    return False


def _read_target(table: Table, name: str, task: str, written: Written) -> Target:
    kind, numbers, example = _as_numbers(table, name, written)
    _check_kind(table, name, kind)
    if numbers is None or kind in ("bool", "category"):
        return _named(table, name, task, numbers, example)
    _check_finite(table, name, numbers)
    present = numbers[~np.isnan(numbers)]
    if len(present) == 0:
        raise DataError(f"Column {name!r} of {table.label!r} has no target in any of {len(numbers)} rows.")
    distinct = np.unique(present)
    whole = bool(np.all(distinct == np.floor(distinct)))
    few = len(distinct) <= MAX_INTEGER_CLASSES and len(present) >= MIN_ROWS_PER_CLASS * len(distinct)
    if task == "regression" or (task == "auto" and not (whole and few)):
        return _regression(table, name, numbers)
    if not whole and not few:
        found = f"{len(distinct)} different numbers such as {present[0]:g} in {len(present)} rows"
        raise DataError(f"Column {name!r} has {found}: no classes. Use --data.task=regression.")
    if np.abs(distinct).max() >= _EXACT:
        return _named(table, name, task, numbers, None)
    names = tuple(str(int(v)) if v.is_integer() else repr(v) for v in distinct.tolist())
    if kind == "text" and {*read_labels(table, name)[1]} - {*names}:  # "01": a class is called what the file calls it
        return _named(table, name, task, numbers, None)
    codes = np.searchsorted(distinct, numbers).astype(np.int64)
    return Target("classification", np.where(np.isnan(numbers), -1, codes), names)


def _check_kind(table: Table, name: str, kind: Kind) -> None:
    if kind in _KINDS:
        raise DataError(f"Column {name!r} of {table.label!r} holds {_KINDS[kind]}; a target is numbers or names.")


def _as_numbers(table: Table, name: str, written: Written) -> tuple[Kind, NDArray[np.float64] | None, str | None]:
    # None for the numbers, and an example, if some cell is none.
    parts: list[NDArray[np.float64]] = []
    kind: Kind = "text"
    n_junk = 0
    example: str | None = None
    for chunk in table.chunks([name]):
        array = single(chunk, name)
        kind = kind_of(array.type)
        if kind in _KINDS:
            return kind, None, None
        read = read_written(array, written)
        n_junk += read.n_junk
        example = example or read.example
        parts.append(read.values)
    numbers = np.concatenate(parts) if parts else np.zeros(0)
    if len(numbers) == 0:
        raise DataError(f"{table.label!r} has a header but no rows.")
    distinct = len(np.unique(numbers[~np.isnan(numbers)]))
    if n_junk and n_junk < 0.1 * len(numbers) and distinct > MAX_INTEGER_CLASSES and kind == "text":
        raise DataError(
            f"The target {name!r} is numbers but for {n_junk} cells such as {example!r}; mend or empty these "
            "(empty ones can be left out with --data.drop_missing_target=true)."
        )
    return kind, None if n_junk else numbers, example


def _check_finite(table: Table, name: str, numbers: NDArray[np.float64]) -> None:
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        raise DataError(
            f"The target {name!r} of {table.label!r} has {len(infinite)} infinite values, the first in row "
            f"{infinite[0] + 1} (the row after the header is 1); make them missing or leave the rows out."
        )


def _regression(table: Table, name: str, numbers: NDArray[np.float64]) -> Target:
    large = np.flatnonzero(np.abs(numbers) > MAX_TARGET)
    if len(large):
        needed = f"The target {name!r} of {table.label!r} needs numbers up to {MAX_TARGET:g}, whose squares fit 32 bits"
        raise DataError(f"{needed}; row {large[0] + 1} holds {numbers[large[0]]:g}. Give it in larger units.")
    return Target("regression", numbers)


def _named(table: Table, name: str, task: str, numbers: NDArray[np.float64] | None, example: str | None) -> Target:
    codes, names = read_labels(table, name)
    if task == "regression":
        if numbers is not None and len(set(names)) > 2:  # a category column of numbers
            return _regression(table, name, numbers)
        shown = example if example is not None else next(iter(names), "")
        needed = f"--data.task=regression needs numbers; the target {name!r} holds {shown!r}."
        raise DataError(f"{needed} Use --data.task=classification.")
    return _numbered(codes, names, in_order(names))


def _numbered(codes: NDArray[np.int64], names: Sequence[str], classes: Iterable[str]) -> Target:
    number = {name: i for i, name in enumerate(classes)}
    remap = np.array([*(number[name] for name in names), -1], dtype=np.int64)  # the last is reached by -1: missing
    return Target("classification", remap[codes], tuple(classes))


def in_order(names: Sequence[str]) -> list[str]:
    """Return class names sorted: as numbers when all of them are, else alphabetically."""
    try:
        return sorted(names, key=int)  # exact, however large
    except ValueError:
        return sorted(names, key=number_of) if all(number_of(n) == number_of(n) for n in names) else sorted(names)


def read_labels(table: Table, name: str) -> tuple[NDArray[np.int64], list[str]]:
    """Read a column as names: codes of shape (rows,), -1 where missing, and the names in order of appearance."""
    places: dict[str, int] = {}
    parts: list[NDArray[np.int64]] = []
    for chunk in table.chunks([name]):
        array = single(chunk, name)
        _check_kind(table, name, kind_of(array.type))
        read = as_labels(array)
        remap = np.array([*(places.setdefault(n, len(places)) for n in read.names), -1], dtype=np.int64)
        parts.append(remap[read.codes])
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64), list(places)


def read_known_target(
    table: Table, name: str, task: Task, class_names: Sequence[str] | None, written: Written = ()
) -> Target:
    """Read the target of another file for a task and classes that are settled, with numbers written likewise.

    A missing column, a class that training never saw, or text where numbers are needed is a DataError.
    """
    check_target(table, name)
    if task == "regression":
        kind, numbers, example = _as_numbers(table, name, written)
        if numbers is None:
            shown = repr(example) if example is not None else _KINDS.get(kind, kind)
            raise DataError(f"The target {name!r} of {table.label!r} must be numbers; it holds {shown}.")
        _check_finite(table, name, numbers)
        return _regression(table, name, numbers)
    known = dict.fromkeys(class_names or ())
    codes, names = read_labels(table, name)
    if len(codes) == 0:
        raise DataError(f"{table.label!r} has a header but no rows.")
    unseen = [n for n in names if n not in known]
    if unseen:
        raise DataError(
            f"{table.label!r} has classes in {name!r} that the training rows lack: {shortened(map(repr, unseen))}; "
            f"known are {shortened(map(repr, known))}."
        )
    return _numbered(codes, names, known)


def check_learnable(target: Target, name: str) -> None:
    """Raise a DataError if the target, over the rows that have one, is nothing to learn."""
    present = target.values[~target.missing]
    if target.task == "regression":
        if len(present) and present.min() == present.max():
            raise DataError(f"The target {name!r} is {present[0]:g} in all {len(present)} rows: nothing to learn.")
        return
    names = target.class_names or ()
    found = int((target.counts > 0).sum())
    if found < 2:
        only = repr(names[0]) if names else "none"
        raise DataError(f"The target {name!r} has one class, {only}, in all {len(present)} rows: nothing to learn.")
    if found * 2 > len(present):
        raise DataError(
            f"The target {name!r} has {found} classes in {len(present)} rows, fewer than 2 rows a class (such as "
            f"{shortened(map(repr, names), 3)}); an identifier? Choose another --data.target, or task=regression."
        )


def majority_metrics(codes: NDArray[np.int64], majority: int) -> dict[str, float]:
    """Score the prediction that is always the class `majority`, on class numbers of shape (rows,).

    `f1` is macro over the classes that occur or are predicted, `auroc` 0.5 by definition. All are NaN without rows,
    `auroc` also where there is one class only.
    """
    if len(codes) == 0:
        return dict.fromkeys(("accuracy", "f1", "auroc"), float("nan"))
    share = float(np.mean(codes == majority))
    present = set(np.unique(codes).tolist())
    f1 = 2 * share / (1 + share) / len(present | {majority})
    return {"accuracy": share, "f1": f1, "auroc": 0.5 if len(present) > 1 else float("nan")}


def mean_metrics(values: NDArray[np.float64], mean: float) -> dict[str, float]:
    """Score the prediction that is always `mean`, on targets of shape (rows,) without NaN.

    `rmse` and `mae` are in the target's units, `r2` is at most 0. All are NaN without rows, `r2` also where all
    targets are one.
    """
    if len(values) == 0:
        return dict.fromkeys(("rmse", "mae", "r2"), float("nan"))
    error = values - mean
    spread = float(np.square(values - values.mean()).sum()) if values.min() < values.max() else 0.0
    r2 = 1 - float(np.square(error).sum()) / spread if spread > 0 else float("nan")
    return {"rmse": float(np.sqrt(np.mean(np.square(error)))), "mae": float(np.mean(np.abs(error))), "r2": r2}
