"""Rows as an exported model takes them: numbers as they stand in the table, and a code for each category."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.encoding import CategoryColumn, Encoding, NumericColumn, Tally, flat


@dataclass(frozen=True)
class RawRows:
    """Some rows, their columns in the order of the encoding's.

    Attributes:
        numbers: float64, shape (rows, number columns); NaN where a cell is missing.
        codes: int64, shape (rows, category columns); see `CategoryColumn.codes`.
    """

    numbers: NDArray[np.float64]
    codes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Any) -> "RawRows":
        return RawRows(self.numbers[rows], self.codes[rows])

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """Those of the two that have a column: a table may have numbers alone, or categories alone."""
        return [array for array in (self.numbers, self.codes) if array.shape[1]]


def raw_rows(encoding: Encoding, chunk: Any, start: int, tally: Tally) -> RawRows:
    """Read a chunk (an Arrow table) as rows for an exported model.

    Args:
        encoding: Says which columns are in use, and the categories' codes.
        chunk: Holds all of `encoding.inputs`; other columns are ignored.
        start: The number of its first row in the file, for messages.
        tally: Collects infinities; check it after the last chunk.

    Raises:
        DataError: A number column holds text, or dates, and did not in training.
    """
    numbers = [c.values(flat(chunk, c), start, tally) for c in encoding.columns if isinstance(c, NumericColumn)]
    codes = [c.codes(flat(chunk, c)) for c in encoding.columns if isinstance(c, CategoryColumn)]
    return RawRows(_beside(numbers, chunk.num_rows, np.float64), _beside(codes, chunk.num_rows, np.int64))


def _beside(columns: list[NDArray[Any]], rows: int, dtype: Any) -> NDArray[Any]:
    return np.stack(columns, axis=1) if columns else np.zeros((rows, 0), dtype=dtype)
