"""`python -m lightning_mods.test`: evaluate a checkpoint on the test set."""

from collections.abc import Sequence
from pathlib import Path

from lightning_mods.cli import ModsCLI
from lightning_mods.evaluate import print_results
from lightning_mods.running import run


def main(args: Sequence[str] | None = None) -> None:
    """Evaluate a checkpoint on the test set.

    Args:
        args: The flags; None for those of the process.
    """
    run("test", args, _test)


def _test(cli: ModsCLI, checkpoint: Path | None) -> None:
    print_results(cli, checkpoint, "test")


if __name__ == "__main__":
    main()
