"""Run `python -m lightning_mods.fit`."""

from lightning_mods.fit import main

main()
