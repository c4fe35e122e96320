# For type checkers alone: at run time `lightning_mods/cli/siblings.py` finds this module.
from datamodules import DataError as DataError
from datamodules import TabularDataModule as TabularDataModule
