"""What each export format costs and how near it is, as a table: `python -m benchmarks.export_formats`.

The model is the MLP of `fit` after two epochs on the penguins of `examples/`. Seconds are processor seconds of the
whole command, with its start and the compilers of AOTInductor (with an empty cache). `difference` is the largest on
the table's 344 rows and 128 made-up ones, as `export` prints it.
"""

import contextlib
import io
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lightning_mods import fit
from lightning_mods.cli.flags import FORMATS
from lightning_mods.export.runtime import open_exported
from lightning_mods.export.schema import read_schema

PENGUINS = Path(__file__).parents[1] / "examples" / "penguins.csv"


def row_of(file_format, folder):
    file = folder / f"{file_format}{FORMATS[file_format]}"
    args = (f"--format={file_format}", f"--output={file}", "--overwrite", f"--trainer.default_root_dir={folder}")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "lightning_mods.export", *args]
    cache = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=cache).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    difference = re.search(r"from the checkpoint (\S+),", said)
    assert difference is not None
    run = open_exported(file_format, file, trust=True)
    cells = read_schema(file)["example"]["inputs"]
    inputs = [
        np.array([[np.nan if cell is None else cell for cell in row]], dtype=kind)
        for row, kind in zip(cells, (np.float64, np.int64), strict=True)
    ]
    times = []
    for _ in range(300):
        start = time.perf_counter()
        run(inputs)
        times.append(time.perf_counter() - start)
    size = file.stat().st_size / 1000
    cells = f"{file_format} | {size:.0f} kB | {seconds:.0f} s | {statistics.median(times) * 1e6:.0f} µs"
    return f"| {cells} | {difference[1]} |"


def main():
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--trainer.max_epochs=2", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu")
        root = f"--trainer.default_root_dir={folder}"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            fit.main([f"--data.path={PENGUINS}", "--data.target=species", "--watch=[]", root, *flags])
        print("| format | file | to write | a row, from Python | difference |\n|---|---|---|---|---|")
        for file_format in FORMATS:
            print(row_of(file_format, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
