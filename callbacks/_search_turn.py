"""The moment before a fit makes its optimizers, when a module can still be told its learning rate."""

from collections.abc import Callable
from typing import Any

from pytorch_lightning import LightningModule

from callbacks._search_rate import parts, set_rate

_NAME = "configure_optimizers"


class Turn:
    """Does something before a module is asked for its optimizers, once, and leaves no trace on the module.

    Args:
        module: The module.
        before: What to do; returns the rate that the optimizer is to have whatever the module says, or None.
    """

    def __init__(self, module: LightningModule, before: Callable[[], float | None]) -> None:
        self._module = module
        self._before = before
        self._own = vars(module).get(_NAME)  # a method bound to this very module, as Lightning's CLI does
        self._waits = True
        setattr(module, _NAME, self._come)

    def leave(self) -> None:
        """Put the module's own method back."""
        if not self._waits:
            return
        self._waits = False
        if self._own is None:
            delattr(self._module, _NAME)
        else:
            setattr(self._module, _NAME, self._own)

    def _come(self) -> Any:
        self.leave()
        rate = self._before()
        made = self._module.configure_optimizers()
        if rate is not None:
            set_rate(*parts(made), rate)
        return made
