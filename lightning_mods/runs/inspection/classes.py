"""How a classifier does on each class, what it takes for what, and how sure it is against how often it is right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import printable
from lightning_mods.loggers.terminal import aligned
from lightning_mods.runs.predictions import write_csv

MOST_CLASSES = 1000  # of a confusion matrix: a file of a million cells
SHOWN = 20  # classes in the terminal; of more those with the lowest f1
_CONFUSED = 3  # pairs of classes in the terminal
BINS = 10  # of confidence, of equal width
_NAME = 30  # characters of a class's name in the terminal

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Reliability:
    """How often a classifier is right, by how probable it calls the class that it predicts.

    The curve and the error of Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599.
    """

    confidence: NDArray[np.float64]  # mean in each bin, shape (bins,); NaN where it has no row
    accuracy: NDArray[np.float64]  # share that is right, likewise
    rows: Counts

    @property
    def error(self) -> float:
        """Return the expected calibration error: the mean over rows of how far the two are apart in a row's bin."""
        has = self.rows > 0
        return float(np.average(np.abs(self.confidence - self.accuracy)[has], weights=self.rows[has]))


@dataclass(frozen=True)
class ClassTable:
    """Precision, recall and F1 of each class, shape (classes,), and the confusion matrix.

    Precision is NaN for a class that was never predicted, recall for one without rows, f1 where both are so.
    """

    names: tuple[str, ...]
    true: Counts  # rows of each class
    predicted: Counts
    right: Counts
    confusion: Counts | None  # shape (classes, classes), a row for each true class; None for more than `MOST_CLASSES`
    reliability: Reliability

    @classmethod
    def of(cls, probabilities: NDArray[Any], y: Counts, names: Sequence[str]) -> "ClassTable":
        """Count over rows of probabilities, shape (rows, classes), and class numbers, shape (rows,), at least one."""
        found, n = probabilities.argmax(axis=1), len(names)
        true, predicted, right = (np.bincount(each, minlength=n) for each in (y, found, y[found == y]))
        confusion = np.bincount(y * n + found, minlength=n * n).reshape(n, n) if n <= MOST_CLASSES else None
        sure = probabilities[np.arange(len(y)), found].astype(float)
        return cls(tuple(names), true, predicted, right, confusion, _reliability(sure, found == y))

    @property
    def precision(self) -> NDArray[np.float64]:
        """Return the share of the rows predicted as a class that are of it."""
        return _share(self.right, self.predicted)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Return the share of the rows of a class that were predicted as it."""
        return _share(self.right, self.true)

    @property
    def f1(self) -> NDArray[np.float64]:
        """Return the harmonic mean of the two."""
        return _share(2 * self.right, self.predicted + self.true)

    def write(self, folder: Path, stage: str) -> None:
        """Write `classes_STAGE.csv` and `confusion_STAGE.csv`; an empty cell is NaN."""
        rows = zip(self.names, self.precision, self.recall, self.f1, self.true, self.predicted, strict=True)
        cells = ([name, *map(_text, scores), str(n), str(found)] for name, *scores, n, found in rows)
        header = ["class", "precision", "recall", "f1", "rows", "predicted"]
        write_csv(folder / f"classes_{stage}.csv", header, cells)
        if self.confusion is not None:
            lines = zip(self.names, self.confusion.tolist(), strict=True)
            matrix = ([name, *map(str, counts)] for name, counts in lines)
            write_csv(folder / f"confusion_{stage}.csv", ["true class", *self.names], matrix)

    def lines(self) -> list[str]:
        """Return what a terminal shows: the classes, what was taken for what most often, the calibration error."""
        order = list(range(len(self.names)))
        if len(self.names) > SHOWN:
            f1 = np.nan_to_num(self.f1, nan=2.0)
            order = sorted(order, key=lambda at: f1[at])[:SHOWN]
        head = "class" if len(self.names) <= SHOWN else f"class (the {SHOWN} of {len(self.names)} with the lowest f1)"
        table = [[head, "precision", "recall", "f1", "rows"]]
        for at in order:
            scores = (_shown(each[at]) for each in (self.precision, self.recall, self.f1))
            table.append([_name(self.names[at]), *scores, f"{self.true[at]:,}"])
        lines = [*aligned(table, left=[0]), *self._confused()]
        return [*lines, f"expected calibration error: {self.reliability.error:.3f}"]

    def _confused(self) -> list[str]:
        if self.confusion is None:
            return []
        wrong = self.confusion - np.diag(np.diag(self.confusion))
        top = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSED]
        pairs = [(*divmod(int(at), len(wrong)), int(wrong.flat[at])) for at in top if wrong.flat[at]]
        told = (f"{_name(self.names[a])} as {_name(self.names[b])} ({count:,})" for a, b, count in pairs)
        return [f"taken for another most often: {', '.join(told)}"] if pairs else []


def _reliability(sure: NDArray[np.float64], right: NDArray[np.bool_]) -> Reliability:
    bins = np.clip(np.ceil(sure * BINS) - 1, 0, BINS - 1).astype(np.int64)  # a bin includes its upper edge
    rows = np.bincount(bins, minlength=BINS)
    sums = (np.bincount(bins, weights=each, minlength=BINS) for each in (sure, right))
    confidence, accuracy = (_share(each, rows) for each in sums)
    return Reliability(confidence, accuracy, rows)


def _share(part: NDArray[Any], whole: Counts) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return shares


def _name(name: str) -> str:
    return printable(name if len(name) <= _NAME else f"{name[:_NAME]}…")


def _shown(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _text(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"
