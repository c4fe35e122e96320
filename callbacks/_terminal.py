"""What a callback says to the person at the terminal, and how it reports a failure of its own."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pytorch_lightning import Trainer


def say(trainer: Trainer, text: str) -> None:
    """Print on standard error, on one rank alone; below a progress bar, not into it."""
    if not trainer.is_global_zero:
        return
    bar = trainer.progress_bar_callback
    below = "\n" if getattr(bar, "is_enabled", False) and sys.stderr.isatty() else ""
    sys.stderr.write(f"{below}{text}\n")


class Guard:
    """Lets training go on when what only watches it fails, and says so once for each failure.

    Args:
        name: Who is speaking.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._said: set[str] = set()

    @contextmanager
    def __call__(self, trainer: Trainer, what: str) -> Iterator[None]:
        """Run a block; an error in it is named in one line and goes no further."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # whatever it is, hours of training are worth more
            self.failed(trainer, what, error)

    def failed(self, trainer: Trainer, what: str, error: Exception) -> None:
        """Name an error that was caught by hand: a context manager costs 2 µs, too much for each batch."""
        self.once(trainer, f"{what} failed ({type(error).__name__}: {error}); training goes on.")

    def once(self, trainer: Trainer, text: str) -> None:
        """Say a line, unless it was said before."""
        if text not in self._said:
            self._said.add(text)
            say(trainer, f"{self.name}: {text}")
