"""What a fit offers to a search: its learning rate and batch size, how its trials train, the name of its study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.model_helpers import is_overridden

from callbacks import _search_settings as settings
from callbacks._search_error import SearchError
from callbacks._search_places import study_name
from callbacks._search_random import same_random_numbers
from callbacks._search_space import Space, batch_sizes, parse_space
from callbacks._search_trainer import Recipe
from callbacks._terminal import say

AUTO = "auto"
UNKNOWN_ROWS = 512  # training rows taken for granted where the loader does not tell: batches of 8 to 256
UNLIMITED = 1000  # epochs of a fit that was given none: Lightning's own default


@dataclass(frozen=True)
class Wish:
    """What a user asks of a search before a fit; see `OptunaSearch`."""

    monitor: str
    mode: str
    max_epochs: int | None
    lr: Any
    batch_size: Any
    lr_name: str
    batch_size_name: str


def holders(trainer: Trainer, module: LightningModule) -> tuple[Any, Any]:
    """The module, and the data module or None."""
    return module, getattr(trainer, "datamodule", None)


def space_of(wish: Wish, trainer: Trainer, module: LightningModule) -> Space:
    """What is searched: of the rate and the batch size, those that are wished for and there.

    Raises:
        SearchError: Neither is there, or the fit was given loaders of which no trial can have its own.
    """
    data = getattr(trainer, "datamodule", None)
    if data is None and not is_overridden("train_dataloader", module):
        raise SearchError("the trials need loaders of their own; give `fit` a data module instead of loaders.")
    space: dict[str, Any] = {}
    missing = []
    if wish.lr is not None:
        if settings.holds(module, wish.lr_name):
            space[wish.lr_name] = parse_space(wish.lr, floats=True)
        else:
            missing.append(f"{type(module).__name__} has no `{wish.lr_name}` (lr_name names another)")
    if wish.batch_size is not None:
        owners = [owner for owner in (data, module) if owner is not None]
        if any(settings.holds(owner, wish.batch_size_name) for owner in owners):
            space[wish.batch_size_name] = _sizes(wish, trainer, owners[0])
        else:
            what = " and ".join(type(owner).__name__ for owner in owners)
            missing.append(f"{what} has no `{wish.batch_size_name}` (batch_size_name names another)")
    if not space:
        raise SearchError(f"there is nothing to search: {'; '.join(missing)}.")
    if missing:
        say(trainer, f"search: {missing[0]}; only {', '.join(space)} is searched.")
    return space


def _sizes(wish: Wish, trainer: Trainer, owner: Any) -> Any:
    if wish.batch_size != AUTO:
        return parse_space(wish.batch_size)
    with same_random_numbers():
        rows = settings.rows_in(owner.train_dataloader()) or UNKNOWN_ROWS
    return batch_sizes(rows // trainer.world_size)


def recipe_of(wish: Wish, trainer: Trainer, space: Space) -> Recipe:
    """How the trials train.

    Raises:
        SearchError: Neither the fit nor the wish says for how long.
    """
    epochs = wish.max_epochs or trainer.max_epochs or UNLIMITED
    if epochs < 0 and trainer.max_steps < 0:
        raise SearchError("the fit has no limit of epochs or steps; max_epochs says how many a trial has.")
    keeps = [c.monitor for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    return Recipe(
        monitor=wish.monitor,
        mode=wish.mode,
        max_epochs=epochs,
        keeps_best=any(monitor is not None for monitor in keeps),
        lr_name=wish.lr_name if wish.lr_name in space else "",
        batch_size_name=wish.batch_size_name if wish.batch_size_name in space else "",
    )


def name_of(trainer: Trainer, module: LightningModule, space: Space, recipe: Recipe, engines: Sequence[object]) -> str:
    """The study's name: the same for the same fit, so that the same command goes on with it."""
    ranges = [f"{name} in {dimension}" for name, dimension in space.items()]
    limits = (trainer.max_steps, trainer.limit_train_batches, trainer.limit_val_batches, trainer.world_size)
    kept = settings.plain(holders(trainer, module))
    others = {name: value for name, value in kept.items() if name not in space}
    return study_name(module, others, [recipe, ranges, limits, *engines, torch.initial_seed()])
