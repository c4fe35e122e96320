"""Run `python -m lightning_mods.diagnose`."""

from lightning_mods.diagnose import main

main()
