"""How an epoch's time and a fit's memory grow with rows and features, everything on: a table.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --rows 10000 1000000 --features 10 1000 --folder /a/large/disk

From the repository's root; Linux, as the memory is read from /proc. Each line is a process of one thread that runs our
command on a Parquet file of its own: float32 features and ten classes, an MLP with hidden layers of 128 and 128. Rows
grow at 20 features, each in memory and with `--data.memory_map`; features grow at 20 000 rows. An epoch is timed from
the first one's end on.

Memory is the process's peak above that of the same fit on 1 000 rows, which is what the libraries take. `to begin` is
the peak up to the first epoch's end, with the table's reading; `in epochs` the one from there on, in brackets what of
it is the process's own (pages of a mapped file are the kernel's to take back). What is needed are the encoded rows
(float32, and int64 targets; nothing where they are mapped) and the model: parameters, gradients and momentum.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
CHUNK = 65_536
CLASSES = 10
FLOOR_ROWS = 1_000
ROWS = [10_000, 100_000, 1_000_000, 10_000_000]
FEATURES = [10, 30, 100, 300, 1_000]
AT_FEATURES, AT_ROWS = 20, 20_000
AN_EPOCH_HAS = 2_000_000  # rows to aim at in all timed epochs together

_HEAD = [
    ("rows", "{rows:,}"),
    ("features", "{features:,}"),
    ("memory map", "{mapped}"),
    ("epoch, CPU s", "{epoch_cpu:.3g}"),
    ("µs a row", "{row:.2f}"),
    ("rest of the fit, s", "{rest:.3g}"),
    ("needed, MB", "{needed:.1f}"),
    ("peak to begin, MB", "{begin:.0f}"),
    ("peak in epochs, MB", "{epochs:.0f} ({own:.0f})"),
    ("in epochs / needed", "{ratio}"),
]


@dataclass(frozen=True)
class Point:
    """One line of the table."""

    rows: int
    features: int
    memory_map: bool

    @property
    def epochs(self) -> int:
        return 1 + min(max(AN_EPOCH_HAS // self.rows, 1), 20)


def write_table(file: Path, rows: int, features: int) -> None:
    """Write standard normal features and the noisy choices of a linear model, a chunk at a time."""
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((features, CLASSES)).astype(np.float32) / features**0.5
    names = [f"f{i}" for i in range(features)]
    schema = pa.schema([(name, pa.float32()) for name in names] + [("y", pa.int64())])
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, rows, CHUNK):
            x = generator.standard_normal((min(CHUNK, rows - start), features), dtype=np.float32)
            y = (2 * x @ weights + generator.gumbel(size=(len(x), CLASSES))).argmax(1)
            writer.write_table(pa.table([*x.T, y], schema=schema))


def fit(point: Point, file: Path, batch: int) -> dict[str, Any]:
    """Measure a point in a process of its own."""
    asked = {"file": str(file), "batch": batch, "epochs": point.epochs, "memory_map": point.memory_map}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.scaling_point", json.dumps(asked)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The fit of {point} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def line(point: Point, found: dict[str, Any], floor: dict[str, Any]) -> str:
    """A line of the table."""
    data = 0 if point.memory_map else point.rows * (4 * point.features + 8)
    needed = (data + 3 * 4 * found["parameters"]) / 1e6
    # The floor's own model is in what is taken away.
    model = 3 * 4 * floor["parameters"] / 1e6
    peaks = {
        key: (found[name] - floor[name]) / 1e6 + model
        for key, name in (("begin", "peak_begin"), ("epochs", "peak_epochs"), ("own", "anonymous"))
    }
    values = {
        **found,
        **peaks,
        "rows": point.rows,
        "features": point.features,
        "mapped": "yes" if point.memory_map else "",
        "row": found["epoch_cpu"] / point.rows * 1e6,
        "needed": needed,
        # Below that, the allocator's own pieces outweigh what is asked of it.
        "ratio": f"{peaks['own' if point.memory_map else 'epochs'] / needed:.2f}" if needed > 20 else "",
    }
    return f"| {' | '.join(cell.format(**values) for _, cell in _HEAD)} |"


def points(rows: list[int], features: list[int]) -> list[Point]:
    """Return the lines, those of a table beside each other."""
    by_rows = [Point(n, AT_FEATURES, mapped) for n in rows for mapped in (False, True)]
    return by_rows + [Point(AT_ROWS, n, False) for n in features]


def main(args: list[str] | None = None) -> None:
    """Measure, and print the table line by line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="*", type=int, default=ROWS)
    parser.add_argument("--features", nargs="*", type=int, default=FEATURES)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="for the files, 0.9 GB at most by default; the temporary folder")
    said = parser.parse_args(args)
    print(f"| {' | '.join(name for name, _ in _HEAD)} |\n{'|---' * len(_HEAD)}|", flush=True)
    with tempfile.TemporaryDirectory(dir=said.folder) as folder:
        file = Path(folder) / "table.parquet"
        written: tuple[int, int] | None = None
        for point in points(said.rows, said.features):
            if written is None or written[1] != point.features:
                write_table(file, FLOOR_ROWS, point.features)
                floor = fit(Point(FLOOR_ROWS, point.features, False), file, said.batch // 2)
            if written != (point.rows, point.features):
                write_table(file, point.rows, point.features)
                written = point.rows, point.features
            print(line(point, fit(point, file, said.batch), floor), flush=True)


if __name__ == "__main__":
    main()
