"""Comparison of an exported model with its checkpoint, on rows of the table and on some made up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules import DataError, TabularDataModule
from datamodules.columns.calendar import DateColumn
from datamodules.columns.encoding import CategoryColumn, Column, Encoding
from datamodules.readers import open_table
from lightning_mods.export.runtime import Arrays, Run
from lightning_mods.runs import RunError

TOLERANCE = 1e-5
REAL_ROWS = 1024
MADE_ROWS = 128
_FAR = 6e10  # seconds from 1970, some 1900 years: within the calendars of files
_GAPS = 0.15  # share of the cells that are left out, and of names never seen


@dataclass(frozen=True)
class Difference:
    """Largest difference between the outputs of two models, over all `rows` that were compared.

    `relative` is a share of the output's size and its unit together: a sum of float32 that comes out near 0 keeps
    fewer digits than its parts had.
    """

    largest: float  # in the output's units
    relative: float
    rows: int

    @property
    def tolerable(self) -> bool:
        """Return whether no output differs by more than rounding explains."""
        return self.relative <= TOLERANCE


def difference(found: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]], unit: float | None) -> Difference:
    """Return how far an exported model's outputs are from its checkpoint's, one array an output.

    `unit` is what is large for an output, in its own units: 1 for a probability, the standard deviation for a target;
    None for that of the outputs themselves. Outputs of different shapes are a RunError.
    """
    shapes = [array.shape for array in found], [array.shape for array in wanted]
    if shapes[0] != shapes[1]:
        raise RunError(f"the exported model gives outputs of the shapes {shapes[0]}, the checkpoint {shapes[1]}.")
    largest = relative = 0.0
    for mine, theirs in zip(found, wanted, strict=True):
        a, b = np.asarray(mine, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
        with np.errstate(invalid="ignore"):  # of two infinities
            apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        apart = np.where(np.isnan(apart), np.inf, apart)
        size = _spread(b) if unit is None else unit
        largest = max(largest, float(apart.max(initial=0.0)))
        relative = max(relative, float((apart / (np.nan_to_num(np.abs(b)) + size)).max(initial=0.0)))
    return Difference(largest, relative, len(wanted[0]) if wanted and wanted[0].ndim else 0)


def _spread(values: NDArray[np.float64]) -> float:
    # what is large for these outputs: their standard deviation; 1 where they do not differ
    finite = values[np.isfinite(values)]
    return (float(finite.std()) if len(finite) else 0.0) or 1.0


def in_batches(run: Run, inputs: Arrays, most: int | None) -> list[NDArray[Any]]:
    """Run a model over rows, `most` at a time, and return the outputs put together."""
    rows = len(inputs[0])
    step = most or max(rows, 1)
    parts = [run([array[start : start + step] for array in inputs]) for start in range(0, rows, step)]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def real_rows(data: TabularDataModule) -> tuple[Any | None, str]:
    """Return the first rows, at most `REAL_ROWS`, of the table that the checkpoint was trained on, and its name.

    In place of the rows (an Arrow table) stands None if they cannot be read, and then why in place of the name.
    """
    try:
        table = open_table(str(data.path))
        data.learned.encoding.check_columns(table.names, table.label)
        chunk = next(iter(table.chunks(data.learned.encoding.inputs)), None)
    except (DataError, OSError, ImportError) as error:
        return None, " ".join(str(error).split())
    if chunk is None or not chunk.num_rows:
        return None, f"{data.path!r} has no rows"
    return chunk.slice(0, REAL_ROWS), str(data.path)


def made_rows(encoding: Encoding, count: int = MADE_ROWS) -> Any:
    """Draw an Arrow table from what was learned of each column, with gaps, names never seen and numbers far outside."""
    draw = np.random.default_rng(0)
    return pa.table({column.name: _cells(column, count, draw) for column in encoding.columns})


def _cells(column: Column, count: int, draw: np.random.Generator) -> Any:
    gaps = draw.random(count) < _GAPS
    if isinstance(column, CategoryColumn):
        names = [*column.categories, never_seen(column.categories)]
        picked = [names[i] for i in draw.integers(len(names), size=count)]
        return pa.array([None if gap else name for gap, name in zip(gaps, picked, strict=True)], type=pa.string())
    with np.errstate(over="ignore"):
        # a heavy tail: the logarithm beyond six scales is part of what is compared
        cells = column.mean + column.scale * draw.standard_t(2, size=count)
    cells[~np.isfinite(cells)] = column.mean
    if isinstance(column, DateColumn):
        seconds = np.clip(cells, -_FAR, _FAR).astype(np.int64)
        return pa.array(seconds, mask=gaps).cast(pa.timestamp("s"))
    return pa.array(np.where(gaps, np.nan, cells), from_pandas=True)


def never_seen(categories: Sequence[str]) -> str:
    """Return a name that is none of `categories`."""
    name = "never seen"
    while name in categories:
        name += "!"
    return name
