"""`python -m lightning_mods.diagnose LOG`: what became of a run, from the log that any framework wrote."""

from lightning_mods.diagnose.command import main

__all__ = ["main"]
