"""The contenders' processes: started once, asked for one fit at a time."""

import json
import os
import pty
import subprocess
import threading
from pathlib import Path
from typing import Any

from benchmarks.speed.contenders import CONTENDERS
from benchmarks.speed.shapes import Job

ROOT = Path(__file__).parents[2]
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}


class FitError(RuntimeError):
    """A contender could not do what it was asked; its process is ready for the next."""


class Worker:
    """A contender's process. It sees a terminal, so that bars are drawn as a person would have them drawn.

    Args:
        name: A key of `CONTENDERS`.
        python: The interpreter whose packages it uses.

    Attributes:
        missing: Why it cannot take part; None if it can.
    """

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        self._shown, terminal = pty.openpty()
        environment = {**os.environ, **ONE_THREAD, **CONTENDERS[name].environment, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.speed.worker", name],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=terminal,
            text=True,
        )
        os.close(terminal)
        self._tail = b""
        self._drainer = threading.Thread(target=self._drain, daemon=True)
        self._drainer.start()
        self.missing: str | None = self._answer().get("missing")

    def _drain(self) -> None:
        # A terminal that nobody reads fills up, and who writes to it waits.
        while True:
            try:
                read = os.read(self._shown, 65536)
            except OSError:  # how Linux says that the other end is closed
                return
            self._tail = (self._tail + read)[-4000:]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The process of {self.name!r} ended:\n{self.tail}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    @property
    def tail(self) -> str:
        """The last that it said to its terminal."""
        return self._tail.decode(errors="replace")

    def fit(self, job: Job) -> dict[str, Any]:
        """Have one fit done.

        Raises:
            FitError: It failed; with the end of what it said.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job.to_plain()) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise FitError(f"{self.name!r} failed on {job.shape.name}: {answer['error']}\n{self.tail}")
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._drainer.join()
        os.close(self._shown)


def open_workers(names: list[str], python: str, rivals_python: str) -> dict[str, Worker]:
    """Start the processes of those who can take part, and say in a line who cannot."""
    workers = {}
    for name in names:
        contender = CONTENDERS[name]
        interpreter = rivals_python if contender.rival else python
        worker = Worker(name, interpreter)
        if worker.missing is None:
            workers[name] = worker
            continue
        worker.close()
        print(
            f"{name}: left out ({worker.missing}); it needs: {interpreter} -m pip install -c constraints.txt "
            f"{contender.pip}",
            flush=True,
        )
    return workers
