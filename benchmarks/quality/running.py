"""One training in a process of its own: the cut of the table, the command, the measures of its predictions."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.quality.methods import OURS
from benchmarks.quality.tables import MOST_ROWS, TABLES, load
from benchmarks.tables import cut

ROOT = Path(__file__).parents[2]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), "1")
LEAST_PROBABILITY = 1e-7  # a certain mistake costs 16 nats, not infinitely many


class TrainingError(RuntimeError):
    """A command ended badly, or took too long; with the end of what it said."""


@dataclass(frozen=True)
class Job:
    """One table, one learner, one seed: of the cut and of the learner."""

    table: str
    method: str
    seed: int
    whole: bool = False  # all training rows of a large table

    @property
    def key(self) -> tuple[str, str, int, bool]:
        return self.table, self.method, self.seed, self.whole


def run(job: Job, python: str, rivals_python: str, limit: float) -> dict[str, Any]:
    """Train and predict, and return the record.

    Args:
        job: What to train.
        python: The interpreter that has `lightning_mods`.
        rivals_python: The interpreter that has the rivals.
        limit: Seconds that a command may take.

    Raises:
        TrainingError: A command failed.
    """
    source, frame = TABLES[job.table], load(job.table)
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        train, test = cut(frame, source.target, folder, job.seed, None if job.whole else MOST_ROWS)
        out = folder / "predictions.csv"
        start = time.monotonic()
        if job.method == OURS:
            here = f"--trainer.default_root_dir={folder}"
            data = [f"--data.path={train}", f"--data.target={source.target}", f"--data.test_path={test}"]
            fit = [
                python,
                "-m",
                "lightning_mods.fit",
                "--reference=false",
                *data,
                f"--seed_everything={job.seed}",
                here,
            ]
            cpu = _cpu_seconds(fit, folder, limit)
            wall = time.monotonic() - start
            asked = [f"--data.predict_path={test}", f"--output={out}", here]
            _cpu_seconds([python, "-m", "lightning_mods.predict", "--ckpt_path=best", *asked], folder, limit)
        else:
            task = "amounts" if source.amount else "classes"
            arguments = [job.method, str(train), str(test), source.target, task, str(job.seed), str(out)]
            cpu = _cpu_seconds([rivals_python, "-m", "benchmarks.quality.rivals", *arguments], folder, limit)
            wall = time.monotonic() - start
        truth = pd.read_csv(test, dtype={} if source.amount else {source.target: str})[source.target]
        found = measures(pd.read_csv(out, dtype={} if source.amount else {"prediction": str}), truth, source.amount)
        with train.open() as lines:
            train_rows = sum(1 for _ in lines) - 1
    sizes = {"train_rows": train_rows, "test_rows": len(truth), "classes": 0 if source.amount else truth.nunique()}
    identity = {"table": job.table, "method": job.method, "seed": job.seed, "whole": job.whole}
    return {**identity, **sizes, **found, "cpu": round(cpu, 2), "wall": round(wall, 2)}


def measures(said: pd.DataFrame, truth: pd.Series, amount: bool) -> dict[str, float | None]:
    """Return the error (the share of wrong classes, or 1 - R²) and for classes the log loss, in nats."""
    if len(said) != len(truth):
        raise TrainingError(f"There are {len(said)} predictions for {len(truth)} rows.")
    if amount:
        y = truth.to_numpy(float)
        missed = float(np.square(said["prediction"].to_numpy(float) - y).sum())
        return {"error": missed / float(np.square(y - y.mean()).sum()), "log_loss": None}
    columns = [f"probability_{name}" for name in truth]
    place = {name: i for i, name in enumerate(said.columns)}
    # A class that was in no training row got no column, and so no probability.
    given = [said.iat[row, place[name]] if name in place else 0.0 for row, name in enumerate(columns)]
    log_loss = -np.log(np.clip(np.asarray(given, dtype=float), LEAST_PROBABILITY, 1)).mean()
    return {"error": float((said["prediction"].to_numpy() != truth.to_numpy()).mean()), "log_loss": float(log_loss)}


def _cpu_seconds(command: list[str], folder: Path, limit: float) -> float:
    """Run a command and return what it and its children spent, in the system too; imports are part of it."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    said = folder / "said"
    with said.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **ONE_THREAD, "PYTHONPATH": path}, stdout=out, stderr=out
        )
        end = time.monotonic() + limit
        while True:
            pid, status, spent = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                process.kill()
                end = float("inf")
            time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)  # wait4 took it: Popen need not wait again
    if process.returncode:
        tail = said.read_text(errors="replace")[-2000:]
        late = f" after {limit:g} s" if end == float("inf") else ""
        raise TrainingError(f"{command[2]} ended with {process.returncode}{late}:\n{tail}")
    return spent.ru_utime + spent.ru_stime


def interpreter(given: str | None) -> str:
    """Return the interpreter to use: the one given, from wherever it is called, or this one."""
    return sys.executable if given is None else str(Path(given).absolute())
