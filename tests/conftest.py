"""What all tests share: one thread a process, an unchanged environment, and a PostgreSQL server for who asks."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

# Named first: pytest puts this folder onto the path, and `callbacks` and `datamodules` in it would be the user's.
import callbacks  # noqa: F401
import datamodules  # noqa: F401

# Tests run in two processes on two cores; torch reads this when it is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# They take longest; the last file to be given out keeps one worker busy while the other has nothing left to do.
LONG = (
    "test_readme.py",
    "test_kill_and_resume.py",
    "test_study_processes.py",
    "test_study_ranks.py",
    "test_bad_input.py",
    "test_ddp.py",
)


def pytest_collection_modifyitems(items):
    """Begin with the long files."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(autouse=True)
def _same_environment_afterwards():
    """Lightning writes its seed into the environment; the next test shall not find it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def _postgresql_bin():
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((str(place) for place in places if (place / "initdb").exists()), None) or (
        str(Path(shutil.which("initdb")).parent) if shutil.which("initdb") else None
    )


@pytest.fixture(scope="session")
def postgresql():
    """The URL of an empty server, which listens on a socket in a folder of its own."""
    found = _postgresql_bin()
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="the driver is not installed: pip install 'psycopg[binary]'")
    root = os.getuid() == 0
    if root and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        pytest.skip("PostgreSQL does not run as root, and there is no user `postgres`")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short, since it is the path of a socket; pytest's is root's own
    account = ["runuser", "-u", "postgres", "--"] if root else []
    if root:
        shutil.chown(folder, "postgres")

    def run(*command):
        done = subprocess.run([*account, *command], capture_output=True, text=True, check=False, cwd=folder)
        assert done.returncode == 0, done.stderr

    data = str(folder / "data")
    options = f"-c listen_addresses='' -c fsync=off -k {folder}"
    run(f"{found}/initdb", "-D", data, "-U", "tester", "--auth=trust", "--no-sync")
    run(f"{found}/pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        yield f"postgresql://tester@/postgres?host={folder}"
    finally:
        run(f"{found}/pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)
