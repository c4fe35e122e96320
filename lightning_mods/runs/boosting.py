"""Gradient-boosted trees on the rows of a table, within a budget that is a function of the table's size alone."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules import DataError
from datamodules.splits import quantile_bins, split_rows

HARD_STOP = 20.0  # seconds of one core: twice what is planned, for a slow machine
PLANNED = 10.0  # seconds of one core, if the search for the number of iterations goes on to its end; few do
SCORING = 2.0  # of these for the predictions of the rows that are scored
MOST_ITERATIONS, FEWEST_ITERATIONS = 200, 25  # with fewer, boosting has not come far from the trivial prediction
FEWEST_ROWS = 500  # of a sample: rather than with fewer rows it does with fewer iterations
RATE = 0.1  # with the most iterations; with half of them twice as much, up to three times
LEAVES, BINS = 15, 64  # half of scikit-learn's leaves and a quarter of its bins take half of the time
HELD_OUT = 0.15  # of the training rows, on which the number of iterations is found
FEW_ROWS, SPLITS = 500, 5  # of so few rows five shares are held out in turn: one alone would say little
UNTOLD = 40  # iterations where none can be held out

# Seconds on one core, measured with `benchmarks/reference_cost.py`.
_TREE, _TREE_COLUMN, _TREE_ROW, _TREE_CELL = 1.2e-4, 1.2e-5, 2e-8, 2e-9
_BINNED_CELL = 9e-8  # once for each fit
_PREDICTED = 6e-8  # a row by a tree

Values = NDArray[np.float64]


def modelled_seconds(rows: int, columns: int, classes: int, iterations: int, splits: int = 1) -> float:
    """Return the time that a `Boosting` with all iterations takes on one core; classes are 0 for a regression."""
    trees = (splits + 1) * iterations * (1 if classes < 3 else classes)
    each = _TREE + _TREE_COLUMN * columns + _TREE_CELL * rows * columns + (_TREE_ROW + _PREDICTED) * rows
    return (splits * len(_stages(iterations)) + 1) * _BINNED_CELL * rows * columns + trees * each


def _stages(iterations: int) -> list[int]:
    """Return after how many iterations the search looks at what it has: ever twice as many, as each is a fit."""
    stages = [min(FEWEST_ITERATIONS, iterations)]
    while stages[-1] < iterations:
        stages.append(min(2 * stages[-1], iterations))
    return stages


@dataclass(frozen=True)
class Plan:
    """How much boosting may do, by the size of the table alone, so that every run does the same."""

    rows: int  # to train on
    iterations: int
    splits: int  # into rows to learn from and rows held out, to find out how many iterations are best
    scored: int  # rows of each set that is scored

    @classmethod
    def of(cls, rows: int, columns: int, classes: int) -> "Plan | None":
        """Return what `PLANNED` seconds suffice for; None where that is too little to learn from."""
        iterations, needed, budget = MOST_ITERATIONS, min(rows, FEWEST_ROWS), PLANNED - SCORING
        while iterations >= FEWEST_ITERATIONS:
            at_first = modelled_seconds(0, columns, classes, iterations)
            a_row = modelled_seconds(1, columns, classes, iterations) - at_first
            most = int((budget - at_first) / a_row)
            if most >= needed:
                trees = iterations * (1 if classes < 3 else classes)
                many = rows < FEW_ROWS and modelled_seconds(rows, columns, classes, iterations, SPLITS) < budget
                scored = int(SCORING / 2 / (_PREDICTED * trees))  # of two sets
                return cls(min(rows, most), iterations, SPLITS if many else 1, scored)
            iterations //= 2
        return None


class Boosting:
    """Predicts by scikit-learn's HistGradientBoosting; how many iterations are best it finds on rows held out.

    Args:
        x: Features, shape (rows, columns).
        y: Class numbers, or amounts with a mean near 0 and a spread near 1, shape (rows,).
        weights: Weight of each class in the loss, shape (classes,); None for amounts.
        own: Weight of each row beside that of its class, shape (rows,); None for all alike.
        plan: The most iterations, and how they are found.
        seed: Of the rows that are held out. They are held out of the search alone: the final fit has all.
        until: When it must be done, by `time.thread_time`: others on the machine shall not decide what comes out.

    Raises:
        TimeoutError: It would not be.
    """

    def __init__(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        weights: Values | None,
        own: NDArray[Any] | None = None,
        *,
        plan: Plan,
        seed: int,
        until: float,
    ) -> None:
        self._weights, self._until, self._begun = weights, until, time.thread_time()
        self._rate = RATE * min(3.0, MOST_ITERATIONS / plan.iterations)
        # Once, as each of the fits would do it anew; scikit-learn's own takes seconds where rows have weights.
        self._edges = [np.unique(np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1])) for column in x.T]
        x, own = self._binned(x), np.ones(len(y)) if own is None else own.astype(np.float64)
        is_class, splits = weights is not None, range(seed, seed + plan.splits)
        held = [share for each in splits if (share := share_of(y, HELD_OUT, is_class=is_class, seed=each)) is not None]
        self.iterations = self._search(x, y, own, held, plan.iterations) if held else min(UNTOLD, plan.iterations)
        self._model = self._fitted(self._made(y).set_params(max_iter=self.iterations), x, y, own)

    def predict(self, x: NDArray[Any]) -> Values:
        """Return probabilities, shape (rows, classes), or amounts, shape (rows,)."""
        x = self._binned(x)
        found = self._model.predict(x) if self._weights is None else self._model.predict_proba(x)
        return self._whole(np.asarray(found, dtype=np.float64))

    def _binned(self, x: NDArray[Any]) -> NDArray[np.float32]:
        places = [np.searchsorted(edges, column, side="right") for edges, column in zip(self._edges, x.T, strict=True)]
        return np.stack(places, axis=1).astype(np.float32)

    def _made(self, y: NDArray[Any]) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor  # half a second

        kind = HistGradientBoostingRegressor if self._weights is None else HistGradientBoostingClassifier
        leaf = min(20, max(2, len(y) // 20))  # 20 is the usual; of 50 rows that would leave one split
        settings = {"learning_rate": self._rate, "max_leaf_nodes": LEAVES, "max_bins": BINS, "min_samples_leaf": leaf}
        return kind(**settings, early_stopping=False, random_state=0)

    def _fitted(self, model: Any, x: NDArray[Any], y: NDArray[Any], own: Values) -> Any:
        if self._weights is None:
            return model.fit(x, y, sample_weight=None if (own == 1).all() else own)
        self._classes, self._rows = np.unique(y), len(y)
        mass = (np.bincount(y, own, len(self._weights)) + 1) * self._weights  # one for a class without rows
        self._shares = mass / mass.sum()
        return model.fit(x, y, sample_weight=self._weights[y] * own)

    def _whole(self, found: Values) -> Values:
        """Return probabilities of all classes; their shares weigh as much as one row, so none is impossible."""
        if self._weights is None:
            return found
        out = np.tile(self._shares / (self._rows + 1), (len(found), 1))
        out[:, self._classes] += found * (self._rows / (self._rows + 1))
        return out

    def _search(
        self, x: NDArray[Any], y: NDArray[Any], own: Values, held: Sequence[NDArray[np.bool_]], most: int
    ) -> int:
        models, best, stage = [self._made(y[~out]).set_params(warm_start=True) for out in held], 1, 1
        for stage in _stages(most):
            losses = np.zeros(stage)
            for model, out in zip(models, held, strict=True):
                self._fitted(model.set_params(max_iter=stage), x[~out], y[~out], own[~out])
                staged = model.staged_predict if self._weights is None else model.staged_predict_proba
                losses += list(self._losses(staged(x[out]), y[out], own[out]))
            best = 1 + int(np.argmin(losses))
            if best < 0.8 * stage:  # it has been rising since
                break
            self._expect(1.0 if stage < most else 0.0)  # the next stage takes as long as all until here
        self._expect(best / stage)  # and so does the final fit for as many iterations
        return best

    def _losses(self, staged: Iterator[Any], y: NDArray[Any], own: Values) -> Iterator[float]:
        for found in staged:
            if self._weights is None:
                yield float((np.square(found - y) * own).sum())
            else:
                right = self._whole(found)[np.arange(len(y)), y]
                yield -float((np.log(np.maximum(right, 1e-300)) * self._weights[y] * own).sum())  # 0 has no weight

    def _expect(self, more: float) -> None:
        """Give up where so many times the time until now is too long."""
        now = time.thread_time()
        if now + more * (now - self._begun) > self._until:
            raise TimeoutError


def share_of(y: NDArray[Any], share: float, *, is_class: bool, seed: int) -> NDArray[np.bool_] | None:
    """Return a mask of rows, a share of each class or decile of `y`; None where there are too few rows for it."""
    strata = y if is_class else quantile_bins(y)
    try:
        split = split_rows(np.arange(len(y)), strata, val_fraction=share, test_fraction=0.0, seed=seed)
    except DataError:
        return None
    mask = np.zeros(len(y), dtype=bool)
    mask[split.val] = True
    return mask


def sample(y: NDArray[Any], rows: int, *, is_class: bool, seed: int) -> NDArray[np.int64]:
    """Return the numbers of about so many rows, as many of each class or decile as is its share; all, if not more."""
    left_out = share_of(y, 1 - rows / len(y), is_class=is_class, seed=seed) if rows < len(y) else None
    return np.arange(len(y)) if left_out is None else np.flatnonzero(~left_out)
