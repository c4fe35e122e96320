"""`python -m lightning_mods.export`: write the model of a checkpoint as a file for other programs."""

from collections.abc import Sequence

from lightning_mods.cli.start import start


def main(args: Sequence[str] | None = None) -> None:
    """Export a model, as the flags in `args` say; None for those of the process."""
    start("export", args)
