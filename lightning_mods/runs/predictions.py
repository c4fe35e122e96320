"""Predictions as a table on disk."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

from callbacks.host.files import replacing
from lightning_mods.runs import RunError

_NO_NUMBERS = ("nan", "inf", "-inf")


@runtime_checkable
class Numbers(Protocol):
    """Matches a tensor and an array: what is written here may come from a runtime that has no torch."""

    ndim: int
    shape: Any

    def tolist(self) -> Any:
        """Return the numbers as Python's."""


def prediction_rows(
    batches: Iterable[object], class_names: Sequence[str] | None, margin: float | None = None
) -> tuple[list[str], Iterator[list[str]]]:
    """Return header and rows of what `predict_step` returned: numbers `[B]`, or probabilities `[B, C]`.

    Batches are taken one by one, as the rows are. With a `margin` there are columns of
    numbers less and more that. There are no names for a regression or a foreign module; a RunError
    says that a foreign module predicts something that is no table.
    """
    tables = (batch for batch in batches if isinstance(batch, Numbers))
    first = next(tables, None)
    if first is None or first.ndim > 2:
        raise RunError("predict_step must return a tensor [rows] or [rows, columns] to be written as a table.")
    tensors = chain([first], tables)
    width = first.shape[1] if first.ndim == 2 else None
    if width is None and margin is not None:
        values = (value for batch in tensors for value in batch.tolist())
        header = ["prediction", "prediction_low", "prediction_high"]
        return header, ([*map(_text, (value, value - margin, value + margin))] for value in values)
    if width is None:
        return ["prediction"], ([_text(value)] for batch in tensors for value in batch.tolist())
    rows = (row for batch in tensors for row in batch.tolist())
    if class_names is None or len(class_names) != width:
        return [f"prediction_{i}" for i in range(width)], ([*map(_text, row)] for row in rows)
    header = ["prediction", *(f"probability_{name}" for name in class_names)]
    return header, ([_label(row, class_names), *map(_text, row)] for row in rows)


def _label(row: Sequence[float], class_names: Sequence[str]) -> str:
    return class_names[row.index(max(row))] if all(map(isfinite, row)) else ""


def _text(value: float) -> str:
    return f"{value:.9g}"  # nine digits tell every float32 from its neighbours


def check_output(output: Path, inputs: Iterable[tuple[str, object]]) -> None:
    """Raise an error if `output` is a folder, or a file that is read; `inputs` are flags with their paths."""
    try:
        writable = b"\0" not in os.fsencode(output)
    except UnicodeEncodeError:  # half of a surrogate pair
        writable = False
    if not writable:
        raise RunError(f"--output needs a path that files can have; {str(output)!r} is none.")
    if output.is_dir():
        raise RunError(f"--output needs a file; {output} is a folder.")
    for flag, path in inputs:
        if path and _is_same(output, str(path)):
            raise RunError(f"--output={output} is the file that {flag}={path} is read from; give another --output.")


def _is_same(output: Path, path: str) -> bool:
    """Return whether two paths lead to one file, through links or by two names of it."""
    with suppress(OSError, ValueError, RuntimeError):  # no path, or one of a user who is not there: no file
        file = Path(path).expanduser()
        return output.is_file() and file.is_file() and output.samefile(file)
    return False


def write_predictions(
    output: Path,
    batches: Iterable[object],
    class_names: Sequence[str] | None,
    model: object,
    margin: float | None = None,  # of the intervals around numbers
) -> str:
    """Write predictions as a CSV and return what is to be said of it; on an error the file that was there stays.

    A RunError says that no row has a number as its prediction: then something is wrong with `model`, which is named.
    """
    header, rows = prediction_rows(batches, class_names, margin)
    first = 1 if len(header) > 1 and header[0] == "prediction" and margin is None else 0  # behind the label
    lost = 0

    def counted() -> Iterator[Sequence[str]]:
        nonlocal lost
        count = 0
        for row in rows:
            count += 1
            lost += all(cell in _NO_NUMBERS for cell in row[first:])
            yield row
        if lost == count > 0:
            raise RunError(f"{model} predicts no number for any of {count} rows: all are NaN or infinite.")

    count = write_csv(output, header, counted())
    some = f"; {lost} of them are no numbers (NaN or infinite)" if lost else ""
    return f"{count} predictions in {output}{some}"


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    """Write a CSV and return its number of rows; on an error the file that was there stays."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        return _write(file, header, rows)


def _write(file: TextIO, header: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007  # the last is the number of all
        writer.writerow(row)
    return count
