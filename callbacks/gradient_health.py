"""What can be wrong with a training run, as arithmetic over plain numbers: no tensor comes here."""

from callbacks._faults import Fault, Finding, explained

__all__ = ["Fault", "Finding", "explained"]
