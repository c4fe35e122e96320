"""`make fuzz`: cases of every kind with new seeds, for minutes or hours; each crash is added to the corpus.

python tests/fuzz/fuzz_long.py [--minutes 60] [--seed N] [--kind NAME] [--workers 2]
"""

import argparse
import multiprocessing
import secrets
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)

# Named first, as in `conftest.py`: `tests` has folders of the same names.
import callbacks  # noqa: F401
import datamodules  # noqa: F401
import lightning_mods  # noqa: F401

sys.path[1:1] = [str(ROOT / "tests"), str(ROOT / "tests" / "fuzz")]

from fuzz_case import faults, place_of, run
from fuzz_kinds import KINDS, use_good_run
from fuzz_seeds import make_good_run
from hypothesis import HealthCheck, Phase, given, seed, settings

AT_ONCE = 40  # cases that are drawn before they are run


def drawn(kind, number):
    """Return cases of a kind for a seed."""
    cases = []
    many = settings(
        max_examples=AT_ONCE,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seed(number)(many(given(KINDS[kind])(lambda case: cases.append(case))))()
    return cases


def main():
    """Run, count, and say what was found; exit code 1 if there was anything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="by default another one each time")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="by default all in turn")
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--keep", default="yes", choices=["yes", "no"], help="whether crashes go into the corpus")
    given_flags = parser.parse_args()
    number = secrets.randbits(32) if given_flags.seed is None else given_flags.seed
    end = time.monotonic() + 60 * given_flags.minutes
    counts, codes, found, slowest = Counter(), Counter(), Counter(), 0.0
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(given_flags.workers) as pool:
        good = make_good_run(place)
        use_good_run(good)
        while time.monotonic() < end:
            for kind in given_flags.kind or KINDS:
                cases = drawn(kind, number)
                for case, outcome in zip(cases, pool.map(lambda case: run(case, good), cases), strict=True):
                    counts[kind] += 1
                    codes[outcome.code] += 1
                    slowest = max(slowest, outcome.seconds)
                    for fault in faults(case, outcome):
                        name = f"{kind}: {fault.partition(':')[0]} at {place_of(outcome)}"
                        found[name] += 1
                        if found[name] == 1:  # the others like it go with it
                            kept = case.keep().name if given_flags.keep == "yes" else ""
                            print(f"{name}\n    {kept} {case.verb} {' '.join(case.args)!r}", flush=True)
                if time.monotonic() > end:
                    break
            number += 1
            said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
            print(f"{counts.total()} cases ({said}); faults: {found.total()}", file=sys.stderr, flush=True)
    print(f"{counts.total()} cases; exit codes {dict(codes)}; slowest {slowest:.1f} s; {found.total()} faults")
    for name, count in found.most_common():
        print(f"{count:6} {name}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
