"""`python -m lightning_mods.validate`: evaluate a checkpoint on the validation set."""

from collections.abc import Sequence

from lightning_mods.cli.start import start


def main(args: Sequence[str] | None = None) -> None:
    """Evaluate a checkpoint on the validation set with these flags; None for those of the process."""
    start("validate", args)


if __name__ == "__main__":
    main()
