"""The folder of a fit: claimed, so that no other fit writes to it, and removed if nothing came of it."""

import os
import re
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from callbacks.host.files import locked
from lightning_mods.runs import RunError

_CHOSEN = "LIGHTNING_MODS_RUN"  # environment variable: the folder, for the ranks that this process starts
_VERSION = re.compile(r"version_(\d+)")
_OWN_FOLDERS = re.compile(
    r"checkpoints|graphs|fold_\d+"
)  # any other is of a service's client, which may still write to it


class RunClaim:
    """Keeps the folder of a fit from the other fits of this machine, for as long as the fit goes on.

    A folder that it has made is removed at the end if training never began there (then it has no config.yaml), so that
    a fit that fails leaves nothing behind.
    """

    def __init__(self, *, leads: bool = True) -> None:  # whether this process is rank zero
        self._leads = leads
        self._locks = ExitStack()
        self._made: list[Path] = []

    def __enter__(self) -> "RunClaim":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._locks.close()
        for folder in self._made:
            if not (folder / "config.yaml").exists():
                _remove(folder)

    def go_on(self, folder: Path) -> Path:
        """Claim the folder of a run that goes on; a RunError says that another fit writes to it."""
        if self._leads and folder.is_dir() and not self._locks.enter_context(locked(folder)):
            raise RunError(f"another fit is writing to {folder}; wait until it is over, or stop it.")
        return folder

    def begin(self, runs: Path) -> Path:
        """Make the next folder `version_N` of a run, and claim it; the ranks of one fit have the same."""
        chosen = os.environ.get(_CHOSEN)
        number = _next(runs)
        if not self._leads:
            return Path(chosen) if chosen else runs / f"version_{number}"
        while True:
            folder = runs / f"version_{number}"
            runs.mkdir(parents=True, exist_ok=True)
            try:
                folder.mkdir()
            except FileExistsError:  # another fit was faster
                number += 1
                continue
            self._made.append(folder)
            os.environ[_CHOSEN] = str(folder)
            self._locks.callback(os.environ.pop, _CHOSEN, None)
            return self.go_on(folder)


def _next(runs: Path) -> int:
    """Return a number above those that are there."""
    names = (_VERSION.fullmatch(path.name) for path in runs.glob("version_*"))
    return max((int(found[1]) + 1 for found in names if found), default=0)


def _remove(folder: Path) -> None:
    with suppress(OSError):  # removed by somebody else
        if not any(path.is_dir() and not _OWN_FOLDERS.fullmatch(path.name) for path in folder.iterdir()):
            shutil.rmtree(folder)
            folder.parent.rmdir()  # if it was the first
