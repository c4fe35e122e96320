"""The memory that reading and encoding a table takes: `python -m benchmarks.memory`.

Each table is made once, and set up for a fit, in processes of their own: a process begins with the peak of the one that
started it. Printed are the rows as they are kept (features,
or numbers that features are made of, and targets), and how much higher the process's peak was than before the table was
opened, also as a multiple of what is kept.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from datamodules import TabularDataModule

TABLES = {"1 000 000 x 20": (1_000_000, 20, "parquet"), "20 000 x 1 000": (20_000, 1000, "parquet")}
TABLES["20 000 x 1 000, text"] = (20_000, 1000, "csv")


def write(path: Path, rows: int, columns: int) -> None:
    """Write a table of normal numbers, whose target hangs on three of its columns."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    x = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    y = x[:, 0] * x[:, 1] + x[:, 2]
    table = pa.table({f"c{i}": x[:, i] for i in range(columns)} | {"y": y})
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pyarrow.parquet.write_table(table, path)


def peak_of(path: str, bins: int) -> str:
    """Set a table up in this process; return what it took."""

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    TabularDataModule("iris", bins=bins).setup("fit")  # what is imported for a first table
    before = peak()
    data = TabularDataModule(path, "y", bins=bins, batch_size=512)
    data.setup("fit")
    sets = [loader.dataset for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    kept = sum(rows.x.nbytes + rows.y.nbytes for rows in sets) / 2**20
    return f"{kept:6.0f} MB  {peak() - before:6.0f} MB  {(peak() - before) / kept:5.2f}"


def main() -> None:
    """Write the tables, start the processes, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("PATH", "BINS"), help="only this one, in this process")
    parser.add_argument("--write", nargs=3, metavar=("PATH", "ROWS", "COLUMNS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write:
        write(Path(asked.write[0]), *map(int, asked.write[1:]))
        return
    if asked.one:
        print(peak_of(asked.one[0], int(asked.one[1])))
        return
    print(f"{'':22}bins    kept    peak over it  peak / kept")
    with tempfile.TemporaryDirectory() as folder:
        for name, (rows, columns, suffix) in TABLES.items():
            path = Path(folder) / f"{rows}_{columns}.{suffix}"
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory"]
            subprocess.run([*command, "--write", str(path), str(rows), str(columns)], check=True)
            for bins in (0, 16):
                each = [*command, "--one", str(path), str(bins)]
                found = subprocess.run(each, capture_output=True, text=True, check=True).stdout
                print(f"{name:22}{bins:4}  {found.strip()}", flush=True)


if __name__ == "__main__":
    main()
