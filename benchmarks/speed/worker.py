"""One contender's process: it loads its libraries once, then does a fit for each line it is told.

It is told jobs on its standard input, and answers on what was its standard output, a JSON object a line. The contender
itself prints to the terminal that the process was given as its standard error.
"""

import gc
import importlib
import json
import os
import sys
import traceback
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.contenders import CONTENDERS, LogProbabilities
from benchmarks.speed.shapes import Job
from benchmarks.speed.stopwatch import Stopwatch


def score(answer: LogProbabilities, x: NDArray[Any], y: NDArray[Any]) -> dict[str, float]:
    """Mean cross-entropy and accuracy of what a contender has learnt, counted the same way for all."""
    logits = np.asarray(answer(x), dtype=np.float64)
    highest = logits.max(1, keepdims=True)
    log_sums = (highest + np.log(np.exp(logits - highest).sum(1, keepdims=True)))[:, 0]
    loss = (log_sums - logits[np.arange(len(y)), y]).mean()
    return {"loss": float(loss), "accuracy": float((logits.argmax(1) == y).mean())}


def run(fit: Any, job: Job) -> dict[str, float]:
    """One fit: its times, and what it reached."""
    gc.collect()
    watch = Stopwatch()
    answer = fit(job, watch)
    x, y, val_x, val_y = job.rows()
    reached = {"train": score(answer, x, y), "val": score(answer, val_x, val_y)}
    scores = {f"{part}_{name}": value for part, found in reached.items() for name, value in found.items()}
    return {**watch.result(job.shape.epochs), **scores}


def main() -> None:
    """Answer `{"ready": true}` or `{"missing": …}`, then each job."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def reply(**said: Any) -> None:
        replies.write(json.dumps(said) + "\n")

    try:
        module = importlib.import_module(f"benchmarks.speed.contenders.{CONTENDERS[sys.argv[1]].module}")
    except ImportError as error:
        reply(missing=str(error))
        return
    reply(ready=True)
    for line in sys.stdin:
        try:
            reply(**run(module.fit, Job.from_plain(json.loads(line))))
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a contender raises is its result
            traceback.print_exc()
            reply(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
