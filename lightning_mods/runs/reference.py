"""The reference of a fit: what another model, boosted trees, reaches on the same rows."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from callbacks.host import Guard
from callbacks.host.packages import Callback, LightningModule, Trainer
from datamodules import TabularDataModule
from datamodules.rows.batching import Rows
from lightning_mods.models.module import MLPModule
from lightning_mods.runs.boosting import HARD_STOP, Boosting, Plan, sample

Scores = dict[str, dict[str, float]]
_BLOCK = 4096  # rows whose features are made at once: with bins they are many


class ReferenceFit(Callback):
    """Fits the reference before training, on rank zero, and tells the module its loss on the validation rows.

    Before, so that the verdicts on the way and one after an interruption know it; a resumed fit finds the same, as
    rows, seed and budget are the same. Training has its random numbers as without it.

    Attributes:
        scores: Loss and metrics on the rows of `val` and `test`, on rank zero; empty where there is no reference.
    """

    def __init__(self) -> None:
        self.scores: Scores = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit it; the batch size and the threads are settled by now."""
        assert isinstance(pl_module, MLPModule)
        if trainer.is_global_zero:
            with Guard("reference")(trainer, "fitting it"):
                self.scores = reference_scores(pl_module, trainer.datamodule)  # type: ignore[attr-defined]  # set by fit
        pl_module.reference_loss = trainer.strategy.broadcast(self.scores.get("val", {}).get("loss"))


def reference_scores(model: MLPModule, data: TabularDataModule) -> Scores:
    """Return loss and metrics of boosted trees on the rows of `val` and `test`, as the model would log its own.

    They learn from the features that the model gets, but for the bins of numbers, as the number itself tells a tree the
    same. Classes weigh what they weigh in the model's loss. Of a table too large for the budget a sample is learned
    from, and scored. Empty where there are no validation rows, or too little can be learned within the budget.
    """
    until = time.thread_time() + HARD_STOP
    loaders = {stage: getattr(data, f"{stage}_dataloader")() for stage in ("val", "test")}
    sets: dict[str, Any] = {stage: loader.dataset for stage, loader in loaders.items() if loader}
    train: Any = data.train_dataloader().dataset
    columns, weights, seed = data.learned.encoding.plain_features, model.class_weights, data.learned.seed
    plan = Plan.of(len(train), len(columns), data.num_classes or 0)
    if "val" not in sets or not columns or plan is None:
        return {}
    mean, scale = data.target_mean or 0.0, data.target_std or 1.0
    # One thread, as the plan reckons: on cores that others use too, more wait for each other most of the time.
    with threadpool_limits(1, "openmp"):
        x, y, own = taken(train, columns, plan.rows, seed)
        if weights is None:
            y = (y - mean) / scale
        else:
            counts = weights[y] > 0
            x, y, own = x[counts], y[counts], None if own is None else own[counts]
            if len(np.unique(y)) < 2:
                return {}
        try:
            boosting = Boosting(x, y, weights, own, plan=plan, seed=seed, until=until)
        except TimeoutError:
            return {}
        scores = {}
        for stage, rows in sets.items():
            x, y, own = taken(rows, columns, plan.scored, seed)
            found = torch.from_numpy(boosting.predict(x))
            truth = torch.from_numpy(y), None if own is None else torch.from_numpy(own)
            scores[stage] = model.scores_of(found * scale + mean if weights is None else found, *truth)
    return scores


def taken(
    rows: Rows, columns: Sequence[int] | slice, most: int, seed: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Return some features, targets and any weights of about so many rows at most, shares of classes as they are."""
    assert rows.y is not None
    at = torch.from_numpy(sample(rows.y.numpy(), most, is_class=not rows.y.is_floating_point(), seed=seed))
    x = torch.cat([rows.features(rows.x.index_select(0, part))[:, columns] for part in torch.split(at, _BLOCK)])
    weight = None if rows.weight is None else rows.weight.index_select(0, at).numpy()
    return x.numpy(), rows.y.index_select(0, at).numpy(), weight
