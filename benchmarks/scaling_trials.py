"""How a study's time and memory grow with its trials: `python -m benchmarks.scaling_trials`, from the root; Linux.

The study of `benchmarks/study_speed.py` (digits, learning rate and batch size, 20 epochs, on a journal, one thread),
each line in a process of its own, warmed up: imports are not counted. `asking` is what Optuna's sampler takes of a
trial's time: it looks at all trials before. Memory is the process's peak above that after the warm-up.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TRIALS = [8, 32, 128, 512]
FLAGS = {"none": ["--study.pruner=none", "--study.prune_hopeless=false"], "halving": []}


def measure(trials: int, pruner: str) -> dict[str, float]:
    """One study in this process."""
    from benchmarks.scaling_point import status
    from benchmarks.study_speed import EPOCHS, ours
    from callbacks.search.waves import WaveSampler

    spent = [0.0]
    draw = WaveSampler.__call__

    def timed(self: WaveSampler, *args: Any) -> Any:
        start = time.process_time()
        drawn = draw(self, *args)
        spent[0] += time.process_time() - start
        return drawn

    WaveSampler.__call__ = timed  # type: ignore[method-assign]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as root:
        ours(f"{root}/warm", 0, 2, 12, FLAGS[pruner])
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew: proc(5)
        before, start, spent[0] = status("VmHWM"), time.process_time(), 0.0
        best, epochs = ours(f"{root}/timed", 0, EPOCHS, trials, FLAGS[pruner])
        cpu = time.process_time() - start
        return {"cpu": cpu, "asking": spent[0], "epochs": epochs, "best": best, "memory": status("VmHWM") - before}


def main(args: list[str] | None = None) -> None:
    """Measure, and print the table line by line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling_trials",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", nargs="+", type=int, default=TRIALS)
    parser.add_argument("--pruners", nargs="+", choices=FLAGS, default=list(FLAGS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args(args)
    if asked.one:
        print(json.dumps(measure(int(asked.one[0]), asked.one[1])))
        return
    head = ["trials", "pruner", "CPU s", "ms a trial", "asking, ms a trial", "epochs a trial", "ms an epoch", "MB more"]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for pruner in asked.pruners:
        for trials in asked.trials:
            command = [sys.executable, "-m", "benchmarks.scaling_trials", "--one", str(trials), pruner]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            found = json.loads(done.stdout.splitlines()[-1])
            cpu, epochs = found["cpu"], found["epochs"]
            cells = [
                f"{trials}",
                pruner,
                f"{cpu:.1f}",
                f"{1e3 * cpu / trials:.0f}",
                f"{1e3 * found['asking'] / trials:.1f}",
            ]
            cells += [f"{epochs / trials:.1f}", f"{1e3 * cpu / epochs:.2f}", f"{found['memory'] / 1e6:.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
