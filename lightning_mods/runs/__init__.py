"""Where the runs of a folder are: which is the newest, and which checkpoint `best` and `last` mean."""

from pathlib import Path

# The first line of the config.yaml that our `fit` writes; it tells our runs from other people's config files.
RUN_MARK = "lightning_mods run"
# A run is the folder itself, `NAME` or `NAME/version_N` below it: never a walk through the whole disk.
_PATTERNS = ("config.yaml", "*/config.yaml", "*/*/config.yaml")


class RunError(ValueError):
    """Names what is wrong with a run or a checkpoint, in one line for the person who asked for it."""


def newest_run(root: Path) -> Path | None:
    """Return the folder of the run under `root` whose configuration was written last; None where there is none."""
    configs = [path for pattern in _PATTERNS for path in root.glob(pattern) if _is_ours(path)]
    return max(configs, key=lambda path: path.stat().st_mtime_ns).parent if configs else None


def find_checkpoint(which: str, root: Path) -> Path | None:
    """Return the checkpoint that a person means by `best` or `last` (of the newest run under `root`), or by a path.

    None when the newest run has no such checkpoint yet, or there is no run; a `RunError` where a path is of no file.
    """
    if which in ("best", "last"):
        run = newest_run(root)
        # A ModelCheckpoint of the user's may have written `last-v1.ckpt` in the middle of an epoch.
        found = list((run / "checkpoints").glob(f"{which}*.ckpt")) if run else []
        return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    path = Path(which).expanduser()
    if not path.is_file():
        reason = f"{which} is a folder" if path.is_dir() else f"there is no file {which}"
        raise RunError(f"--ckpt_path needs a checkpoint file, `best` or `last`; {reason}.")
    return path


def run_of(checkpoint: Path) -> Path | None:
    """Return the run's folder that a checkpoint lies in, None for a checkpoint that was moved out of its run."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == "checkpoints" and _is_ours(run / "config.yaml") else None


def _is_ours(config: Path) -> bool:
    try:
        with config.open(encoding="utf-8") as lines:
            return RUN_MARK in lines.readline()
    except (OSError, UnicodeDecodeError):
        return False  # not readable, so not a run that could be taken up
