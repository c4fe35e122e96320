"""`OfflineCometLogger`: Comet without a server that really writes; Lightning's own logs nothing then (#21617)."""

import os
from pathlib import Path
from typing import Any

from callbacks.host.lightning import CometLogger


class OfflineCometLogger(CometLogger):
    """Writes a run into a zip file that `comet upload` sends later.

    Lightning's `CometLogger(online=False)` makes an experiment that is disabled. Here Comet itself is asked to begin
    offline, by its setting `COMET_START_ONLINE`. The file is there when `experiment.end()` was called, or when the
    process ends.

    Args:
        offline_directory: Folder for the file.
        project: Name of the project.
        workspace: Name of the workspace.
        name: Name of the experiment; none lets Comet find one.
        log_env_details: Whether the packages, the machine and its address are noted.
        prefix: What all names of metrics begin with, and a `-`.

    Raises:
        ModuleNotFoundError: The package `comet_ml` is not installed.
    """

    def __init__(
        self,
        offline_directory: str | Path = ".",
        project: str | None = None,
        *,
        workspace: str | None = None,
        name: str | None = None,
        log_env_details: bool = True,
        prefix: str | None = None,
    ) -> None:
        Path(offline_directory).mkdir(parents=True, exist_ok=True)
        more: dict[str, Any] = {"offline_directory": str(offline_directory), "log_env_details": log_env_details}
        if name:
            more["name"] = name
        before = os.environ.get("COMET_START_ONLINE")
        os.environ["COMET_START_ONLINE"] = "0"
        try:
            super().__init__(project=project, workspace=workspace, prefix=prefix, **more)
        finally:
            os.environ.pop("COMET_START_ONLINE")
            if before is not None:
                os.environ["COMET_START_ONLINE"] = before

    @property
    def files(self) -> list[Path]:
        """The zip files of the run that are whole."""
        return sorted(Path(self.save_dir or ".").glob(f"{self.version}*.zip"))
