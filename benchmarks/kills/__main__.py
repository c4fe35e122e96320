"""Kills real fits and studies at random moments, lets the same command go on, and compares with one left alone.

python -m benchmarks.kills --fits=100 --studies=50          # a table; code 1 if anything was lost or came out otherwise
python -m benchmarks.kills --fits=20 --studies=0 --seed=7   # other moments

Kills are SIGKILLs: in the start (tables are read, states restored), in an epoch, while a checkpoint is written, and
just after training went on. Fits are compared bit for bit: weights, optimizers, schedules, the curves in TensorBoard.
"""

import argparse
import random
import sys
import tempfile
import warnings
from pathlib import Path

from benchmarks.kills.fits import SETTINGS, FitKills, kill_fits
from benchmarks.kills.processes import postgresql
from benchmarks.kills.studies import STORAGES, StudyKills, kill_studies


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (i < total % parts) for i in range(parts)]


def fits_table(done: list[FitKills]) -> str:
    """Return the table of the fits as Markdown."""
    head = "| fits | kills | in the start | in an epoch | in a write | just resumed | half files | ended exactly so |"
    rows = [
        f"| {f.setting} | {sum(f.kills.values())} | {' | '.join(map(str, f.kills.values()))} | {f.halves} | "
        f"{f.exact} of {f.fits} |"
        for f in done
    ]
    return "\n".join([head, "|---|" + "---:|" * 7, *rows])


def studies_table(done: list[StudyKills]) -> str:
    """Return the table of the studies as Markdown."""
    head = "| studies on | kills | as many trials as asked for, none running | trials with the same numbers |"
    rows = [f"| {s.storage} | {s.kills} | {s.counted} of {s.studies} | {s.exact} of {s.trials} |" for s in done]
    return "\n".join([head, "|---|---:|---:|---:|", *rows])


def main() -> int:
    """Kill, compare, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=int, default=100, help="kills of fits")
    parser.add_argument("--studies", type=int, default=50, help="kills of studies")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    draw, fits, studies = random.Random(args.seed), list[FitKills](), list[StudyKills]()
    with tempfile.TemporaryDirectory(prefix="kills") as held:
        for setting, share in zip(SETTINGS, _shares(args.fits, len(SETTINGS)), strict=True):
            if share:
                fits.append(kill_fits(setting, share, draw, Path(held, setting.replace(" ", "_"))))
                sys.stderr.write(f"{fits[-1]}\n")
        with postgresql() as server:
            storages = [name for name in STORAGES if server or name != "PostgreSQL"]
            for storage, share in zip(storages, _shares(args.studies, len(storages)), strict=True):
                if share:
                    studies.append(kill_studies(storage, share, draw, Path(held), server))
                    sys.stderr.write(f"{studies[-1]}\n")
    sys.stdout.write(f"{fits_table(fits)}\n\n{studies_table(studies)}\n")
    wrong = [line for each in (*fits, *studies) for line in each.wrong]
    sys.stdout.write("".join(f"wrong: {line}\n" for line in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
