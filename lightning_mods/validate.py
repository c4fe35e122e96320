"""`python -m lightning_mods.validate`: evaluate a checkpoint on the validation set."""

from collections.abc import Sequence
from pathlib import Path

from lightning_mods.cli import ModsCLI
from lightning_mods.evaluate import print_results
from lightning_mods.running import run


def main(args: Sequence[str] | None = None) -> None:
    """Evaluate a checkpoint on the validation set.

    Args:
        args: The flags; None for those of the process.
    """
    run("validate", args, _validate)


def _validate(cli: ModsCLI, checkpoint: Path | None) -> None:
    print_results(cli, checkpoint, "val")


if __name__ == "__main__":
    main()
