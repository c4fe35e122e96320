"""Importing this imports torchmetrics, without scipy.signal: a fifth of what a command costs before its work.

torchmetrics 1.9 imports scipy.signal only to hang the name `hamming`, which scipy has lost, into it again for a package
that measures speech. What else is imported meanwhile, or later, gets the real module when it uses it.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_NAME = "scipy.signal"


class _Deferred(ModuleType):
    """Stands for scipy.signal until somebody wants more of it than one name."""

    hamming = None  # what torchmetrics looks for; any value will do

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # `inspect` asks every module for its file
            raise AttributeError(name)
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]
        return getattr(import_module(_NAME), name)


def import_lean() -> None:
    """Import torchmetrics with scipy.signal put off; nothing where either is imported already."""
    if _NAME in sys.modules or "torchmetrics" in sys.modules:
        return
    deferred = _Deferred(_NAME)
    sys.modules[_NAME] = deferred
    try:
        import_module("torchmetrics")
    finally:
        if sys.modules.get(_NAME) is deferred:
            del sys.modules[_NAME]


import_lean()
