"""One case from seed to record, and many of them in processes of one thread each."""

import contextlib
import io
import json
import logging
import math
import time
import warnings
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch

from .bases import BASES
from .detectors import DETECTORS, History
from .kinds import Case, cases
from .rows import Data, make_data
from .user_module import UserModule, make_module


@dataclass(frozen=True)
class Job:
    """What a worker is told; plain data."""

    detector: str
    base: str
    kind: str
    healthy: bool
    seed: int

    @property
    def key(self) -> str:
        """The same for the same work."""
        return f"{self.detector}/{self.base}/{self.kind}/{'twin' if self.healthy else 'fault'}/{self.seed}"


def find_case(job: Job) -> Case:
    """Return the case of a job."""
    return next(c for c in cases(BASES[job.base], job.kind) if c.healthy == job.healthy)


def train(case: Case, seed: int, callbacks: list[pl.Callback]) -> tuple[UserModule, Data]:
    """Fit the case's module as its user would."""
    s = case.settings
    pl.seed_everything(seed, verbose=False)
    data = make_data(s, seed)
    module = make_module(s, data.clean_x.shape[1:])
    with TemporaryDirectory() as folder:  # for what callbacks write where there is no logger
        trainer = pl.Trainer(
            max_epochs=min(s.epochs_at_most, math.ceil(s.steps / len(data.train))), accelerator="cpu", devices=1,
            callbacks=callbacks, accumulate_grad_batches=s.accumulate, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(module, data.train, data.val)
    return module, data


def skill(module: UserModule, data: Data) -> float:
    """How far right rows are predicted: 0 like the best constant, 1 without a mistake; -1 if not finite or worse."""
    module.train() if module.s.validates_in == "train" else module.eval()
    with torch.no_grad():
        out = module(data.clean_x)
    y = data.clean_y
    if not out.isfinite().all():
        return -1.0
    if module.s.classes:
        trivial = float(torch.bincount(y).max()) / len(y)
        return max(-1.0, (float((out.argmax(1) == y).float().mean()) - trivial) / (1 - trivial))
    error = (data.shift + data.factor * out[:, 0] - y).square().mean() / y.var(correction=0)
    return max(-1.0, 1 - float(error))


def run(job: Job) -> dict[str, Any]:
    """Train one case under a detector and return its record; what a detector or a training raises is part of it."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    case = find_case(job)
    start, said, error, value = time.perf_counter(), [], "", math.nan
    curve: list[float] = []
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            callbacks, read = DETECTORS[job.detector](case)
            module, data = train(case, job.seed, callbacks)
            said = read()
            value = skill(module, data)
            curve = next((c.val_loss for c in callbacks if isinstance(c, History)), [])
        except Exception as e:  # noqa: BLE001  # a record of the failure, so that the others go on
            error = f"{type(e).__name__}: {e}"[:300]
    return {
        "key": job.key, "detector": job.detector, "base": job.base, "kind": job.kind, "healthy": job.healthy,
        "seed": job.seed, "names": [str(n) for n in case.names], "said": [list(s) for s in said], "skill": value,
        "error": error, "val_loss": [round(v, 4) for v in curve], "seconds": round(time.perf_counter() - start, 2),
    }  # fmt: skip


def run_all(jobs: list[Job], out: Path, processes: int) -> None:
    """Run what `out` does not hold yet and append each record as it comes."""
    done = {record["key"] for record in read_records(out)}
    left = [job for job in jobs if job.key not in done]
    out.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with (
        out.open("a") as file,
        ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        futures = [pool.submit(run, job) for job in left]
        for number, future in enumerate(as_completed(futures), 1):
            file.write(json.dumps(future.result()) + "\n")
            file.flush()
            if number % 10 == 0 or number == len(left):
                rest = (time.perf_counter() - start) / number * (len(left) - number)
                print(f"{number}/{len(left)} runs, {rest / 60:.1f} min left", flush=True)


def read_records(path: Path) -> Iterable[dict[str, Any]]:
    """Return the records of a file; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
