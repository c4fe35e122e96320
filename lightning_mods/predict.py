"""`python -m lightning_mods.predict`: predict the rows of a file and write a CSV."""

from collections.abc import Sequence

from lightning_mods.cli.start import start


def main(args: Sequence[str] | None = None) -> None:
    """Predict the rows of a file with these flags; None for those of the process."""
    start("predict", args)


if __name__ == "__main__":
    main()
