"""What large tables and long studies cost: `python -m benchmarks.load`.

Makes tables of random numbers, fits one epoch on each and predicts it, each in a process of its own, and notes the time
from the command to its end and the most memory that the process had (pages of a memory map count in it). Then studies
of many workers, on a journal and on PostgreSQL where that is installed: how many trials were lost, and whether the last
quarter took as long as the first. All sizes shrink with `--share` and `--trials`. The result is a page, `docs/load.md`
by default, which says how large what was measured.

    python -m benchmarks.load                               # an hour on two cores, and ten gigabytes of disk
    python -m benchmarks.load --share=0.01 --trials=100 --out=load.md
    python -m benchmarks.load --only=csv wide               # some rows of the table
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from benchmarks.load.studies import Measured, measured_studies

ROOT = Path(__file__).parents[2]
BLOCK_CELLS = 4_000_000  # made at a time


@dataclass(frozen=True)
class Shape:
    """A table to make, and how to fit it."""

    name: str
    file: str
    rows: int
    columns: int
    flags: tuple[str, ...] = ()


SHAPES = (
    Shape("csv", "csv", 2_000_000, 20),
    Shape("parquet", "parquet", 2_000_000, 20),
    Shape("mapped", "parquet", 10_000_000, 20, ("--data.memory_map=true",)),
    Shape("wide", "csv", 20_000, 2_000),
    Shape("widest", "csv", 60, 100_000),
)


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    seconds: float
    peak: float  # megabytes


def make(shape: Shape, rows: int, folder: Path) -> Path:
    """Write a table whose target hangs on its first columns."""
    rng = np.random.default_rng(0)
    path = folder / f"{shape.name}.{shape.file}"
    names = [f"x{i}" for i in range(shape.columns)]
    schema = pa.schema([*((name, pa.float64()) for name in names), ("y", pa.string())])
    writer = pc.CSVWriter(path, schema) if shape.file == "csv" else pq.ParquetWriter(path, schema)
    with writer:
        step = max(1, min(BLOCK_CELLS // shape.columns, rows))
        for start in range(0, rows, step):
            x = rng.normal(size=(min(step, rows - start), shape.columns)).round(4)
            y = np.where(x[:, 0] + x[:, 1] > 0, "up", "down")
            writer.write_table(pa.table([*map(pa.array, x.T), pa.array(y.tolist())], schema=schema))
    return path


def run(verb: str, *flags: str, folder: Path) -> Cost:
    """Run a verb in a process of its own; one that fails ends the benchmark with what it said."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    begin = time.monotonic()
    with (folder / "said").open("w+") as said:
        command = [sys.executable, "-m", f"lightning_mods.{verb}", *flags]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begin
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command[2:])} ended with {process.returncode}:\n{said.read()[-2000:]}")
    return Cost(seconds, usage.ru_maxrss / 1000)


def measured(shape: Shape, share: float) -> str:
    """Make a table, fit and predict it; return a row of the page."""
    rows = shape.rows if shape.rows < 1000 else max(200, int(shape.rows * share))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = make(shape, rows, folder)
        size = path.stat().st_size / 1e6
        flags = ("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")
        fit = run("fit", f"--data.path={path}", "--data.target=y", *flags, *shape.flags, folder=folder)
        predict = run("predict", f"--data.predict_path={path}", "--ckpt_path=best", "--output=p.csv", folder=folder)
        written = (folder / "p.csv").open().read().count("\n") - 1
        if written != rows:
            raise SystemExit(f"{shape.name}: {rows} rows were given and {written} predicted.")
    how = ", mapped" if shape.flags else ""
    costs = " | ".join(f"{c.seconds:.0f} s | {c.peak:,.0f} MB ({c.peak / size:.1f}×)" for c in (fit, predict))
    return f"| {shape.file.upper()}{how} | {rows:,} × {shape.columns:,} | {size:,.0f} MB | {costs} |"


def page(tables: list[str], studies: list[Measured], idle: str) -> str:
    """Return the page with what was measured."""
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# What large tables and long studies cost",
        "",
        f"Written by `python {' '.join(['-m', 'benchmarks.load', *sys.argv[1:]])}` on {date.today():%Y-%m-%d}: {cores}"
        f" cores, {platform.machine()}, Python {platform.python_version()}, {idle}.",
    ]
    if tables:
        lines += [
            "",
            "A fit of one epoch with the default recipe, test and report included, and `predict` of all rows; the time"
            " is from the command to its end, the memory the most that the process had, also against the file.",
            "",
            "| table | rows × columns | file | fit | its memory | predict | its memory |",
            "|---|---|---|---|---|---|---|",
            *tables,
        ]
    if studies:
        lines += [
            "",
            "Studies on iris, two epochs a trial, each trial a Trainer of its own. A trial is lost if it is neither"
            " complete nor pruned; the time is between the ends of two trials, in the first and the last quarter.",
            "",
            "| storage | workers | trials | lost | twice | in all | a trial, first quarter | last quarter |",
            "|---|---|---|---|---|---|---|---|",
            *(study.row for study in studies),
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what was asked for and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.split("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the rows of each table")
    parser.add_argument("--trials", type=int, default=2000, help="of each study; 0 for none")
    parser.add_argument("--workers", type=int, default=8, help="of each study")
    parser.add_argument("--only", nargs="*", default=[shape.name for shape in SHAPES], help="tables, by name")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "load.md", help="the page")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    idle = "nothing else ran" if load < 0.5 else f"beside others (a load of {load:.1f} before it began)"
    tables = []
    for shape in SHAPES:
        if shape.name in asked.only:
            tables.append(measured(shape, asked.share))
            print(tables[-1], flush=True)
            asked.out.write_text(page(tables, [], idle))
    studies = measured_studies(asked.trials, asked.workers) if asked.trials else []
    asked.out.write_text(page(tables, studies, idle))


if __name__ == "__main__":
    main()
