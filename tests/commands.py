"""The real commands, as a person types them: processes of their own in a folder of their own."""

import csv
import os
import random
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import warm

TIMEOUT = 180  # a start costs 5 s on a quiet machine; a busy one may need far more


def environment(cwd, **more):
    """The environment of a command: one thread, a cache beside its folder, none of pytest's leftovers."""
    # One name after the other: pytest's own thread writes and removes one while others start commands.
    here = {name: os.environ.get(name) for name in list(os.environ)}
    left_out = ("PL_GLOBAL_SEED", "PYTHONWARNINGS", "LOCAL_RANK", "PYTEST_CURRENT_TEST")
    kept = {name: value for name, value in here.items() if value is not None and name not in left_out}
    return {**kept, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(Path(cwd).resolve().parent / "cache"), **more}


def argv(verb, *args):
    return [sys.executable, "-m", f"lightning_mods.{verb}", *args]


def start_warm(verb, *args, cwd, out, err, **env):
    """Start a command in a process of its own that need not import torch and Lightning first.

    Returns:
        The process, whose streams are written into the files `out` and `err`.
    """
    return warm.start(_become, verb, args, str(cwd), environment(cwd, **env), out, err)


def warm_up():
    """Start the process that all are forked from, also those that a command run in this very process starts."""
    warm.ended(warm.start(int), TIMEOUT)


def call_warm(verb, *args, cwd, **env):
    """Run `python -m lightning_mods.VERB ARGS` to its end, started warm, and return what came of it."""
    with tempfile.TemporaryDirectory() as held:
        out, err = Path(held, "out"), Path(held, "err")
        process = start_warm(verb, *args, cwd=cwd, out=out, err=err, **env)
        if not warm.ended(process, TIMEOUT):
            process.kill()
            raise TimeoutError(f"{verb} {args} ran for more than {TIMEOUT} s")
        return subprocess.CompletedProcess(argv(verb, *args), process.exitcode, out.read_text(), err.read_text())


def _become(verb, args, cwd, env, out, err):
    """Turn this process into the command."""
    warm.become(cwd, env, out, err)
    sys.argv = ["", *args]
    runpy.run_module(f"lightning_mods.{verb}", run_name="__main__", alter_sys=True)


def is_loaded_by_every_verb(module):
    """Whether a command imports a module before it knows what it is asked for."""
    process = warm.start(_tell_if_loaded, module)
    assert warm.ended(process, TIMEOUT)
    return bool(process.exitcode)


def _tell_if_loaded(module):
    sys.exit(module in sys.modules)


def succeed(verb, *args, cwd, **env):
    """Run a command that must succeed without a traceback, in a process that is started warm."""
    done = call_warm(verb, *args, cwd=cwd, **env)
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
