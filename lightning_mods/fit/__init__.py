"""`python -m lightning_mods.fit`: train, and end with a word on what became of it."""

from collections.abc import Sequence

from lightning_mods.cli.start import start


def main(args: Sequence[str] | None = None) -> None:
    """Train a model on a table with these flags; None for those of the process."""
    start("fit", args)
