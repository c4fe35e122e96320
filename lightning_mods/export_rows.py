"""Rows to compare an exported model with its checkpoint on: those of the table, and some made up."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules import DataError, TabularDataModule
from datamodules.encoding import CategoryColumn, Column, Encoding
from datamodules.sources import open_table

REAL_ROWS = 1024
MADE_ROWS = 128
_GAPS = 0.15  # share of the cells that are left out, and of names never seen


def real_rows(data: TabularDataModule) -> tuple[Any | None, str]:
    """The first rows of the table that the checkpoint was trained on.

    Returns:
        An Arrow table of at most `REAL_ROWS` rows, None if it cannot be read; and its name, or why not.
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
    """Rows drawn from what was learned of each column, with gaps, names never seen and numbers far outside.

    Returns:
        An Arrow table with the columns of the encoding.
    """
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
    return pa.array(np.where(gaps, np.nan, cells), from_pandas=True)


def never_seen(categories: Sequence[str]) -> str:
    """A name that is none of `categories`."""
    name = "never seen"
    while name in categories:
        name += "!"
    return name
