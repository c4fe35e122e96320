"""Permutation importance: how much worse a model predicts when the cells of one column are shuffled among the rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules import TabularDataModule
from datamodules.errors import printable
from lightning_mods.loggers.terminal import STAGES, aligned
from lightning_mods.models.metrics import R2
from lightning_mods.models.module import MLPModule
from lightning_mods.runs.predictions import write_csv
from lightning_mods.runs.reference import taken

REPEATS = 5
MOST_ROWS = 20_000
MOST_COLUMNS = 2000  # each is a column to shuffle, and to predict all rows for, five times
WORK = 2e9  # rows times columns times features: some minutes on one core with the default network
FEWEST_ROWS = 200  # with fewer the numbers would be noise
SHOWN = 10  # columns in the terminal
_BLOCK = 4096  # rows predicted at once
_NAME = 40  # characters of a column's name in the terminal


@dataclass(frozen=True)
class Importance:
    """How much each column counts for the predictions of some rows, the column that counts most first.

    What shuffling does is negative where predictions became better, as they do by chance for a column that says
    nothing. Two columns that say the same hide each other: shuffling one of them alone does little.
    """

    columns: tuple[str, ...]
    features: tuple[int, ...]  # that each column became
    loss: NDArray[np.float64]  # by which the loss rises, in its units, shape (columns, repeats)
    score: NDArray[np.float64]  # by which accuracy or R² falls, shape (columns, repeats)
    score_name: str  # `accuracy` or `r2`
    stage: str  # whose rows these are: `val` or `test`
    rows: int
    of: int  # rows of the set

    @property
    def header(self) -> list[str]:
        """Return the names of the file's columns; `_std` is the standard deviation over the repeats."""
        measures = ("loss_rise", f"{self.score_name}_drop")
        return ["column", "features", *(f"{name}{end}" for name in measures for end in ("", "_std"))]

    def write(self, path: Path) -> None:
        """Write all columns as a CSV, with the header that `header` describes."""
        rows = zip(self.columns, self.features, self.loss, self.score, strict=True)
        cells = ([name, str(n), *map(_text, (a.mean(), a.std(), b.mean(), b.std()))] for name, n, a, b in rows)
        write_csv(path, self.header, cells)

    def lines(self) -> list[str]:
        """Return what a terminal shows: the columns that count most, each with its standard deviation."""
        some = f"{self.rows:,} of {self.of:,}" if self.rows < self.of else f"{self.rows:,}"
        head = f"importance: each column shuffled {self.loss.shape[1]} times among {some} {STAGES[self.stage]} rows"
        table = [["column", "loss rises by", f"{self.score_name} falls by"]]
        for name, loss, score in list(zip(self.columns, self.loss, self.score, strict=True))[:SHOWN]:
            shown = printable(name if len(name) <= _NAME else f"{name[:_NAME]}…")
            table.append([shown, *(f"{each.mean():.3g} ± {each.std():.2g}" for each in (loss, score))])
        more = len(self.columns) - SHOWN
        return [head, *aligned(table, left=[0]), *([f"and {more} more columns"] if more > 0 else [])]


def _text(value: float) -> str:
    return f"{value:.6g}"


@torch.no_grad()
def importance_of(model: MLPModule, data: TabularDataModule, stage: str, repeats: int = REPEATS) -> Importance | None:
    """Shuffle each column of the table among the rows of `val` or `test`; None where there is nothing to shuffle.

    All features of a column (its number, bins, mark of gaps, categories) move together, so that each row has those of
    one other row. Measured are the loss and accuracy or R². The same seed gives the same numbers. Of a large set about
    `MOST_ROWS` rows are taken, of a table with many columns fewer, see `WORK`. Breiman 2001, Random Forests, 10;
    https://scikit-learn.org/stable/modules/permutation_importance.html
    """
    loader: Any = getattr(data, f"{stage}_dataloader")()
    seed, places = data.learned.seed, _features_of_columns(data)
    columns = [*places]
    if not loader or not 0 < len(columns) <= MOST_COLUMNS:
        return None
    widths = [len(each) for each in places.values()]
    most = max(FEWEST_ROWS, min(MOST_ROWS, int(WORK / len(columns) / max(sum(widths), 1))))
    model.eval()
    like = next(model.parameters())
    found = taken(loader.dataset, slice(None), most, seed)
    x, y, *weight = (torch.from_numpy(each).to(like.device) for each in found if each is not None)
    x = x.to(like)
    loss_before, score_before = _measured(model, x, y, *weight)
    rises, drops = np.zeros((2, len(columns), repeats))
    for column, own in enumerate(places.values()):
        kept = x[:, own]
        for repeat in range(repeats):
            order = np.random.default_rng([seed % 2**64, column, repeat]).permutation(len(x))
            x[:, own] = kept[torch.from_numpy(order).to(kept.device)]
            loss, score = _measured(model, x, y, *weight)
            rises[column, repeat], drops[column, repeat] = loss - loss_before, score_before - score
        x[:, own] = kept
    rank = np.argsort(-rises.mean(axis=1), kind="stable")
    return Importance(
        columns=tuple(columns[i] for i in rank),
        features=tuple(widths[i] for i in rank),
        loss=rises[rank],
        score=drops[rank],
        score_name="r2" if y.is_floating_point() else "accuracy",
        stage=stage,
        rows=len(x),
        of=len(loader.dataset),
    )


def _features_of_columns(data: TabularDataModule) -> dict[str, list[int]]:
    """Return the places of each column's features; an ensemble of folds has those of several encodings of it."""
    places: dict[str, list[int]] = {}
    at = 0
    for column in data.learned.encoding.columns:
        width = len(column.feature_names)
        places.setdefault(column.name, []).extend(range(at, at + width))
        at += width
    return places


def _measured(model: MLPModule, x: Tensor, y: Tensor, weight: Tensor | None = None) -> tuple[float, float]:
    """Return the loss of the predictions, of an ensemble those of all members, and their accuracy or R²."""
    predictions = torch.cat([model(part) for part in torch.split(x, _BLOCK)])
    loss = float(model.logged_loss(model.mean_loss(model.outputs_of(predictions), y, weight)))
    if y.is_floating_point():
        return loss, float(R2()(predictions, y))
    return loss, float((predictions.argmax(dim=-1) == y).float().mean())
