"""What a verb says when a file can grow no further."""

import os
import resource
import sys
from pathlib import Path

import pytest
import warm

from callbacks.host.lightning import MLFlowLogger
from lightning_mods.cli.verbs import mistakes_in_one_line


def log_on_a_full_disk(folder, said):
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    logger = MLFlowLogger(tracking_uri=folder)
    logger.log_metrics({"val_loss": 1.0}, step=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
    with Path(said).open("w") as sys.stderr, mistakes_in_one_line("fit"):
        for step in range(50):
            logger.log_metrics({"val_loss": 1.0}, step=step)


def test_a_full_disk_is_one_line_when_mlflow_finds_it_too(tmp_path):
    pytest.importorskip("mlflow")
    process = warm.start(log_on_a_full_disk, str(tmp_path / "mlruns"), str(tmp_path / "said"))
    assert warm.ended(process, 120)
    assert process.exitcode == 2
    said = (tmp_path / "said").read_text()
    assert said == "fit: File too large; what was there before is left as it was.\n"
