"""Fit the trees that weigh the evidence of a fit, and write them as numbers into `callbacks/diagnosis/trees/fits.json`.

    PYTHONPATH=. OMP_NUM_THREADS=1 python -m benchmarks.interventions.fit_trees

Two questions as in `benchmarks/runs`: *is it overfit?* and *if not, is it underfit?*; and for each change the gain that
is to be expected. Tables that are held out never enter. How often an expectation came true is counted on runs of tables
that the trees of its fold had not seen, split by table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from benchmarks.ensembles import plain
from benchmarks.interventions import labels, tables
from callbacks.diagnosis.changes import RULES
from callbacks.diagnosis.curves import read_curve
from callbacks.diagnosis.evidence import Evidence, Settings
from callbacks.diagnosis.fit_features import fit_features

HERE = Path(__file__).parent
TARGET = HERE.parents[1] / "callbacks" / "diagnosis" / "trees" / "fits.json"
FOLDS = 6
THREE = ("underfit", "good", "overfit")
STEPS = 8  # of an expectation, by which it is counted how often it came true
HARM = 0.03  # of the room


@dataclass
class Rows:
    """What a fit would know of some runs, and what became of them."""

    runs: list[labels.Run]
    x: np.ndarray
    weight: np.ndarray

    @property
    def table(self) -> np.ndarray:
        return np.array([run.table for run in self.runs])


def known(run: labels.Run, seed: int) -> Iterator[Evidence]:
    """Yield the evidence as it is, and twice with some of it missing."""
    r, full = np.random.default_rng(seed), run.evidence()
    yield full
    for _ in range(2):
        less = replace(full, reference_loss=None if r.random() < 0.5 else full.reference_loss)
        if r.random() < 0.4:
            less = replace(less, fair_train_loss=None)
        if r.random() < 0.4:
            less = replace(less, val_rows=None, val_error=None, rise_error=None)
        yield replace(less, settings=_forgotten(less.settings, r))


def _forgotten(s: Settings, r: np.random.Generator) -> Settings:
    """A foreign module's: all, what its trainer tells, or nothing."""
    drawn = r.random()
    if drawn < 0.3:
        return s
    if drawn < 0.6:
        return Settings()
    return replace(s, dropout=None, hidden_sizes=None, ema_epochs=None, in_features=None, classes=None, members=None)


def rows_of(runs: Sequence[labels.Run], *, forget: bool = True) -> Rows:
    """Return the rows of runs that have not diverged, and of the same with something forgotten unless told not to."""
    kept, x, weight = [], [], []
    for number, run in enumerate(runs):
        train, val = read_curve(run.train_loss), read_curve(run.val_loss)
        if val is None or run.label("end") == "diverged":
            continue
        every = list(known(run, number)) if forget else [run.evidence()]
        for evidence, counts in zip(every, (1.0, 0.3, 0.3), strict=False):
            kept.append(run)
            x.append(fit_features(train, val, run.baseline_loss, evidence))
            weight.append(counts)
    return Rows(kept, np.array(x), np.array(weight))


def verdict_trees(rows: Rows) -> tuple[Any, Any]:
    """Fit both questions; the rarer a verdict, the more each of its runs counts."""
    label = np.array([run.label("end") for run in rows.runs])
    weight = rows.weight.copy()
    for each in THREE:
        weight[label == each] *= (1 / 3 / max(1e-9, (label == each).mean())) ** 0.5
    clear = np.isin(label, THREE)
    rest = clear & (label != "overfit")

    def model() -> HistGradientBoostingClassifier:
        return HistGradientBoostingClassifier(
            learning_rate=0.05, max_iter=140, max_leaf_nodes=8, min_samples_leaf=40, l2_regularization=10.0,
            max_features=0.3, random_state=0, early_stopping=False,
        )  # fmt: skip

    over = model().fit(rows.x[clear], label[clear] == "overfit", weight[clear])
    return over, model().fit(rows.x[rest], label[rest] == "underfit", weight[rest])


def gain_trees(rows: Rows, name: str) -> Any:
    """Fit the gain of a change, of the best epoch against the best epoch."""
    gains = [run.gains("best").get(name) for run in rows.runs]
    has = np.array([gain is not None for gain in gains])
    y = np.array([np.clip(gain or 0.0, -0.3, 0.6) for gain in gains])  # a few that blew up would say all
    return HistGradientBoostingRegressor(
        learning_rate=0.08, max_iter=60, max_leaf_nodes=6, min_samples_leaf=60, l2_regularization=10.0,
        max_features=0.3, random_state=0, early_stopping=False,
    ).fit(rows.x[has], y[has], rows.weight[has])  # fmt: skip


