"""A trained model with the preprocessing of its table in front, as one network."""

import torch
from torch import Tensor, nn

from datamodules.encoding import TAIL, CategoryColumn, Encoding, NumericColumn
from lightning_mods.models.module import MLPModule

_NOTHING = -1  # no cell has this code once it went through `_codes`


class TableModel(nn.Module):
    """Network that does to a table's cells what `Encoding.encode` does, then what the model does; the same numbers.

    Numbers are standardised in float64, as float32 does not tell one second from the next in a time stamp, and
    handed to the model as float32. It takes one or two inputs: without number columns the codes alone, and without
    category columns the numbers alone.

    Args:
        encoding: Learned on the training rows.
        model: Takes encoded rows `[B, F]`.
    """

    def __init__(self, encoding: Encoding, model: MLPModule) -> None:
        super().__init__()
        self.model = model
        self._numbers = [column for column in encoding.columns if isinstance(column, NumericColumn)]
        self._categories = [column for column in encoding.columns if isinstance(column, CategoryColumn)]
        self.mean: Tensor
        self.scale: Tensor
        self._keep("mean", torch.tensor([column.mean for column in self._numbers], dtype=torch.float64))
        self._keep("scale", torch.tensor([column.scale for column in self._numbers], dtype=torch.float64))
        # A tensor, as exporters write a plain number as float32.
        self.largest: Tensor
        self._keep("largest", torch.tensor(torch.finfo(torch.float64).max, dtype=torch.float64))
        self._add_codes()
        self._add_order(encoding)

    def _keep(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values, persistent=True)

    def _add_codes(self) -> None:
        # for each feature of a category, its column and the two codes that set it
        columns, first, second = [], [], []
        for at, column in enumerate(self._categories):
            unknown, missing = column.unknown_code, column.missing_code
            hot = [(code, _NOTHING) for code in range(len(column.categories))]
            if column.infrequent:
                hot.append((unknown, _NOTHING if column.missing else missing))
            if column.missing:
                hot.append((missing, _NOTHING))
            columns += [at] * len(hot)
            first += [code for code, _ in hot]
            second += [code for _, code in hot]
        self.unknown: Tensor
        self.hot_column: Tensor
        self.hot_code: Tensor
        self.hot_code_too: Tensor
        self._keep("unknown", torch.tensor([c.unknown_code for c in self._categories], dtype=torch.int64))
        self._keep("hot_column", torch.tensor(columns, dtype=torch.int64))
        self._keep("hot_code", torch.tensor(first, dtype=torch.int64))
        self._keep("hot_code_too", torch.tensor(second, dtype=torch.int64))

    def _add_order(self, encoding: Encoding) -> None:
        # where each feature stands among all numbers, then all marks of missing ones, then all of categories
        width = len(self._numbers)
        number, hot, order = 0, 2 * width, []
        for column in encoding.columns:
            if isinstance(column, NumericColumn):
                order += [number] * (not column.constant) + [width + number] * column.indicator
                number += 1
            else:
                order += range(hot, hot + len(column.feature_names))
                hot += len(column.feature_names)
        self.order: Tensor
        self._keep("order", torch.tensor(order, dtype=torch.int64))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Predict rows of a table.

        Args:
            inputs: The numbers `[B, N]`, float64, NaN where one is missing, and the codes of the categories
                `[B, K]`, int64; only the one of them that has a column, where the other has none.

        Returns:
            Class probabilities `[B, C]`, or numbers `[B]` in the target's units.
        """
        parts = self._scaled(inputs[0]) if self._numbers else []
        if self._categories:
            parts.append(self._hot(inputs[-1]))
        out: Tensor = self.model(torch.cat(parts, dim=1).index_select(1, self.order))
        return out

    def _scaled(self, numbers: Tensor) -> list[Tensor]:
        missing = torch.isnan(numbers)
        scaled = torch.where(missing, 0.0, (numbers - self.mean) / self.scale)
        size = torch.minimum(scaled.abs(), self.largest)
        tail = scaled.sign() * (TAIL + torch.log1p((size - TAIL).clamp(min=0.0)))
        return [torch.where(size > TAIL, tail, scaled).float(), missing.float()]

    def _hot(self, codes: Tensor) -> Tensor:
        known = torch.where((codes < 0) | (codes > self.unknown + 1), self.unknown, codes)
        spread = known.index_select(1, self.hot_column)
        return ((spread == self.hot_code) | (spread == self.hot_code_too)).float()
