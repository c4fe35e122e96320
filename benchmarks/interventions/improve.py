"""Measure `fit --improve=3` from bad settings against what a study of 30 trials finds, on the ten held-out tables.

    PYTHONPATH=. python -m benchmarks.interventions.improve --folder=FOLDER

Each table begins with one bad setting, the recipe of `fit` otherwise; the study has the recipe. What counts is the test
loss: how far `--improve` stays behind the study, as a share of the room from the trivial loss down to the better one.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.interventions import tables

BAD = {  # the learning rate of the recipe is 0.5
    "lr ÷ 30": "--model.lr=0.0167",
    "lr × 10": "--model.lr=5",
    "decay 0.1": "--model.weight_decay=0.1",
    "width 4": "--model.hidden_sizes=[4]",
    "dropout 0.8": "--model.dropout=0.8",
    "3 epochs": "--trainer.max_epochs=3",
}
ROWS = 3000  # of a table: a study takes seconds then


def write_table(name: str, folder: Path) -> Path:
    """Write some rows of a table as CSV, its target the last column."""
    t = tables.load(name)
    columns = {f"x{i}": column[:ROWS] for i, column in enumerate(t.raw.T)}
    target = [f"class {each}" for each in t.y[:ROWS]] if t.classes else t.y[:ROWS]
    path = folder / f"{name}.csv"
    pd.DataFrame({**columns, "y": target}).to_csv(path, index=False)
    return path


def run(verb: str, *flags: str) -> str:
    """Run a verb and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", f"lightning_mods.{verb}", *flags], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{verb} {' '.join(flags)}\n{done.stderr[-2000:]}")
    return done.stdout


def test_loss(place: str, *data: str) -> tuple[float, float]:
    """Return the test loss of the best checkpoint in a folder, and the trivial one."""
    printed = run("test", "--ckpt_path=best", place, *data)
    rows = re.findall(r"^(loss(?: of the ensemble)?)  +(\S+)  +(\S+)", printed, re.MULTILINE)
    _, loss, trivial = rows[-1]  # the ensemble's, where there is one
    return float(loss), float(trivial)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the tables and the runs")
    args = parser.parse_args()
    print("| table | begins with | first fit | `--improve=3` | study | trivial | behind the study |\n|" + "---|" * 7)
    behind = []
    for number, name in enumerate(sorted(tables.HELD_OUT)):
        what, bad = list(BAD.items())[number % len(BAD)]
        folder = args.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        data = (f"--data.path={write_table(name, folder)}", "--data.target=y")
        losses = []
        for kind, verb, flags in (
            ("first", "fit", [bad]),
            ("improved", "fit", [bad, "--improve=3"]),
            ("study", "study", ["--study.n_trials=30", "--study.refit=true"]),
        ):
            place = f"--trainer.default_root_dir={folder / kind}"
            run(verb, *data, place, *flags)
            losses.append(test_loss(place, *data))
        first, improved, study = (loss for loss, _ in losses)
        trivial = losses[0][1]
        behind.append((improved - study) / (trivial - min(improved, study)))
        print(
            f"| {name} | {what} | {first:.4g} | {improved:.4g} | {study:.4g} | {trivial:.4g} | {behind[-1]:+.1%} |",
            flush=True,
        )
    print(f"\nWithin 10 % of the room: {np.mean(np.array(behind) <= 0.10):.0%} of {len(behind)}.")


if __name__ == "__main__":
    main()
