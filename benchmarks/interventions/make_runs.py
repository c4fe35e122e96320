"""Train runs of MLPs, and each again with one thing changed.

    PYTHONPATH=. OMP_NUM_THREADS=1 python -m benchmarks.interventions.make_runs --groups 420 --out runs.jsonl.gz

Four runs of a group share a table, its split, a shape and an optimizer, and differ in rate, decay, dropout and
schedule. Half of the groups are plain training as in a textbook, half are variations of the recipe of `fit`. What does
not change the shape, the mini-batches or the epochs is trained in one stack, see `training.py`.
"""

import argparse
import gzip
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from torch import Tensor
from torch.nn import functional as F

from benchmarks.interventions import tables
from benchmarks.interventions.training import Member, Outcome, Shared, row_losses, train

RUNS = 4  # of a group
MOST_WORK = 3e11  # multiplications of a group, roughly
TEST_ROWS = 3000
SEEDS = 5  # of an ensemble
SMALL_DECAY = 1e-3  # where there was none, this is what more of it means


@dataclass(frozen=True)
class Group:
    """What the four runs of a group share."""

    table: str
    seed: int
    recipe: bool
    train_rows: int
    val_rows: int
    label_noise: float
    shared: Shared


def draw(table: str, seed: int) -> tuple[Group, list[Member]]:
    """Draw a group the way people have them: small tables as often as large ones, good settings as often as bad."""
    r = np.random.default_rng([17, seed])
    t = tables.load(table)
    recipe = bool(r.random() < 0.5)
    noise = float(r.choice([0, 0.1, 0.3], p=[0.75, 0.15, 0.1]))
    width = int(r.choice([4, 8, 16, 32, 64, 128], p=[0.1, 0.1, 0.2, 0.25, 0.2, 0.15]))
    hidden = (width,) * int(r.choice([1, 2, 3], p=[0.35, 0.5, 0.15]))
    optimizer = "sgd" if recipe or r.random() < 0.55 else "adam"
    momentum = 0.9 if recipe else float(r.choice([0, 0.9]))
    clip = float(r.choice([0.3, 1.0], p=[0.8, 0.2])) if recipe else float(r.choice([0, 1.0], p=[0.8, 0.2]))
    scaling = recipe and bool(r.random() < 0.8)
    epochs = int(r.choice([4, 8, 15, 25, 40, 80, 150], p=[0.08, 0.12, 0.18, 0.2, 0.22, 0.12, 0.08]))
    rows = int(min(r.choice([60, 120, 250, 500, 1000, 2000, 5000], p=[0.07, 0.11, 0.18, 0.22, 0.2, 0.14, 0.08]),
                   0.5 * len(t.y)))  # fmt: skip
    inputs = t.numbers.shape[1] * (tables.BINS if recipe else 1) + t.categories.shape[1]
    while _work(inputs, hidden, rows * epochs) > MOST_WORK and (rows > 150 or epochs > 4):
        rows, epochs = (rows // 2, epochs) if rows > 150 and r.random() < 0.5 else (rows, max(4, epochs // 2))
    val = int(min(r.choice([40, 80, 150, 300, 600, 1200], p=[0.1, 0.15, 0.2, 0.25, 0.2, 0.1]), 0.25 * len(t.y)))
    sizes = [b for b in (8, 16, 32, 64, 128, 256) if b <= rows / 2 and math.ceil(rows / b) * epochs <= 2500]
    if recipe and (usual := _recipe_batch(rows)) in sizes and r.random() < 0.6:
        sizes = [usual]
    shared = Shared(hidden, epochs, int(r.choice(sizes or [rows])), optimizer, momentum, recipe, clip, scaling)
    group = Group(table, seed, recipe, rows, val, noise, shared)
    return group, [_member(r, group, t.classes, k) for k in range(RUNS)]


def _recipe_batch(rows: int) -> int:
    return 32 if rows < 256 else min(1 << int(math.log2(rows / 8)), 128)


def _member(r: np.random.Generator, g: Group, classes: int, number: int) -> Member:
    if g.recipe:
        lr = 0.5 * 10 ** r.uniform(-1.6, 0.8) if r.random() < 0.7 else 0.5
        usual = min(5 / g.train_rows, 0.02) if classes else min(20 / g.train_rows, 2e-3)
        decay = usual * float(r.choice([0, 1, 10, 30], p=[0.15, 0.6, 0.15, 0.1]))
        schedule, ema = ("cosine", 2.0) if r.random() < 0.75 else ("constant", float(r.choice([0.0, 2.0])))
    else:
        low, high = (-2.7, -0.2) if g.shared.optimizer == "sgd" else (-4, -1.5)
        lr, decay = 10 ** r.uniform(low, high), float(r.choice([0, 1e-4, 1e-2, 1e-1], p=[0.5, 0.2, 0.2, 0.1]))
        schedule, ema = str(r.choice(["constant", "step", "cosine"], p=[0.75, 0.1, 0.15])), 0.0
    dropout = float(r.choice([0, 0.2, 0.5], p=[0.6, 0.25, 0.15]))
    return Member("base", number, float(lr), decay, dropout, schedule, ema, seed=1000 * g.seed + number)


def _work(inputs: int, hidden: tuple[int, ...], rows: float) -> float:
    """Multiplications of a group: of twelve members and of the changes that alter the shape or the length."""

    def network(sizes: tuple[int, ...]) -> int:
        return sum(a * b for a, b in zip((inputs, *sizes), (*sizes, 1), strict=True))

    plain, wide = network(hidden), network(tuple(4 * h for h in hidden))
    return 3 * RUNS * rows * (plain * (12 + 4 + 0.5 + 1.5 + 2) + wide)


def changes_in_place(base: Member) -> list[Member]:
    """Return a run with what leaves shape, mini-batches and length as they are."""
    more = base.weight_decay * 10 if base.weight_decay else SMALL_DECAY
    found = [
        base,
        base.changed("lr_up", lr=3 * base.lr),
        base.changed("lr_down", lr=base.lr / 3),
        base.changed("decay_up", weight_decay=more),
        base.changed("dropout_up", dropout=min(0.9, base.dropout + 0.3)),
        *(base.changed(f"seed_{n}", seed=base.seed + 100 * n) for n in range(1, SEEDS)),
    ]
    if base.weight_decay:
        found.append(base.changed("decay_off", weight_decay=0.0))
    if base.dropout:
        found.append(base.changed("dropout_off", dropout=0.0))
    if base.schedule != "cosine":
        found.append(base.changed("cosine", schedule="cosine"))
    if not base.ema_epochs:
        found.append(base.changed("averaged", ema_epochs=2.0))
    return found


def changed_shapes(s: Shared, rows: int) -> dict[str, Shared]:
    """Return what alters the shape, the mini-batches or the length."""
    found = {
        "longer": replace(s, epochs=4 * s.epochs),
        "shorter": replace(s, epochs=max(1, s.epochs // 2)),
        "wider": replace(s, hidden_sizes=tuple(4 * h for h in s.hidden_sizes)),
        "narrower": replace(s, hidden_sizes=tuple(max(1, h // 4) for h in s.hidden_sizes)),
        "deeper": replace(s, hidden_sizes=(*s.hidden_sizes, s.hidden_sizes[-1])),
    }
    if s.batch_size < rows:
        found["batch_up"] = replace(s, batch_size=min(rows, 4 * s.batch_size))
    if s.batch_size >= 8:
        found["batch_down"] = replace(s, batch_size=s.batch_size // 4)
    return found


def split(t: tables.Table, g: Group) -> dict[str, Any]:
    """Draw the rows, and put label noise into all three sets, as it is in life."""
    r = np.random.default_rng([g.seed, 1])
    order = r.permutation(len(t.y))
    rows = {"train": order[: g.train_rows], "val": order[g.train_rows : g.train_rows + g.val_rows]}
    rows["test"] = order[g.train_rows + g.val_rows :][:TEST_ROWS]
    y = t.y.copy()
    if t.classes:
        swap = r.random(len(y)) < g.label_noise
        y = np.where(swap, r.integers(0, t.classes, len(y)), y)
    else:
        y = (y + 2 * g.label_noise * r.standard_normal(len(y))).astype("f4")
    x = torch.from_numpy(t.encoded(rows["train"], g.recipe))
    target = torch.from_numpy(y)
    data = {name: (x[index], target[index]) for name, index in rows.items()}
    return {"rows": rows, "y": y, "data": data}


def trivial(data: dict[str, tuple[Tensor, Tensor]], classes: int, on: str) -> float:
    """Loss of the best constant prediction of the training rows: their class shares, or their mean."""
    fitted, y = data["train"][1], data[on][1]
    if not classes:
        return float((y - fitted.mean()).square().mean())
    share = F.one_hot(fitted, classes).float().mean(0) + 1e-3
    return float(-(share / share.sum()).log()[y].mean())


def reference(t: tables.Table, drawn: dict[str, Any]) -> dict[str, float]:
    """Loss of boosted trees with early stopping, on validation and test rows."""
    rows, y = drawn["rows"], drawn["y"]
    fitted = rows["train"]
    rarest = np.unique(y[fitted], return_counts=True)[1].min() if t.classes else len(fitted)
    # Stopping early takes a tenth of the rows, some of every class.
    stop = len(fitted) >= 100 and rarest >= 2 and len(fitted) // 10 >= t.classes
    how: dict[str, Any] = {"early_stopping": bool(stop), "max_iter": 200 if stop else 40, "random_state": 0}
    kind = HistGradientBoostingClassifier if t.classes else HistGradientBoostingRegressor
    trees = kind(**how).fit(t.raw[fitted], y[fitted])
    found = {}
    for name in ("val", "test"):
        if not t.classes:
            found[name] = float(np.mean((trees.predict(t.raw[rows[name]]) - y[rows[name]]) ** 2))
            continue
        share = np.full((len(rows[name]), t.classes), 1e-6)
        share[:, trees.classes_] += trees.predict_proba(t.raw[rows[name]])
        share /= share.sum(1, keepdims=True)
        found[name] = float(-np.log(share[np.arange(len(share)), y[rows[name]]]).mean())
    return found


def ensemble_loss(outputs: list[Tensor], y: Tensor, classes: int) -> float:
    """Loss of the mean prediction."""
    if not classes:
        return float(row_losses(torch.stack(outputs).mean(0)[None], y, classes).mean())
    share = torch.stack(outputs).softmax(-1).mean(0)
    return float(-share[torch.arange(len(y)), y].clamp(min=1e-12).log().mean())


def run_group(g: Group, bases: list[Member]) -> list[dict[str, Any]]:
    """Train the runs of a group and all their changes; one record a run."""
    t = tables.load(g.table)
    drawn = split(t, g)
    data = drawn["data"]
    found: list[dict[str, Outcome]] = [{} for _ in bases]
    members = [member for base in bases for member in changes_in_place(base)]
    for member, outcome in zip(members, train(g.shared, members, data, t.classes, g.seed), strict=True):
        found[member.base][member.name] = outcome
    for name, shared in changed_shapes(g.shared, g.train_rows).items():
        for member, outcome in zip(bases, train(shared, bases, data, t.classes, g.seed), strict=True):
            found[member.base][name] = outcome
    known = {on: trivial(data, t.classes, on) for on in ("val", "test")}
    level = reference(t, drawn)
    records = []
    for base, outcomes in zip(bases, found, strict=True):
        plain = outcomes["base"]
        seeds = [plain, *(outcomes.pop(f"seed_{n}") for n in range(1, SEEDS))]
        changes = {
            name: {
                "test_end": o.test_end,
                "test_best": o.test_best,
                "val_end": o.val_loss[-1],
                "val_best": min(o.val_loss),
            }
            for name, o in outcomes.items()
            if name != "base"
        }
        together = ensemble_loss([o.outputs for o in seeds if o.outputs is not None], data["test"][1], t.classes)
        changes["ensemble"] = {"test_best": together}
        settings = vars(g.shared) | vars(base)
        records.append(
            {
                "id": f"{g.table}-{g.seed}-{base.base}", "table": g.table, "recipe": g.recipe, "classes": t.classes,
                "train_rows": g.train_rows, "val_rows": len(data["val"][1]), "in_features": data["train"][0].shape[1],
                "label_noise": g.label_noise,
                **{k: v for k, v in settings.items() if k not in ("name", "base", "seed")},
                "baseline_val": known["val"], "baseline_test": known["test"],
                "reference_val": level["val"], "reference_test": level["test"],
                "fair_train_loss": plain.fair_train_loss, "val_error": plain.val_error, "rise_error": plain.rise_error,
                "best_epoch": plain.best_epoch, "test_end": plain.test_end, "test_best": plain.test_best,
                "train_loss": plain.train_loss, "val_loss": plain.val_loss, "val_metric": plain.val_metric,
                "other_seeds": [o.test_best for o in seeds[1:]],
                "changes": changes,
            }
        )  # fmt: skip
    return [_short(record) for record in records]


def _short(value: Any) -> Any:
    """Five digits are enough for a curve; JSON has no NaN."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _short(each) for key, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list | tuple) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0, help="number of the first group")
    parser.add_argument("--every", type=int, default=1, help="take each so-many-th group: for processes side by side")
    parser.add_argument("--groups", type=int, default=420)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    names = [tables.NAMES[i] for i in np.random.default_rng(0).permutation(len(tables.NAMES))]
    with gzip.open(args.out, "wt") as out:
        for number in range(args.first, args.groups, args.every):
            for record in run_group(*draw(names[number % len(names)], number)):
                out.write(json.dumps(record, separators=(",", ":")) + "\n")
            out.flush()
            print(f"{number} {names[number % len(names)]} {time.process_time() - begun:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
