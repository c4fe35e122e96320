"""Predictions as a table on disk."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

from callbacks.host.files import replacing
from lightning_mods.runs import RunError


@runtime_checkable
class Numbers(Protocol):
    """Matches a tensor and an array: what is written here may come from a runtime that has no torch."""

    ndim: int
    shape: Any

    def tolist(self) -> Any:
        """Return the numbers as Python's."""


def prediction_rows(
    batches: Iterable[object], class_names: Sequence[str] | None
) -> tuple[list[str], Iterator[list[str]]]:
    """Return header and rows of what `predict_step` returned: numbers `[B]`, or probabilities `[B, C]`.

    Batches are taken one by one, as the rows are. There are no names for a regression or a foreign module; a RunError
    says that a foreign module predicts something that is no table.
    """
    tables = (batch for batch in batches if isinstance(batch, Numbers))
    first = next(tables, None)
    if first is None or first.ndim > 2:
        raise RunError("predict_step must return a tensor [rows] or [rows, columns] to be written as a table.")
    tensors = chain([first], tables)
    width = first.shape[1] if first.ndim == 2 else None
    if width is None:
        return ["prediction"], ([_text(value)] for batch in tensors for value in batch.tolist())
    rows = (row for batch in tensors for row in batch.tolist())
    if class_names is None or len(class_names) != width:
        return [f"prediction_{i}" for i in range(width)], ([*map(_text, row)] for row in rows)
    header = ["prediction", *(f"probability_{name}" for name in class_names)]
    return header, ([class_names[row.index(max(row))], *map(_text, row)] for row in rows)


def _text(value: float) -> str:
    return f"{value:.9g}"  # nine digits tell every float32 from its neighbours


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    """Write a CSV and return its number of rows; on an error the file that was there stays."""
    if path.is_dir():
        raise RunError(f"--output needs a file; {path} is a folder.")
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        return _write(file, header, rows)


def _write(file: TextIO, header: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007  # the last is the number of all
        writer.writerow(row)
    return count
