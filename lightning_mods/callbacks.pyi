# For type checkers alone: at run time `lightning_mods/cli/siblings.py` finds this module.
from callbacks import FitMonitor as FitMonitor
from callbacks import GradientLogger as GradientLogger
from callbacks import GradientMonitor as GradientMonitor
from callbacks import GraphLogger as GraphLogger
from callbacks import OptunaSearch as OptunaSearch
from callbacks import TensorBoardLayout as TensorBoardLayout
from callbacks import TrialPruning as TrialPruning