def folds(names: Sequence[str]) -> np.ndarray:
    """A fold for every run, the same for all of a table."""
    every = sorted(set(names))
    fold = {every[i]: k % FOLDS for k, i in enumerate(np.random.default_rng(0).permutation(len(every)))}
    return np.array([fold[name] for name in names])


@dataclass
class Folds:
    """Trees fitted on the other tables, fold by fold, and the gains that they expect of the runs of their own."""

    rows: Rows
    fold: np.ndarray
    trees: list[dict[str, Any]]
    expected: dict[str, np.ndarray]  # NaN where the change can't be made, or something was forgotten

    @classmethod
    def of(cls, rows: Rows) -> Folds:
        """Fit all of them."""
        fold, trees = folds(list(rows.table)), []
        expected = {name: np.full(len(rows.runs), np.nan) for name in RULES}
        for k in range(FOLDS):
            seen = fold != k
            part = Rows([run for run, s in zip(rows.runs, seen, strict=True) if s], rows.x[seen], rows.weight[seen])
            trees.append(fitted(part))
            for name, ensemble in trees[k]["changes"].items():
                gains = [run.gains("best").get(name) is not None for run in rows.runs]
                asked = ~seen & (rows.weight == 1.0) & np.array(gains)
                if asked.any():
                    expected[name][asked] = ensemble.predict(rows.x[asked])
        return cls(rows, fold, trees, expected)

    def kept(self, name: str, without: int | None = None) -> list[list[float]]:
        """Return how expectations came true, in steps: the least, the mean gain, and how often it fell, rose by 3 %."""
        expected, at = self.expected[name], np.flatnonzero(np.isfinite(self.expected[name]) & (self.fold != without))
        at = at[np.argsort(expected[at])]
        steps: list[list[float]] = []
        for part in np.array_split(at, STEPS):
            a = np.array([self.rows.runs[i].gains("best")[name] for i in part])
            # Half a run is added on either side: nothing is certain.
            shares = [(count + 0.5) / (len(a) + 1) for count in ((a > 0).sum(), (a < -HARM).sum())]
            steps.append([float(expected[part[0]]), float(np.clip(a, -1, 1).mean()), *shares])
        for column, sign in ((1, 1), (2, 1), (3, -1)):  # where more is expected, more came true
            values = np.maximum.accumulate([sign * step[column] for step in steps]) * sign
            for step, value in zip(steps, values, strict=True):
                step[column] = float(value)
        return [[float(f"{v:.3g}") for v in step] for step in steps]

    def shipped(self, models: dict[str, Any], without: int | None = None) -> dict[str, Any]:
        """Return fitted trees as numbers, with how far expectations can be relied on."""

        def numbers(ensemble: Any) -> dict[str, Any]:
            return plain(ensemble, self.rows.x, digits=3, missing=True)

        changes = {name: numbers(each) | {"kept": self.kept(name, without)} for name, each in models["changes"].items()}
        return {"overfit": numbers(models["overfit"]), "underfit": numbers(models["underfit"]), "changes": changes}


def fitted(rows: Rows) -> dict[str, Any]:
    """Fit both questions and the gain of each change."""
    over, under = verdict_trees(rows)
    return {"overfit": over, "underfit": under, "changes": {name: gain_trees(rows, name) for name in RULES}}


def write(found: dict[str, Any], path: Path) -> None:
    """Write the numbers, an ensemble's trees a line."""
    short = lambda value: json.dumps(value, separators=(",", ":"))  # noqa: E731
    lines = ["{", f' "source": {json.dumps(found["source"])},']
    lines += [f' "{name}": {short(found[name])},' for name in ("overfit", "underfit")]
    changes = [f'  "{name}": {short(each)}' for name, each in found["changes"].items()]
    path.write_text("\n".join([*lines, ' "changes": {', ",\n".join(changes), " }", "}"]) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=HERE / "runs.jsonl.gz")
    args = parser.parse_args()
    runs = [run for run in labels.read(args.runs) if not tables.is_held_out(run.table)]
    rows = rows_of(runs)
    source = f"{len(runs)} runs on {len(set(rows.table))} tables, each with its changes (benchmarks/interventions)"
    write({"source": source} | Folds.of(rows).shipped(fitted(rows)), TARGET)
    print(f"{source} -> {TARGET.name}, {TARGET.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
