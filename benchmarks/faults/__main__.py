"""Run the bench.

    python -m benchmarks.faults --split dev --detector ours --jobs 2
    python -m benchmarks.faults --split dev --detector ours --only frozen_layer --base dev_mlp --seeds 0 1

Records are appended to a file of one JSON object a line, and what it holds is not run again.
"""

import argparse
import json
from pathlib import Path

from .bases import SPLITS
from .detectors import DETECTORS
from .kinds import KINDS, cases
from .running import Job, read_records, run_all
from .scoring import health, mistakes, score, tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=SPLITS, default="dev")
    parser.add_argument("--detector", choices=DETECTORS, default="ours")
    parser.add_argument("--only", nargs="+", choices=KINDS, help="kinds; all unless told")
    parser.add_argument("--base", nargs="+", help="bases; all of the split unless told")
    parser.add_argument("--seeds", nargs="+", type=int, help="the split's five unless told")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--out", type=Path, help="records; lightning_logs/faults/SPLIT-DETECTOR.jsonl unless told")
    parser.add_argument("--json", type=Path, help="the table as JSON; beside the records unless told")
    parser.add_argument("--mistakes", action="store_true", help="list what was missed, misnamed and cried")
    args = parser.parse_args()
    bases, seeds = SPLITS[args.split]
    jobs = [
        Job(args.detector, base.base, kind, case.healthy, seed)
        for seed in args.seeds or seeds
        for base in bases
        if not args.base or base.base in args.base
        for kind in args.only or KINDS
        for case in cases(base, kind)
    ]
    out = args.out or Path("lightning_logs") / "faults" / f"{args.split}-{args.detector}.jsonl"
    run_all(jobs, out, args.jobs)
    wanted = {job.key for job in jobs}
    records = [r for r in read_records(out) if r["key"] in wanted]
    result = score(records)
    (args.json or out.with_suffix(".json")).write_text(json.dumps(result, indent=1) + "\n")
    print(tables(result))
    if args.detector == "none":
        print(health(records))
    if args.mistakes:
        print(mistakes(records))


if __name__ == "__main__":
    main()
