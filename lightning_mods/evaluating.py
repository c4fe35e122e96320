"""What `validate` and `test` do once the command line has been looked at."""

from collections.abc import Sequence
from pathlib import Path

from lightning_mods.cli import ModsCLI
from lightning_mods.evaluate import print_results
from lightning_mods.running import run


def validate(args: Sequence[str]) -> None:
    """Evaluate a checkpoint on the validation set."""
    run("validate", args, _validate)


def test(args: Sequence[str]) -> None:
    """Evaluate a checkpoint on the test set."""
    run("test", args, _test)


def _validate(cli: ModsCLI, checkpoint: Path | None) -> None:
    print_results(cli, checkpoint, "val")


def _test(cli: ModsCLI, checkpoint: Path | None) -> None:
    print_results(cli, checkpoint, "test")
