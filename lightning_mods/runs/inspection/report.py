"""Look at a fitted model: its predictions for a set as tables, pictures and lines, and what its columns count."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from callbacks.host import Guard
from callbacks.host.files import replacing
from callbacks.host.packages import Trainer
from callbacks.loggers import dispatch
from callbacks.loggers.figures import png_of_pixels, rgb
from datamodules import TabularDataModule
from lightning_mods.loggers.terminal import STAGES, say
from lightning_mods.models.module import MLPModule
from lightning_mods.runs.inspection.classes import ClassTable
from lightning_mods.runs.inspection.importance import MOST_COLUMNS, importance_of
from lightning_mods.runs.inspection.residuals import Residuals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLOCK = 4096  # rows predicted at once


@dataclass(frozen=True)
class Inspection:
    """Looks at a model on rank zero, which has all rows of each set."""

    trainer: Trainer
    model: MLPModule
    data: TabularDataModule
    folder: Path  # of the run
    epoch: int  # for the loggers

    def after_fit(self, stages: Sequence[str], *, pictures: bool, importance: bool) -> None:
        """Write tables of the sets `stages`, pictures of the first, and what the columns count; none fails a fit."""
        guard = Guard("inspection")
        found: dict[str, Any] = {}
        for stage in stages:
            with guard(self.trainer, f"the tables of the {STAGES[stage]} rows"):
                table = look(self.model, self.data, stage)
                if table is not None:
                    table.write(self.folder, stage)
                    found[stage] = table
        if pictures and found:
            with guard(self.trainer, "drawing"):
                self._draw(found)
        if importance and "val" in stages:
            with guard(self.trainer, "the importance of the columns"):
                self.say_importance("val", "importance")
        elif importance:
            say("note: --importance shuffles columns among the validation rows, and there are none to go by.")

    def say_importance(self, stage: str, name: str) -> None:
        """Say what each column counts, and write `NAME.csv` and `NAME.png`."""
        n = len(self.data.learned.encoding.columns)
        found = importance_of(self.model, self.data, stage)
        if found is None:
            say(f"note: --importance shuffles up to {MOST_COLUMNS:,} columns, not {n:,}; --data.drop leaves out.")
            return
        found.write(self.folder / f"{name}.csv")
        from lightning_mods.runs.inspection.pictures import draw_importance

        self._show(name, draw_importance(found))
        say("\n".join([*found.lines(), f"all in {self.folder / name}.csv"]))

    def _draw(self, found: dict[str, Any]) -> None:
        from lightning_mods.runs.inspection import pictures

        stage, first = next(iter(found.items()))
        if isinstance(first, Residuals):
            self._show("predicted_vs_true", pictures.draw_residuals(first, stage))
            return
        if first.confusion is not None:
            self._show("confusion_matrix", pictures.draw_confusion(first, stage))
        self._show("calibration", pictures.draw_calibration({s: each.reliability for s, each in found.items()}))

    def _show(self, name: str, figure: "Figure") -> None:
        pixels = rgb(figure)
        with replacing(self.folder / f"{name}.png") as partial:
            partial.write_bytes(png_of_pixels(pixels))
        if self.trainer.loggers:
            dispatch.write_image(self.trainer, name, pixels, self.epoch)


@torch.no_grad()
def predicted(model: MLPModule, rows: Any) -> NDArray[Any]:
    """Return what a model, in whatever mode it was, predicts for a loader's rows, in their order."""
    model.eval()
    like = next(model.parameters())
    parts = [model(rows[at : at + _BLOCK][0].to(like)).cpu().numpy() for at in range(0, len(rows), _BLOCK)]
    return np.concatenate(parts)


def look(model: MLPModule, data: TabularDataModule, stage: str) -> ClassTable | Residuals | None:
    """Return what the predictions for the rows of `val` or `test` are like; None where one of them is no number."""
    loader: Any = getattr(data, f"{stage}_dataloader")()
    predictions, y = predicted(model, loader.dataset), loader.dataset.y.numpy()
    if not np.isfinite(predictions).all():
        return None
    names = data.class_names
    return Residuals.of(predictions, y) if names is None else ClassTable.of(predictions, y, names)
