"""The real commands, as a person types them: processes of their own in a folder of their own."""

import csv
import multiprocessing
import os
import random
import runpy
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path

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


def call(verb, *args, cwd, **env):
    """Run `python -m lightning_mods.VERB ARGS` to its end and return what came of it."""
    return subprocess.run(
        argv(verb, *args), cwd=cwd, env=environment(cwd, **env), capture_output=True, text=True, timeout=TIMEOUT
    )


# Processes forked from one that has imported what every verb needs: a start costs 0.1 s instead of 5.
_WARM = multiprocessing.get_context("forkserver")
_STARTING = threading.Lock()
_WARM.set_forkserver_preload(
    ["lightning_mods.cli", "lightning_mods.evaluate", "lightning_mods.tables", "torch._dynamo"]
)


@contextmanager
def _one_thread():
    """Say one thread in this process's environment; the other names stay as they are, also for a moment."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def start_warm(verb, *args, cwd, out, err, **env):
    """Start a command in a process of its own that need not import torch and Lightning first.

    Returns:
        The process, whose streams are written into the files `out` and `err`.
    """
    # The first call starts the process that all are forked from, with this environment.
    with _STARTING, _one_thread():
        process = _WARM.Process(target=_become, args=(verb, args, str(cwd), environment(cwd, **env), out, err))
        process.start()
    return process


def _ended(process):
    """Wait for a process; whether it ended.

    Whoever starts a process asks all others for their exit codes, which can be read once: never two threads at a time.
    """
    wait([process.sentinel], TIMEOUT)
    with _STARTING:
        return process.exitcode is not None


def warm_up():
    """Start the process that all are forked from, also those that a command run in this very process starts."""
    with _STARTING, _one_thread():
        process = _WARM.Process(target=int)
        process.start()
    _ended(process)


def call_warm(verb, *args, cwd, **env):
    """As `call`, in a process that is started warm. For many small commands."""
    with tempfile.TemporaryDirectory() as held:
        out, err = Path(held, "out"), Path(held, "err")
        process = start_warm(verb, *args, cwd=cwd, out=out, err=err, **env)
        if not _ended(process):
            process.kill()
            raise TimeoutError(f"{verb} {args} ran for more than {TIMEOUT} s")
        return subprocess.CompletedProcess(argv(verb, *args), process.exitcode, out.read_text(), err.read_text())


def _become(verb, args, cwd, env, out, err):
    """Turn this process into the command: its folder, its environment, its streams."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for stream, target in ((1, out), (2, err)):
        opened = os.open(target, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, stream)
        os.close(opened)
    sys.argv = ["", *args]
    sys.path.insert(0, cwd)  # as `python -m` does
    runpy.run_module(f"lightning_mods.{verb}", run_name="__main__", alter_sys=True)


def is_loaded_by_every_verb(module):
    """Whether a command imports a module before it knows what it is asked for."""
    process = _WARM.Process(target=_tell_if_loaded, args=(module,))
    process.start()
    process.join(TIMEOUT)
    return bool(process.exitcode)


def _tell_if_loaded(module):
    sys.exit(module in sys.modules)


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
