"""What the reference costs, beside the fit that it is for: `python benchmarks/reference_cost.py`, some minutes.

Tables are made up: every class is a rotated half-space with noise, every number a sum of sines. `modelled` is what the
plan reckons with if the search goes on to its end; `reference` is what was taken on this machine (seconds of a core, so
that others on it do not count), `fit` the training alone (epochs times the median of their seconds, on the clock),
`share` the first over the second. The losses are those of the validation rows.
"""

import contextlib
import io
import os
import re
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from lightning_mods import fit
from lightning_mods.runs import reference
from lightning_mods.runs.boosting import Plan, modelled_seconds

SHAPES = [  # rows, columns, classes (0: a regression)
    (150, 4, 3), (1_000, 10, 2), (1_000, 30, 10), (1_000, 300, 2), (5_000, 20, 0), (5_000, 20, 50), (5_000, 784, 10),
    (20_000, 20, 2), (20_000, 100, 5), (50_000, 50, 0), (200_000, 30, 2), (200_000, 30, 10), (1_000_000, 10, 2),
]  # fmt: skip


def table(path: Path, rows: int, columns: int, classes: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    directions = rng.normal(size=(columns, max(classes, 1)))
    scores = np.sin(x @ directions / np.sqrt(columns) * 2) + 0.3 * rng.normal(size=(rows, max(classes, 1)))
    np.savez(path, x=x, target=scores.argmax(1) if classes else scores[:, 0])


def measure(rows: int, columns: int, classes: int) -> str:
    seconds = []
    scores = reference.reference_scores

    def timed(*args):
        begun = time.thread_time()
        found = scores(*args)
        seconds.append(time.thread_time() - begun)
        return found

    reference.reference_scores = timed
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(out):
        table(Path("table.npz"), rows, columns, classes)
        task = "classification" if classes else "regression"
        flags = ["--data.path=table.npz", "--data.target=target", f"--data.task={task}", "--watch=[]"]
        fit.main([*flags, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"])
    reference.reference_scores = scores
    said = out.getvalue()
    epochs, epoch = re.search(r"of 0 to (\d+)", said), re.search(r"an epoch +([\d.e-]+) s", said)
    training = (int(epochs[1]) + 1) * float(epoch[1])
    plan = Plan.of(round(0.7 * rows), columns, classes)
    modelled = modelled_seconds(plan.rows, columns, classes, plan.iterations, plan.splits) if plan else 0
    head, loss = (next(line for line in said.splitlines() if key in line) for key in ("validation", "loss"))
    columns_of = re.split(r"\s{2,}", head.strip())
    values = dict(zip(columns_of, loss.split()[1:], strict=True))
    losses = [values.get(name, "–") for name in ("validation", "validation, trivial baseline", "validation, reference")]
    learned = f"{plan.rows:,} × {plan.iterations}" if plan else "none"
    cells = [f"{rows:,} × {columns} × {classes}", learned, f"{modelled:.1f}", f"{seconds[0]:.1f}", f"{training:.1f}"]
    return f"| {' | '.join([*cells, f'{seconds[0] / training:.0%}', *losses])} |"


def main() -> None:
    heads = ["rows × columns × classes", "plan: rows × iterations", "modelled", "reference", "fit", "share"]
    print(f"| {' | '.join([*heads, 'loss', 'trivial', 'reference'])} |")
    print(f"|{'---|' * 9}")
    for shape in SHAPES:
        print(measure(*shape), flush=True)


if __name__ == "__main__":
    main()
