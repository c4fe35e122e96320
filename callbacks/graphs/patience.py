"""Keep work within some seconds of wall-clock time: it is counted, and ended in the middle when they are used up."""

from time import monotonic
from typing import Any

from torch.overrides import TorchFunctionMode


class Patience:
    """Counts the seconds spent in its `with` blocks, of which there are so many in all.

    Args:
        seconds: How long everything may take together.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._spent, self._start, self._depth = 0.0, 0.0, 0

    def __enter__(self) -> "Patience":
        self._start = self._start if self._depth else monotonic()
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._spent, self._depth = self.spent() if self._depth == 1 else self._spent, self._depth - 1

    def spent(self) -> float:
        """Return the seconds that are used up."""
        return self._spent + (monotonic() - self._start if self._depth else 0.0)

    def left(self) -> float:
        """Return the seconds that are left; below 0 when it took longer."""
        return self.seconds - self.spent()

    def check(self, over: float = 0.0) -> None:
        """Raise a TimeoutError when no time is left and so many seconds more have passed."""
        if self.left() + over <= 0:
            raise TimeoutError("it takes too long")


class EndedBy(TorchFunctionMode):
    """Ends a pass through somebody's module between two operations, once a patience is used up."""

    def __init__(self, patience: Patience) -> None:
        super().__init__()
        self._patience = patience

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._patience.check()
        return func(*args, **(kwargs or {}))
