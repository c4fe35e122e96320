"""The door to the host: metrics as logged, speech on one rank, and a callback's own failures."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from callbacks.host.secrets import without_passwords

if TYPE_CHECKING:  # what needs no torch writes files and speaks through here too
    from torch import Tensor

    from callbacks.host.packages import Trainer


def number(value: Any) -> float | None:
    """Return a real number or a tensor of one as a float, None for anything else; NaN stays NaN."""
    if hasattr(value, "numel"):
        return float(value.detach()) if value.numel() == 1 and not value.is_complex() else None
    return float(value) if isinstance(value, int | float) else None


def logged(trainer: "Trainer", prefix: str = "") -> dict[str, float]:
    """Return the latest values that the trainer's module has logged under names that start with `prefix`, as floats.

    NaN stays NaN. Values that are no single number are left out.
    """
    metrics = ((str(name), number(value)) for name, value in trainer.callback_metrics.items())
    return {name: value for name, value in metrics if value is not None and name.startswith(prefix)}


def few(names: Sequence[str], most: int = 3) -> str:
    """Return names as one list in words, of many the first ones and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Fresh:
    """Reads a metric only when it was logged anew: `callback_metrics` keeps old values for ever.

    Lightning makes a new tensor whenever a value is logged, so the same tensor is an old value. It also makes one of
    the same value when an epoch ends: ask once when the next begins.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Tensor] = {}

    def tensor(self, trainer: "Trainer", name: str) -> "Tensor | None":
        """Return the value on its device if it is new since this was last asked for, else None."""
        value: Any = trainer.callback_metrics.get(name)  # some put there what is none
        if not hasattr(value, "numel") or value is self._seen.get(name) or value.numel() != 1:
            return None
        self._seen[name] = value
        tensor: Tensor = value.detach()
        return tensor

    def read(self, trainer: "Trainer", name: str) -> float | None:
        """Return the value if it is new since this was last asked for, else None; NaN stays NaN."""
        value = self.tensor(trainer, name)
        return None if value is None else number(value)


def say(trainer: "Trainer | None", text: str) -> None:
    """Print on standard error, on rank zero alone; below a trainer's progress bar, not into it."""
    if trainer is None:
        from lightning_utilities.core.rank_zero import rank_zero_only  # here, since it costs more than `--help`

    if getattr(rank_zero_only, "rank", 0) if trainer is None else not trainer.is_global_zero:
        return
    bar = trainer.progress_bar_callback if trainer else None
    below = "\n" if getattr(bar, "is_enabled", False) and sys.stderr.isatty() else ""
    sys.stderr.write(below + without_passwords(text).rstrip("\n") + "\n")


class Guard:
    """Lets training go on when what only watches it fails, and says so once for each cause, under a name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._said: set[str] = set()

    @contextmanager
    def __call__(self, trainer: "Trainer", what: str) -> Iterator[None]:
        """Run a block; an error in it is named in one line and goes no further."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # whatever it is, hours of training are worth more
            self.failed(trainer, what, error)

    def failed(self, trainer: "Trainer", what: str, error: Exception) -> None:
        """Name an error that was caught by hand: a context manager costs 2 µs, too much for each batch."""
        cause = f"{type(error).__name__}: {error}"
        if cause not in self._said:  # a folder that cannot be written to fails each of a callback's writings
            self._said.add(cause)
            self.once(trainer, f"{what} failed ({cause}); training goes on.")

    def once(self, trainer: "Trainer", text: str) -> None:
        """Say a line, unless it was said before."""
        if text not in self._said:
            self._said.add(text)
            say(trainer, f"{self.name}: {text}")


class NamedByPlace:
    """Gives several callbacks of one class in a trainer keys of their own in checkpoints, whatever their arguments.

    The first keeps its plain key, so that a lone one finds its state again after its arguments changed; the others add
    their places. `take_place` is called in `setup`; before it there is no trainer to ask, and the key is one that no
    other object has.
    """

    _key: str | None = None  # made once: Lightning asks for it at every hook

    def take_place(self, trainer: "Trainer") -> None:
        """Find out which of its class this one is in a trainer."""
        own: list[Any] = [each for each in trainer.callbacks if type(each) is type(self)]  # type: ignore[attr-defined]
        alike = [each for each in own if each.plain_key == self.plain_key]
        place = next((i for i, each in enumerate(alike) if each is self), 0)
        self._key = f"{self.plain_key}[{place}]" if place else self.plain_key

    @property
    def plain_key(self) -> str:
        """The key of a lone one: the name of its class."""
        return type(self).__qualname__

    @property
    def state_key(self) -> str:
        """The key of its state in a checkpoint."""
        return f"{self.plain_key}[{id(self)}]" if self._key is None else self._key
