"""The last word of a fit: a short table of what became of it."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer


class EpochTimer(Callback):
    """Measures the seconds that each epoch took, validation included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock; an epoch that a resume entered in its middle is not counted."""
        if self._start:
            self.seconds.append(time.monotonic() - self._start)
        self._start = 0.0


@dataclass(frozen=True)
class RunSummary:
    """What the last word says.

    Attributes:
        results: Stage (`val`, `test`) to metric name (without the stage) to its value.
        baselines: The same for the trivial prediction: the largest class, or the mean.
        best_epoch: Epoch of the best checkpoint, the first being 0; None when none was written.
        epochs: Epochs trained, in this process and before.
        seconds: Seconds each epoch of this process took.
        checkpoint: The best checkpoint.
        views: Commands and addresses that show what the run has logged.
    """

    results: Mapping[str, Mapping[str, float]]
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    best_epoch: int | None = None
    epochs: int = 0
    seconds: Sequence[float] = ()
    checkpoint: Path | None = None
    views: Sequence[str] = ()

    def __str__(self) -> str:
        """The table and the lines below it."""
        return "\n".join([*self._table(), *self._lines()])

    def _table(self) -> list[str]:
        stages = [stage for stage in ("val", "test") if self.results.get(stage)]
        if not stages:
            return []
        names = list(dict.fromkeys(name for stage in stages for name in self.results[stage]))
        head = [""]
        for stage in stages:
            word = {"val": "validation", "test": "test"}[stage]
            head += [word, f"{word}, trivial baseline"]
        rows = [head]
        for name in names:
            row = [name]
            for stage in stages:
                row += [_number(self.results[stage].get(name)), _number(self.baselines.get(stage, {}).get(name))]
            rows.append(row)
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        return [_aligned(row, widths) for row in rows]

    def _lines(self) -> list[str]:
        lines = []
        if self.best_epoch is not None:
            of = f" (of 0 to {self.epochs - 1})" if self.epochs else ""
            lines.append(f"epoch        {self.best_epoch}{of}")
        if self.seconds:
            lines.append(f"an epoch     {statistics.median(self.seconds):.3g} s")
        if self.checkpoint:
            lines.append(f"checkpoint   {self.checkpoint}")
        heads = ["look at it", *[""] * len(self.views)]
        return lines + [f"{head:<13}{view}" for head, view in zip(heads, self.views, strict=False)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0])]
    cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join(cells).rstrip()
