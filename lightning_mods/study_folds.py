"""Folds: the rows to train and validate on, shared out anew; the test rows stay out of the search."""

import numpy as np
import torch

from datamodules import TabularDataModule
from datamodules.batching import Rows, eval_loader, train_loader
from lightning_mods.arguments import UsageError


def check_folds(data: object, folds: int) -> None:
    """See that the data module can be folded.

    Raises:
        UsageError: It is not ours, or has too few rows.
    """
    if not isinstance(data, TabularDataModule):
        raise UsageError("--study.folds needs --data=TabularDataModule; --study.seeds works with any data.")
    rows = len(_both(data))
    if rows < 2 * folds:
        raise UsageError(f"--study.folds={folds} needs {2 * folds} rows to train and validate on; there are {rows}.")


def fold(data: TabularDataModule, index: int, folds: int) -> None:
    """Let a data module train on all folds but one, and validate on that one.

    Every fold has its share of each class, or of low and high targets. The columns stay encoded as they were learned
    from the training rows of the fit.

    Args:
        data: A copy that nobody else uses.
        index: Which fold to validate on, from 0.
        folds: How many there are, at least 2.
    """
    rows = _both(data)
    assert rows.y is not None
    drawn = np.random.default_rng(data.learned.seed).permutation(len(rows))
    order = drawn[np.argsort(rows.y.numpy()[drawn], kind="stable")]
    held = np.zeros(len(rows), dtype=bool)
    held[order[index::folds]] = True
    train, val = (_some(rows, torch.from_numpy(np.flatnonzero(part))) for part in (~held, held))
    size, seed = data.resolved_batch_size, data.learned.seed
    data.train_dataloader = lambda: train_loader(train, min(size, len(train)), seed)  # type: ignore[method-assign]
    data.val_dataloader = lambda: eval_loader(val, 1)  # type: ignore[method-assign]


def _both(data: TabularDataModule) -> Rows:
    """The training rows, and after them those to validate on."""
    parts = [data.train_dataloader().dataset]
    loader = data.val_dataloader()
    parts += [] if isinstance(loader, list) else [loader.dataset]
    tables = [part for part in parts if isinstance(part, Rows) and part.y is not None]
    return Rows(
        torch.cat([table.x for table in tables]), torch.cat([table.y for table in tables if table.y is not None])
    )


def _some(rows: Rows, at: torch.Tensor) -> Rows:
    return Rows(rows.x.index_select(0, at), None if rows.y is None else rows.y.index_select(0, at))
