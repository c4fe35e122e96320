"""Run `python -m lightning_mods.study`."""

from lightning_mods.study import main

main()
