"""What `GraphLogger` costs: CPU seconds it adds to a fit, once, in a process that has drawn no graph before.

    python benchmarks/graph_cost.py --repeats 5

Each figure is a median over processes of its own: a fit of two batches with it, less the same fit without it.
CPU seconds: other work on the machine does not lengthen them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pytorch_lightning.loggers import TensorBoardLogger

from callbacks import GraphLogger

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "callbacks"))
from graph_models import MODELS, train


def seconds(name: str, *callbacks: GraphLogger) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        train(name, folder, *callbacks, logger=TensorBoardLogger(folder))
        return time.process_time() - start


def measure(name: str) -> dict[str, float]:
    """The first graph of a process, and a second one."""
    seconds(name)
    alone = seconds(name)
    return {"first": seconds(name, GraphLogger()) - alone, "again": seconds(name, GraphLogger()) - alone}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="processes for each model")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS), help="which; default all")
    parser.add_argument("--one", choices=MODELS, help="measure one model in this process and print JSON")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one)))
        return
    print(f"{'model':<12} {'first graph, s':>14} {'a second, s':>12}")
    for name in args.models:
        command = [sys.executable, "-W", "ignore", __file__, "--one", name]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(args.repeats)]
        found = [json.loads(run.stdout.splitlines()[-1]) for run in runs]
        first, again = (statistics.median(one[key] for one in found) for key in ("first", "again"))
        print(f"{name:<12} {first:>14.2f} {again:>12.2f}", flush=True)


if __name__ == "__main__":
    main()
