"""Fit the two tree ensembles behind `diagnose` and write them as numbers into `callbacks/diagnosis/trees/curves.json`.

    python benchmarks/runs/fit_trees.py --curves ../shared/curves

Two questions, each a small ensemble of boosted trees: *is it overfit?* and *if not, is it underfit?* The
first is fitted on our own runs and on the curve sets; the second on our own runs alone, for nobody else
labelled underfitting. Tables in `tables.HELD_OUT` never enter. `oof.json` keeps the prediction that each
development run got from a model that saw neither its table nor, in the other sets, its task.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import labels
import numpy as np
import tables
from sklearn.ensemble import HistGradientBoostingClassifier

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.ensembles import plain  # noqa: E402
from callbacks.diagnosis import features as fit_features  # noqa: E402
from callbacks.diagnosis.curves import read_curve  # noqa: E402

TARGET = ROOT / "callbacks" / "diagnosis" / "trees" / "curves.json"
FOLDS = 5
THREE = ("underfit", "good", "overfit")
# More of what cannot lower the odds of overfitting: the loss got worse, in either unit, or is rising now.
RISING = {"worsening": 1, "worsening_noise": 1, "val_half": 1}
# More of what cannot lower the odds of underfitting: both losses were still falling.
FALLING = {"val_gain": 1, "val_half": -1, "train_gain": 1}


@dataclass
class Rows:
    """Rows of features with what the fit needs to know of each."""

    x: list[list[float]] = field(default_factory=list)
    label: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)

    def add(self, run: labels.Run, weight: float) -> None:
        val = read_curve(run.val_loss)
        if val is None or val.count < 3:
            return
        self.x.append(fit_features.features(read_curve(run.train_loss), val, run.baseline_loss))
        self.label.append(run.label)
        self.group.append(run.table)
        self.weight.append(weight)


def variants(run: labels.Run, seed: int) -> Iterable[labels.Run]:
    """The run as it is, noisier, seldom evaluated, and without what only our own modules know."""
    r = np.random.default_rng([seed, *map(ord, run.id)])
    blind = replace(run, baseline_loss=None)
    yield run
    yield labels.noisy(run, r.uniform(0.005, 0.05), seed)
    yield labels.evaluated(run, 10)
    yield blind
    yield labels.noisy(blind, r.uniform(0.005, 0.05), seed + 1)
    yield labels.noisy(
        labels.evaluated(run if r.random() < 0.5 else blind, int(r.integers(5, 30))), r.uniform(0, 0.03), seed
    )
    yield replace(blind, train_loss=[])


def ours(runs: Iterable[labels.Run]) -> Rows:
    """Rows of our own runs; the rarer a verdict, the more each of its runs counts."""
    runs = [run for run in runs if run.label in THREE]
    share = {each: sum(run.label == each for run in runs) / len(runs) for each in THREE}
    rows = Rows()
    for number, run in enumerate(runs):
        for variant in variants(run, number):
            rows.add(variant, (1 / 3 / share[run.label]) ** 0.75 / 7)
    return rows


def others(curves: Path) -> Rows:
    """Rows of the curve sets: whether they overfit is all that their labels say."""
    rows = Rows()
    taskset = (run for run in labels.read_taskset(curves) if run.label in ("ok", "overfit", "not_learning"))
    for number, run in enumerate([*taskset, *labels.read_simulated(curves)]):
        label = "overfit" if run.label == "overfit" else "not"
        for base in {run.baseline_loss, None}:
            known = replace(run, label=label, baseline_loss=base)
            weight = 1.0 if label == "overfit" else 0.4  # the rarer counts more
            rows.add(known, weight)
            rows.add(labels.noisy(known, 0.02, number), weight / 4)
    return rows


def model(signs: dict[str, int]) -> HistGradientBoostingClassifier:
    """Small, slow and held to the direction in which evidence points."""
    return HistGradientBoostingClassifier(
        learning_rate=0.06, max_iter=120, max_leaf_nodes=8, min_samples_leaf=40, l2_regularization=5.0,
        max_features=0.4, random_state=0, early_stopping=False,
        monotonic_cst=[signs.get(name, 0) for name in fit_features.NAMES],
    )  # fmt: skip


def fit(mine: Rows, foreign: Rows) -> tuple[Any, Any]:
    """Fit both questions."""
    x, y, w = np.array(mine.x), np.array(mine.label), np.array(mine.weight)
    if foreign.x:
        all_x, all_y = np.vstack([x, foreign.x]), np.concatenate([y, foreign.label])
        all_w = np.concatenate([w, foreign.weight])
    else:
        all_x, all_y, all_w = x, y, w
    over = model(RISING).fit(all_x, all_y == "overfit", all_w)
    rest = y != "overfit"
    under = model(FALLING).fit(x[rest], y[rest] == "underfit", w[rest])
    return over, under


def as_numbers(over: Any, under: Any, mine: Rows) -> dict[str, dict[str, Any]]:
    """Both questions as numbers, compared with the ensembles on our own rows."""
    return {name: plain(each, np.array(mine.x), digits=4) for name, each in (("overfit", over), ("underfit", under))}


def write(numbers: dict[str, dict[str, Any]], source: str) -> None:
    """Write the numbers, a tree a line."""
    lines = [
        "{",
        ' "about": "A tree is [feature, threshold, low, high]: up to the threshold go low; '
        'a leaf adds to the log-odds.",',
        f' "source": {json.dumps(source)},',
        ' "made_by": "python benchmarks/runs/fit_trees.py --curves ../shared/curves",',
    ]
    for name, found in numbers.items():
        trees = ",\n".join("  " + json.dumps(tree, separators=(",", ":")) for tree in found["trees"])
        lines += [
            f' "{name}": {{"start": {found["start"]}, "trees": [',
            trees,
            " ]}" + ("," if name == "overfit" else ""),
        ]
    TARGET.write_text("\n".join([*lines, "}"]) + "\n", encoding="utf-8")


def folds(groups: Iterable[str]) -> dict[str, int]:
    """A fold for every group, the same for whoever asks."""
    names = sorted(set(groups))
    r = np.random.default_rng(0)
    return {names[i]: k % FOLDS for k, i in enumerate(r.permutation(len(names)))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=HERE / "runs.jsonl.gz")
    parser.add_argument("--curves", type=Path, help="folder of the curve sets; left out, they do not enter")
    args = parser.parse_args()
    runs = [run for run in labels.read(args.runs) if run.table not in tables.HELD_OUT]
    mine = ours(runs)
    foreign = others(args.curves) if args.curves and args.curves.is_dir() else Rows()
    if not foreign.x:
        print("no curve sets: fitted on our own runs alone")
    over, under = fit(mine, foreign)
    write(
        as_numbers(over, under, mine),
        f"{len(runs)} labelled histories on {len({r.table for r in runs})} tables (benchmarks/runs), "
        f"{len(foreign.x)} rows of other curve sets.",
    )  # fmt: skip
    print(
        f"{len(mine.x)} rows of ours, {len(foreign.x)} of others -> {TARGET.name}, {TARGET.stat().st_size // 1024} kB"
    )


if __name__ == "__main__":
    main()
