"""The epoch whose weights a checkpoint callback keeps, so that the verdict names that epoch and no other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from callbacks.host import number


class KeptEpoch:
    """Follows what a `ModelCheckpoint` calls its best model; its score changes when it keeps another epoch's weights.

    Asked between any two epochs, for the callback itself does not tell, and of several validations in an epoch, or of
    another loss than the one that is read, the curves do not either.
    """

    def __init__(self) -> None:
        self.epoch: int | None = None  # None where no checkpoint is kept
        self._score: float | None = None

    def begin(self, saver: Any, val_loss: Sequence[float | None]) -> None:
        """Start with what a resumed run brought: the first epoch with the checkpoint's loss, if it is not known."""
        score = _score(saver)
        if score != self._score:
            self._score = score
            self.epoch = next((epoch for epoch, value in enumerate(val_loss) if value == score is not None), None)

    def look(self, saver: Any, epoch: int) -> None:
        """Take `epoch` for the kept one if the checkpoint's score is a new one."""
        score = _score(saver)
        if score is not None and score != self._score:
            self.epoch, self._score = epoch, score

    def state(self) -> list[float | None]:
        """Return epoch and score."""
        return [self.epoch, self._score]

    def load(self, state: Sequence[float | None]) -> None:
        """Go on from a state."""
        epoch, self._score = state
        self.epoch = None if epoch is None else int(epoch)


def _score(saver: Any) -> float | None:
    return number(saver.best_model_score) if saver is not None and saver.best_model_path else None
