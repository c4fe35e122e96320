"""Runs a script that trains, on two ranks or alone; one that hangs is killed, and its test fails."""

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import warm

SECONDS = 150


def run_ranks(folder, text, *args):
    """Run a script's text with `args`, which finds the modules beside its test, in two processes of one training.

    Returns:
        The finished processes as one, with what both said; they succeeded.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": "2"}
    # Lightning starts no processes where it finds the name of a rank.
    return _run_all(folder, text, args, [{**shared, "LOCAL_RANK": str(rank)} for rank in (0, 1)])


def run_alone(folder, text, *args):
    """As `run_ranks`, in one process."""
    return _run_all(folder, text, args, [{}])


def _run_all(folder, text, args, environments):
    script = folder / "ranks.py"
    script.write_text(text)
    command, started = [str(script), *map(str, args)], []
    for i, more in enumerate(environments):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache"), **more}
        streams = [folder / f"process{i}.{name}" for name in ("out", "err")]
        started.append((warm.start(_run, command, sys.path, str(folder), env, *streams), streams))
    late = [process for process, _ in started if not warm.ended(process, SECONDS)]
    for process in late:
        process.kill()
    out, err = ("".join(streams[i].read_text() for _, streams in started) for i in (0, 1))
    assert not late, f"hung:\n{err}"
    assert not any(process.exitcode for process, _ in started), err
    return subprocess.CompletedProcess(command, 0, out, err)


def _run(command, path, cwd, env, out, err):
    warm.become(cwd, env, out, err)
    sys.argv, sys.path[:] = command, [*path, str(Path(command[0]).parent)]
    runpy.run_path(command[0], run_name="__main__")
