"""Run `python -m lightning_mods.export`."""

from lightning_mods.export import main

main()
