"""The real commands, as a person types them: processes of their own in a folder of their own."""

import csv
import os
import random
import subprocess
import sys
from pathlib import Path

TIMEOUT = 180  # a start costs 5 s on a quiet machine; a busy one may need far more


def environment(cwd, **more):
    """The environment of a command: one thread, a cache beside its folder, none of pytest's leftovers."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PL_GLOBAL_SEED", "PYTHONWARNINGS", "LOCAL_RANK")}
    return {**kept, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(Path(cwd).resolve().parent / "cache"), **more}


def argv(verb, *args):
    return [sys.executable, "-m", f"lightning_mods.{verb}", *args]


def call(verb, *args, cwd, **env):
    """Run `python -m lightning_mods.VERB ARGS` to its end and return what came of it."""
    return subprocess.run(
        argv(verb, *args), cwd=cwd, env=environment(cwd, **env), capture_output=True, text=True, timeout=TIMEOUT
    )


def succeed(verb, *args, cwd, **env):
    """Run a command that must succeed without a traceback."""
    done = call(verb, *args, cwd=cwd, **env)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def contents(folder):
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def write_table(path, rows, *, columns=("size", "weight", "colour", "kind"), change=None):
    """A small table: two numbers, the first different in each row; a category with gaps; a class that hangs on all.

    `change(i, row)` may return another row, or text to be written as it stands.
    """
    draw = random.Random(0)
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for i in range(rows):
            size, weight, colour = draw.gauss(0, 1), draw.gauss(50, 9), draw.choice(["red", "green", "blue", ""])
            kind = "big" if size + (colour == "red") + 0.05 * (weight - 50) > 0.3 else "small"
            row = [f"{size:.9f}", f"{weight:.3f}", colour, kind]
            writer.writerow(change(i, row) if change else row)
    return Path(path)
