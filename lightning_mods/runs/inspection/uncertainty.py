"""How sure a fitted model's predictions are: learned from the validation rows, kept in its checkpoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules import TabularDataModule
from lightning_mods.models.ensemble import MLPEnsemble
from lightning_mods.models.module import MLPModule
from lightning_mods.runs.checkpoints import AtomicCheckpointIO, read_checkpoint
from lightning_mods.runs.inspection.calibration import Calibration
from lightning_mods.runs.inspection.intervals import Intervals
from lightning_mods.runs.inspection.report import look
from lightning_mods.runs.inspection.residuals import Residuals

LEVEL = 0.9  # of the intervals whose coverage `test` tells
_BLOCK = 4096  # rows predicted at once


@torch.no_grad()
def calibration_of(model: MLPModule, data: TabularDataModule) -> Calibration:
    """Find the temperature of a classifier on the validation rows, of which there is at least one."""
    loader: Any = data.val_dataloader()
    rows, like = loader.dataset, next(model.parameters())
    parts: list[list[NDArray[np.float64]]] = []
    for at in range(0, len(rows), _BLOCK):
        outputs = model.eval().network(rows[at : at + _BLOCK][0].to(like))
        members = outputs if isinstance(outputs, tuple) else (outputs,)
        parts.append([each.double().cpu().numpy() for each in members])
    logits = [np.concatenate(member) for member in zip(*parts, strict=True)]
    shares = model.member_weights if isinstance(model, MLPEnsemble) else [1.0]
    by_class, y = model.class_weights, rows.y.numpy()
    assert by_class is not None
    weights = by_class[y] if rows.weight is None else by_class[y] * rows.weight.numpy()
    return Calibration.of(logits, y, shares=shares, weights=weights, names=data.class_names or ())


def learn_uncertainty(model: MLPModule, data: TabularDataModule, checkpoint: Path, *, calibrate: bool) -> Iterator[str]:
    """Learn a regression's intervals, and a classifier's temperature if it is asked for, and keep it in the checkpoint.

    The model has the checkpoint's weights. Lines for the user come back.
    """
    found: dict[str, Any] = {}
    if data.class_names is not None:
        if not calibrate:
            return
        calibration = calibration_of(model, data)
        found = {"temperature": calibration.temperature} if calibration.temperature != 1.0 else {}
        yield str(calibration)
    else:
        if calibrate:
            yield "note: --calibrate is for classes; predict --interval=0.9 says how sure a regression is."
        table = look(model, data, "val")
        if isinstance(table, Residuals):
            found = {"intervals": Intervals.of(table.values).plain}
    if found:
        model.uncertainty = found
        kept = read_checkpoint(checkpoint)
        kept["mlp_module"] = {**kept.get("mlp_module", {}), "uncertainty": found}
        AtomicCheckpointIO().save_checkpoint(kept, checkpoint)


def coverage_line(model: MLPModule, residuals: Residuals) -> list[str]:
    """Say how many of some rows the model's intervals hold; nothing where it has none."""
    intervals = Intervals.in_plain(model.uncertainty.get("intervals"))
    if intervals is None or intervals.most < LEVEL:
        return []
    share, margin = intervals.coverage(residuals.values, LEVEL), intervals.margin(LEVEL)
    return [f"intervals of {LEVEL:.0%} (± {margin:.4g}) hold {share:.1%} of {len(residuals.values):,} rows"]
