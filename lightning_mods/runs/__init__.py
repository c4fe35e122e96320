"""Where the runs of a folder are: which is the newest, and which checkpoint `best` and `last` mean."""

import os
from dataclasses import dataclass
from pathlib import Path

# The first line of the config.yaml that our `fit` writes; it tells our runs from other people's config files.
RUN_MARK = "lightning_mods run"
# A run is the folder itself, `NAME` or `NAME/version_N` below it: never a walk through the whole disk.
_PATTERNS = ("config.yaml", "*/config.yaml", "*/*/config.yaml")


class RunError(ValueError):
    """Names what is wrong with a run or a checkpoint, in one line for the person who asked for it."""


@dataclass(frozen=True)
class FoundCheckpoint:
    """Says which checkpoint a person meant, and what was passed over on the way to it."""

    path: Path
    passed_over: Path | None = None  # the newest run, where it has no such checkpoint and an older one has


def runs_under(root: Path) -> list[Path]:
    """Return the folders of the runs under `root`, the one in which training began last first."""
    configs = [path for pattern in _PATTERNS for path in root.glob(pattern) if _is_ours(path)]
    return [path.parent for path in sorted(configs, key=lambda path: path.stat().st_mtime_ns, reverse=True)]


def newest_run(root: Path) -> Path | None:
    """Return the newest run under `root` that has a checkpoint; None where there is none."""
    return next((run for run in runs_under(root) if _checkpoints(run, "")), None)


def make_newest(run: Path) -> None:
    """Make a run the newest, as if its training had begun just now: `best` and `last` are its checkpoints."""
    if (run / "config.yaml").is_file():
        os.utime(run / "config.yaml")


def find_checkpoint(which: str, root: Path) -> FoundCheckpoint | None:
    """Return the checkpoint that a person means by `best` or `last`, or by a path.

    The first two are those of the newest run under `root` that has one: what failed before there was a checkpoint hides
    no run that has. None when no run has one; a `RunError` where a path is of no file.
    """
    if which in ("best", "last"):
        runs = runs_under(root)
        for run in runs:
            if found := _checkpoints(run, which):
                newest = max(found, key=lambda path: path.stat().st_mtime_ns)
                return FoundCheckpoint(newest, None if run == runs[0] else runs[0])
        return None
    path = Path(which).expanduser()
    if not path.is_file():
        reason = f"{which} is a folder" if path.is_dir() else f"there is no file {which}"
        raise RunError(f"--ckpt_path needs a checkpoint file, `best` or `last`; {reason}.")
    return FoundCheckpoint(path)


def run_of(checkpoint: Path) -> Path | None:
    """Return the run's folder that a checkpoint lies in, None for a checkpoint that was moved out of its run."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == "checkpoints" and _is_ours(run / "config.yaml") else None


def _checkpoints(run: Path, which: str) -> list[Path]:
    # A ModelCheckpoint of the user's may have written `last-v1.ckpt` in the middle of an epoch.
    return list((run / "checkpoints").glob(f"{which}*.ckpt"))


def _is_ours(config: Path) -> bool:
    try:
        with config.open(encoding="utf-8") as lines:
            return RUN_MARK in lines.readline()
    except (OSError, UnicodeDecodeError):
        return False  # not readable, so not a run that could be taken up
