"""The writing of predictions while a Trainer makes them: none is kept in memory."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from callbacks.host.packages import Callback, LightningModule, Trainer
from datamodules import TabularDataModule
from datamodules.rows.stream import RowStream
from lightning_mods.runs import RunError
from lightning_mods.runs.inspection.intervals import margin_of
from lightning_mods.runs.predictions import PredictionFile


def let_keep(data: Any, keep: str | Sequence[str], *, allow_missing: bool) -> None:
    """Let a data module hand out columns beside the rows to predict, or fill such as lack; for others a RunError."""
    if not keep and not allow_missing:
        return
    if getattr(type(data), "predict_dataloader", None) is not TabularDataModule.predict_dataloader:
        raise RunError(f"--{'keep' if keep else 'allow_missing'} is for the rows of a TabularDataModule.")
    data.predict_dataloader = partial(data.predict_dataloader, keep=keep, allow_missing=allow_missing)


class PredictionWriter(Callback):
    """Hands each batch of predictions to a file, with the columns that a `RowStream` keeps beside it.

    Args:
        file: Where they go.
        level: Share of the rows that intervals around numbers shall hold; None for no intervals.
    """

    def __init__(self, file: PredictionFile, level: float | None = None) -> None:
        self.file = file
        self.level = level
        self.unusual: list[str] = []  # what to say of the rows in the end

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask data and model what is known of the predictions, now that the checkpoint is loaded."""
        if len(trainer.num_predict_batches) > 1:
            raise RunError("predictions are written of one predict_dataloader; this data module has several.")
        self.file.class_names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        self.file.margin = None if self.level is None else margin_of(pl_module, self.level)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Write a batch."""
        rows = trainer.predict_dataloaders
        self.file.add(outputs, rows.kept.popleft() if isinstance(rows, RowStream) and rows.keep else None)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember what the rows held that those of training did not."""
        rows = trainer.predict_dataloaders
        self.unusual = rows.unusual.lines() if isinstance(rows, RowStream) else []
