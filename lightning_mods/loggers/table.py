"""The table of a CSV logger over a resume: Lightning's begins by deleting the one that is there."""

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only

from callbacks.host.lightning import CSVLogger

TABLE = "metrics.csv"
_ASIDE = re.compile(r"metrics\.(\d+)\.csv")


def set_aside(folder: Path) -> None:
    """Rename the table of a run that goes on, so that the logger finds none to delete."""
    table = folder / TABLE
    if table.exists():
        table.rename(folder / f"metrics.{1 + max((number for number, _ in _pieces(folder)), default=-1)}.csv")


@rank_zero_only
def take_up(logger: CSVLogger, epochs: int, steps: int) -> None:
    """Put the rows that were set aside before those of a run that goes on, where so many epochs and steps are done.

    What an interrupted run had written after its last checkpoint is written again, and left out here.
    """
    folder = Path(logger.log_dir)
    pieces = [path for _, path in _pieces(folder)]
    rows: list[dict[str, str]] = []
    for path in pieces:
        with path.open(newline="", encoding="utf-8") as file:
            piece = list(csv.DictReader(file))
        first = min((epoch for row in piece if (epoch := _number(row, "epoch")) is not None), default=epochs)
        rows = [*_until(rows, first, steps), *piece]
    kept = [{name: cell for name, cell in row.items() if cell} for row in _until(rows, epochs, steps)]
    writer: Any = logger.experiment
    writer.metrics[:0] = kept
    logger.save()
    for path in pieces:
        path.unlink()


def _pieces(folder: Path) -> list[tuple[int, Path]]:
    found = ((_ASIDE.fullmatch(path.name), path) for path in folder.glob("metrics.*.csv"))
    return sorted((int(match[1]), path) for match, path in found if match)


def _until(rows: list[dict[str, str]], epochs: float, steps: int) -> Iterator[dict[str, str]]:
    """Yield the rows of the epochs before one; those without an epoch go by the step, or stand behind the last."""
    numbers = [_number(row, "epoch") for row in rows]
    last = max((at for at, epoch in enumerate(numbers) if epoch is not None and epoch < epochs), default=-1)
    for at, (row, epoch) in enumerate(zip(rows, numbers, strict=True)):
        step = _number(row, "step") or 0
        without = step < steps and (at <= last or step < epochs)
        if (epoch < epochs) if epoch is not None else without:
            yield row


def _number(row: Mapping[str, str], name: str) -> float | None:
    try:
        return float(row[name])
    except (KeyError, ValueError, TypeError):
        return None
