"""`python -m lightning_mods.study`: search learning rate, batch size and any other flag of `fit`."""

from collections.abc import Sequence

from lightning_mods.cli.start import start


def main(args: Sequence[str] | None = None) -> None:
    """Search with these flags; None for those of the process."""
    start("study", args)
