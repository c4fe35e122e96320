"""Run the tests of what meets Lightning again with `lightning.pytorch`: a copy of them, with that name in imports.

    python tests/under_lightning.py [pytest's arguments]

Whoever writes `import lightning as L` writes the same code with other names; so the same tests must hold.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
OTHER = {"pytorch_lightning": "lightning.pytorch", "lightning_fabric": "lightning.fabric"}
TESTS = (
    *("callbacks/fit", "callbacks/gradients", "callbacks/graphs/test_graph_logger.py", "callbacks/loggers"),
    *("callbacks/health/test_gradient_monitor_contract.py", "callbacks/health/test_hard_modules.py"),
    *("callbacks/tuning/test_optuna_search.py", "callbacks/tuning/test_trial_pruning.py"),
    "lightning_mods/cli/test_loss_names.py",
    *("end_to_end/test_ddp.py", "end_to_end/test_loggers.py"),
)


def main(arguments):
    """Copy, rename and run; the exit code is pytest's."""
    names = re.compile(rf"\b({'|'.join(OTHER)})\b")
    with tempfile.TemporaryDirectory() as folder:
        for part in ("tests", "benchmarks"):
            shutil.copytree(ROOT / part, Path(folder, part), ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, folder)
        for path in Path(folder, "tests").rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            path.write_text(names.sub(lambda found: OTHER[found[0]], text), encoding="utf-8")
        chosen = [str(Path("tests", test)) for test in TESTS]
        environment = {**os.environ, "LIGHTNING_MODS_PACKAGE": "lightning.pytorch", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "pytest", *arguments, *chosen]
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
