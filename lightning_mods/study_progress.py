"""How far a study is: a bar in a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from collections.abc import Mapping

from callbacks.search import Progress
from lightning_mods.study_names import short_names, shown
from lightning_mods.terminal import say

_WIDE = 20  # letters of the bar
EVERY = 5.0  # seconds between two plain lines, unless there is a new best


class StudyProgress:
    """Shows the progress that it is called with.

    Args:
        metrics: Names of the objectives.
        space: Names that are searched.
    """

    def __init__(self, metrics: list[str], space: Mapping[str, object]) -> None:
        self._metrics = metrics
        self._short = short_names(space)
        self._drawn = False
        self._said = -EVERY
        self._done = -1
        self._best: float | None = None
        self.last: Progress | None = None

    def __call__(self, now: Progress) -> None:
        """Show it, unless it is older than what stands there."""
        if self.last is not None and now.done < self.last.done:
            return
        self.last = now
        if sys.stderr.isatty():
            self._draw(now)
        else:
            self._write(now)

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        if self._drawn:
            sys.stderr.write("\n")
        self._drawn = False

    def _draw(self, now: Progress) -> None:
        full = _WIDE * now.done // now.total
        text = f"[{'=' * full}{' ' * (_WIDE - full)}] {now.done}/{now.total} trials {self._words(now)}"
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r{text[:width].ljust(width)}")
        sys.stderr.flush()
        self._drawn = True

    def _write(self, now: Progress) -> None:
        found = now.best.values[0] if now.best else None
        due = time.monotonic() - self._said >= EVERY or found != self._best or now.done == now.total
        if due and now.done != self._done and now.done:
            say(f"{now.done}/{now.total} trials: {self._words(now)}")
            self._said, self._done, self._best = time.monotonic(), now.done, found

    def _words(self, now: Progress) -> str:
        words = [f"{_clock(now.left)} left"] if now.left is not None and now.done < now.total else []
        if now.best is not None:
            values = ", ".join(f"{self._short[name]} {shown(value)}" for name, value in now.best.params.items())
            words.append(f"best {self._metrics[0]} {now.best.values[0]:.4g} ({values})")
        words += [f"{count} {word}" for count, word in ((now.pruned, "pruned"), (now.failed, "failed")) if count]
        return ", ".join(words)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
