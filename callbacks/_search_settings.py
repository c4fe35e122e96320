"""Where a value that a search found is kept: attributes and hyperparameters of a module and its data module."""

from collections.abc import Iterable, Mapping
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader

Holder = LightningModule | LightningDataModule


def holds(holder: Holder | None, name: str) -> bool:
    """Whether there is such an attribute or hyperparameter."""
    return holder is not None and (hasattr(holder, name) or name in holder.hparams)


def put(name: str, value: Any, holders: Iterable[Holder | None]) -> None:
    """Set a value wherever it is held: as an attribute, in `hparams`, and in what loggers will be told."""
    for holder in holders:
        if holder is None:
            continue
        if hasattr(holder, name):
            setattr(holder, name, value)
        # A private name, for want of another: `hparams_initial` gives a copy, and saving all of them anew would
        # forget under which argument they came and log those that were not to be logged.
        for kept in (holder.hparams, getattr(holder, "_hparams_initial", {})):
            if name in kept:
                kept[name] = value


def is_logged(name: str, holders: Iterable[Holder | None]) -> bool:
    """Whether it is among the hyperparameters that Lightning tells the loggers."""
    return any(holder is not None and name in holder.hparams_initial for holder in holders)


def plain(holders: Iterable[Holder | None]) -> dict[str, Any]:
    """All hyperparameters by name."""
    return {name: value for holder in holders if holder is not None for name, value in _items(holder.hparams)}


def _items(hparams: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return hparams.items()


def rows_in(loader: Any) -> int | None:
    """Training rows behind a loader or a collection of loaders; None where that is not known."""
    try:
        return max(len(part.dataset) for part in CombinedLoader(loader).flattened)
    except (AttributeError, TypeError, ValueError):  # no DataLoader, a dataset without a length, nothing
        return None


def batch_size_of(loader: Any) -> int | None:
    """Rows of a batch of the first loader; None where that is not known."""
    first = next(iter(CombinedLoader(loader).flattened), None)
    return first.batch_size if isinstance(first, DataLoader) else None
