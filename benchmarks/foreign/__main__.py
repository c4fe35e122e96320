"""Fit the LightningModules of other packages without and with our callbacks, compare, and write the table.

    VENV/bin/python -m benchmarks.foreign --write

A package that is not installed there is said, and left out. What came out is kept in `--folder`, so that
`--only darts neuralforecast` fits these two anew and leaves the others as they are. Each fit has one thread; seconds
are worth something with `--jobs 1` alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.foreign.table import compare, summary, write

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKAGES = sorted(path.stem for path in (HERE / "packages").glob("*.py"))


def fitted(package: str, repeats: int) -> dict[str, Any]:
    """Fit all configurations of a package, in a process that has nothing else loaded."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.foreign.fit", package, "--repeats", str(repeats)]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **settings})
    head, *rows = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")] or [{}]
    failure = run.stderr.strip().splitlines()[-1:] if run.returncode else []
    return {**head, "rows": [compare(row) for row in rows], "error": "".join(failure)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=PACKAGES, default=PACKAGES, help="packages; default all")
    parser.add_argument("--repeats", type=int, default=3, help="fits without and with, each, of a configuration")
    parser.add_argument("--jobs", type=int, default=1, help="packages at a time")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "foreign"), help="for the results")
    parser.add_argument("--write", action="store_true", help="write docs/foreign.md from the results")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)

    def one(package: str) -> None:
        found = fitted(package, args.repeats)
        (args.folder / f"{package}.json").write_text(json.dumps(found, indent=1))
        print(f"{package}: {len(found['rows'])} configurations {found['error']}", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(one, args.only))
    kept = [(package, args.folder / f"{package}.json") for package in PACKAGES]
    results = {package: json.loads(path.read_text()) for package, path in kept if path.exists()}
    print("\n".join(summary(results)))
    if args.write:
        write(results, ROOT / "docs" / "foreign.md")


if __name__ == "__main__":
    main()
