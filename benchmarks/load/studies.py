"""Studies of many workers on a journal and on PostgreSQL: trials lost, trials run twice, the time of a trial."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FLAGS = (
    *("--data.path=iris", "--model.hidden_sizes=[8]", "--data.batch_size=32", "--trainer.max_epochs=2"),
    *("--study.fused=false", "--study.pruner=none", "--study.prune_hopeless=false", "--trainer.accelerator=cpu"),
)


@dataclass(frozen=True)
class Measured:
    """What became of a study."""

    storage: str
    workers: int
    trials: int  # asked for
    lost: int  # places that no trial filled
    twice: int  # places that more than one did
    seconds: float
    first: float  # seconds a trial, in the first quarter
    last: float

    @property
    def row(self) -> str:
        """Return a row of the page."""
        counts = f"{self.workers} | {self.trials:,} | {self.lost} | {self.twice}"
        return f"| {self.storage} | {counts} | {self.seconds:,.0f} s | {self.first:.2f} s | {self.last:.2f} s |"


@contextmanager
def postgresql() -> Iterator[str | None]:
    """Start a server of its own, that only a socket reaches; None where PostgreSQL is not installed."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)
    root = os.getuid() == 0
    if programs is None or (root and "postgres" not in {user.pw_name for user in pwd.getpwall()}):
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short, as it is the path of a socket
    account = ["runuser", "-u", "postgres", "--"] if root else []
    if root:
        shutil.chown(folder, "postgres")

    def call(program: str, *flags: str) -> None:
        command = [*account, str(programs.parent / program), "-D", str(folder / "data"), *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)

    call("initdb", "-U", "tester", "--auth=trust")
    call("pg_ctl", "-o", f"-c listen_addresses='' -k {folder}", "-l", str(folder / "log"), "-w", "start")
    try:
        yield f"postgresql://tester@/postgres?host={folder}"
    finally:
        call("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def measured(name: str, url: str | None, trials: int, workers: int) -> Measured:
    """Run a study to its end and count."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [*FLAGS, f"--study.n_trials={trials}", f"--study.workers={workers}"]
        flags += [f"--study.storage={url}"] if url else []
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        begin = time.monotonic()
        command = [sys.executable, "-m", "lightning_mods.study", *flags]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - begin
        if done.returncode:
            raise SystemExit(f"The study on {name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        found = [trial for trial in _trials(Path(folder), url) if trial.state.name in ("COMPLETE", "PRUNED")]
    places = Counter(trial.user_attrs["place"] for trial in found)
    ends = sorted(trial.datetime_complete.timestamp() for trial in found)
    quarter = max(1, len(ends) // 4)
    first, last = ends[quarter] - ends[0], ends[-1] - ends[-1 - quarter]
    twice = sum(n > 1 for n in places.values())
    return Measured(name, workers, trials, trials - len(places), twice, seconds, first / quarter, last / quarter)


def _trials(folder: Path, url: str | None) -> list[Any]:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.study import load_study

    journal = folder / "studies" / "study" / "study.journal"
    storage = JournalStorage(JournalFileBackend(str(journal))) if url is None else RDBStorage(_with_driver(url))
    return load_study(study_name="study", storage=storage).trials


def _with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def measured_studies(trials: int, workers: int) -> list[Measured]:
    """Run the same study on a journal and, where it is installed, on PostgreSQL."""
    studies = [measured("journal", None, trials, workers)]
    print(studies[-1].row, flush=True)
    with postgresql() as url:
        if url is not None:
            studies.append(measured("PostgreSQL", url, trials, workers))
            print(studies[-1].row, flush=True)
    return studies
