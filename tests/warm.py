"""Processes that need not import torch and Lightning first: forked from one that has, they start in 0.1 s, not 5."""

import multiprocessing
import os
import sys
import threading
from contextlib import contextmanager
from multiprocessing.connection import wait

_SERVER = multiprocessing.get_context("forkserver")
_TABLES = ("pyarrow.csv", "pyarrow.feather", "pyarrow.parquet")
_SERVER.set_forkserver_preload(
    ["lightning_mods.cli.verbs", "torch._dynamo", "onnxruntime", "sklearn.ensemble", *_TABLES]
)
_STARTING = threading.Lock()


def start(target, *args):
    """Start `target(*args)` in a process of its own."""
    # The first call starts the process that all are forked from, with this environment.
    with _STARTING, _one_thread():
        process = _SERVER.Process(target=target, args=args)
        process.start()
    return process


def ended(process, seconds):
    """Wait so long for a process; whether it ended.

    Whoever starts a process asks all others for their exit codes, which can be read once: never two threads at a time.
    """
    wait([process.sentinel], seconds)
    with _STARTING:
        return process.exitcode is not None


def become(cwd, env, out, err):
    """Turn this process into one that was started in a folder, with an environment and streams of its own."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for stream, target in ((1, out), (2, err)):
        opened = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)  # an earlier process may have written more
        os.dup2(opened, stream)
        os.close(opened)
    sys.path.insert(0, str(cwd))  # as `python -m` does


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
