"""Tables for training: read, split, encode, and hand out in mini-batches.

Names load on first use, so that `import datamodules` costs neither torch nor Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.errors import DataError
    from datamodules.tabular import TabularDataModule

__all__ = ["DataError", "TabularDataModule"]

_HOME = {"DataError": "errors", "TabularDataModule": "tabular"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}.")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
