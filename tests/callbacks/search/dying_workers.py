"""Workers that die: several at a time, forked from one process that has imported all, each with its own death."""

import os
import signal
import sys
from collections import deque


def run_workers(worker, deaths, *, at_once):
    """Run `worker(death, at)` once for each of `deaths`, so many at a time; say how many were killed and how all ended.

    Forked, since a dozen of them then cost little.
    """
    waiting, alive, killed, ended = deque(deaths), set(), 0, []
    while waiting or alive:
        while waiting and len(alive) < at_once:
            death, at = waiting.popleft()
            pid = os.fork()
            if pid == 0:
                try:
                    worker(death, at)
                except BaseException as error:  # noqa: BLE001  # a forked process must not go on as its parent would
                    sys.stderr.write(f"{type(error).__name__}: {error}\n")
                    os._exit(1)
                os._exit(0)
            alive.add(pid)
        pid, status = os.wait()
        alive.discard(pid)
        killed += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if os.WIFEXITED(status):
            ended.append(os.WEXITSTATUS(status))
    sys.stdout.write(f"killed {killed} ended {ended}\n")
