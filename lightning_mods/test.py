"""`python -m lightning_mods.test`: evaluate a checkpoint on the test set."""

from collections.abc import Sequence

from lightning_mods.cli.start import start


def main(args: Sequence[str] | None = None) -> None:
    """Evaluate a checkpoint on the test set with these flags; None for those of the process."""
    start("test", args)


if __name__ == "__main__":
    main()
