"""What an epoch costs, against the loop written by hand, ours and the rivals' on the same rows.

    python -m benchmarks.speed
    python -m benchmarks.speed --contenders raw ours lightning --shapes digits-32 --rounds 9 --out speed.jsonl
    python -m benchmarks.speed --show speed.jsonl

From the repository's root. The rivals are best kept in an environment of their own, which is used if it is there:

    python -m venv .venv-rivals
    .venv-rivals/bin/pip install -c constraints.txt torch numpy scikit-learn skorch pytorch-ignite keras jax

A MLP 64-128-128-10 (digits has 61 columns that vary), ReLU, SGD with momentum 0.9, one thread. Each
contender has a process, which loads its libraries once; only one works at a time. A round runs everybody once, in
another order each time. Timed is from the end of the first epoch to the end of the last, so neither the set-up nor the
end of a fit, but everything that comes again and again: validation, checkpoints, events, the bar. What a fit takes
beside its epochs has a table of its own, and so have the losses reached.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

from benchmarks.speed.contenders import CONTENDERS
from benchmarks.speed.processes import ROOT, FitError, open_workers
from benchmarks.speed.shapes import SHAPES, Job, write_rows
from benchmarks.speed.tables import Record, tables

RIVALS = ROOT / ".venv-rivals" / "bin" / "python"
DEFAULT_SHAPES = [name for name, shape in SHAPES.items() if shape.table != "tiny"]


def measure(names: list[str], shapes: list[str], rounds: int, rivals: str, out: Path | None) -> list[Record]:
    """Run all rounds; each record is written to `out` as it comes."""
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        for table in {SHAPES[name].table for name in shapes}:
            write_rows(table, Path(folder))
        workers = open_workers(names, sys.executable, rivals)
        turns = random.Random(0)
        for round_ in range(rounds):
            for shape in shapes:
                for name in turns.sample(list(workers), len(workers)):
                    try:
                        found = workers[name].fit(Job(SHAPES[shape], folder, seed=round_))
                    except FitError as error:  # the others' hours shall not be lost
                        print(error, file=sys.stderr, flush=True)
                        continue
                    record = {"round": round_, "shape": shape, "contender": name, **found}
                    records.append(record)
                    if out is not None:
                        with out.open("a") as stream:
                            stream.write(json.dumps(record) + "\n")
            print(f"round {round_ + 1} of {rounds} is done", file=sys.stderr, flush=True)
        for worker in workers.values():
            worker.close()
    return records


def main(args: list[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=DEFAULT_SHAPES)
    parser.add_argument("--rounds", type=int, default=5, help="at least 5 for figures that are told to others")
    parser.add_argument("--rivals-python", help="interpreter of the rivals; .venv-rivals/bin/python where there is one")
    parser.add_argument("--out", type=Path, help="a file to append the records to, a JSON object a line")
    parser.add_argument("--show", type=Path, help="measure nothing; print the tables of such a file")
    said = parser.parse_args(args)
    if said.show is not None:
        records = [json.loads(line) for line in said.show.read_text().splitlines()]
    else:
        rivals = said.rivals_python or (str(RIVALS) if RIVALS.exists() else sys.executable)
        records = measure(said.contenders, said.shapes, said.rounds, rivals, said.out)
    print(tables(records) if records else "nobody took part")


if __name__ == "__main__":
    main()
