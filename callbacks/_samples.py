"""Keeps a bounded sample of the rows, and all labels, of one training epoch and of one validation."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

MOST_ROWS = 512
MOST_VALUES = 1 << 21  # 8 MB of inputs in each sample
MOST_LABELS = 200_000
MOST_BATCHES = 2000


@dataclass
class Sample:
    """Rows and labels of batches as they came, on the device they came on.

    Args:
        a_batch: Rows kept of each batch.
        spread: Whether that brings rows from all over the epoch.
    """

    a_batch: int = MOST_ROWS
    inputs: list[Tensor] = field(default_factory=list)
    input_labels: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    kept: int = 0
    seen: int = 0
    batches: int = 0
    spread: bool = False

    def spread_over(self, batches: float) -> None:
        """Take rows from all of an epoch's batches, if their number is known."""
        self.spread = math.isfinite(batches)
        self.a_batch = max(1, math.ceil(MOST_ROWS / batches)) if self.spread and batches else 16

    def add(self, x: Tensor | None, y: Tensor | None) -> None:
        """Take down a batch: what is kept is copied."""
        self.batches += 1
        if y is not None and self.seen < MOST_LABELS and len(self.labels) < MOST_BATCHES:
            self.labels.append(y.reshape(-1).clone())
            self.seen += len(y)
        if x is None or not len(x):
            return
        room = min(MOST_ROWS, MOST_VALUES // max(x[0].numel(), 1)) - self.kept
        rows = min(self.a_batch, room, len(x))
        if rows > 0:
            self.inputs.append(x[:rows].detach().clone())
            if y is not None:
                self.input_labels.append(y[:rows].reshape(-1).clone())
            self.kept += rows

    def rows(self) -> Tensor | None:
        """The kept rows on the CPU as floats; None if there are none, or of different shapes."""
        if not self.inputs or len({x.shape[1:] for x in self.inputs}) > 1:
            return None
        return torch.cat(self.inputs).cpu().float()

    def row_labels(self) -> Tensor | None:
        """The labels of the kept rows, or None."""
        if not self.input_labels or len(self.input_labels) != len(self.inputs):
            return None
        return torch.cat(self.input_labels).cpu()

    def clear(self) -> None:
        """Let go of everything."""
        self.inputs.clear()
        self.input_labels.clear()
        self.labels.clear()
        self.kept = self.seen = self.batches = 0
