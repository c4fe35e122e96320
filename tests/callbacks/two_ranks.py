"""Runs a script that trains on two ranks; one that hangs is killed, and its test fails."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_ranks(folder, text, *args):
    """Run a script's text with `args`, which finds `callbacks` and the modules beside this file.

    Returns:
        The finished process, which succeeded.
    """
    script = folder / "ranks.py"
    script.write_text(text)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "callbacks")])
    done = subprocess.run(
        ["timeout", "-k", "5", "150", sys.executable, str(script), *map(str, args)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done
