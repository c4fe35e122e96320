"""Collects what a fit knows beside its curves: how it is trained, and how sure its validation loss is."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from inspect import getattr_static
from itertools import pairwise
from math import isfinite, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, RAdam

from callbacks.diagnosis.evidence import Evidence, Settings
from callbacks.diagnosis.names import plain
from callbacks.host import number
from callbacks.host.packages import LightningModule, Trainer

MOST_ROWS = 20_000  # whose losses are kept: 80 kB, and a standard error that is known to half a percent
ENSEMBLE_LOSS = "val_ensemble_loss"  # by which the best of an ensemble is kept, whose members' loss is the curve

Rows = np.ndarray[Any, np.dtype[np.float32]]


# ------------------------------------------------------------------ the rows


class RowLosses:
    """Keeps the loss of every validation row, of the best validation so far and of the latest, equal on all ranks.

    A module tells them in `val_row_losses`: after a validation, one number for each row, in the same order each time,
    whose mean is the validation loss. What is NaN has no standard error. Of very many rows an evenly spaced part stays.
    """

    def __init__(self) -> None:
        self._best: Rows | None = None
        self._latest: Rows | None = None
        self._lowest: float | None = None
        self.rows: int | None = None  # of a validation

    def take(self, trainer: Trainer, pl_module: LightningModule, val_loss: str) -> None:
        """Take the rows of a validation that has just ended; every rank must call this."""
        metrics = trainer.callback_metrics
        name = ENSEMBLE_LOSS if val_loss == "val_loss" and ENSEMBLE_LOSS in metrics else val_loss
        found = _rows_of(pl_module), number(metrics.get(name))
        if trainer.world_size > 1 and getattr_static(pl_module, "val_row_losses", _rows_of) is not _rows_of:
            found = _gathered(found)
        rows, loss = found
        self.rows = None if rows is None else len(rows)
        self._latest = None if rows is None else _thinned(rows)
        # As `ModelCheckpoint` has it: the first of several that are equal.
        if loss is not None and isfinite(loss) and (self._lowest is None or loss < self._lowest):
            self._lowest, self._best = loss, self._latest

    def errors(self) -> tuple[float | None, float | None]:
        """Return the standard errors of the latest loss and of its rise since the best, the latter from paired rows."""
        latest, best = self._latest, self._best
        if latest is None or self.rows is None:
            return None, None
        with np.errstate(all="ignore"):  # of a loss that has exploded
            rise = None if best is None or len(best) != len(latest) else _error(latest - best, self.rows)
            return _error(latest, self.rows), rise

    def state(self) -> dict[str, Any]:
        """Return all of it as numbers and tensors, which load weights-only."""
        kept = {"best": self._best, "latest": self._latest}
        tensors = {name: None if rows is None else torch.from_numpy(rows) for name, rows in kept.items()}
        return {**tensors, "lowest": self._lowest, "rows": self.rows}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        found = (state[name] for name in ("best", "latest"))
        self._best, self._latest = (None if rows is None else rows.float().cpu().numpy() for rows in found)
        self._lowest = None if state["lowest"] is None else float(state["lowest"])
        self.rows = None if state["rows"] is None else int(state["rows"])


def _rows_of(module: object) -> Rows | None:
    with suppress(Exception):  # a stranger's property may do anything
        found: Any = getattr(module, "val_row_losses", None)
        if isinstance(found, Tensor) and found.ndim == 1 and len(found) > 1:
            rows: Rows = found.detach().float().cpu().numpy().copy()  # the module may write into it
            return rows
    return None


def _gathered(found: tuple[Rows | None, float | None]) -> tuple[Rows | None, float | None]:
    """Return the rows of all ranks, one after the other, and the loss of the first, by which checkpoints are kept."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None, None  # ranks that meet in another way
    everybody: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everybody, found)
    parts = [rows for rows, _ in everybody]
    return None if any(rows is None for rows in parts) else np.concatenate(parts), everybody[0][1]


def _thinned(rows: Rows) -> Rows:
    return rows if len(rows) <= MOST_ROWS else rows[np.arange(MOST_ROWS) * len(rows) // MOST_ROWS]


def _error(values: Rows, rows: int) -> float | None:
    error = float(values.std(dtype=np.float64, ddof=1)) / sqrt(rows)
    return error if isfinite(error) else None


# ------------------------------------------------------------------ the settings


class FitEvidence:
    """Collects the `Evidence` of a fit: its settings when it begins, the rows of each validation."""

    def __init__(self) -> None:
        self.rows = RowLosses()
        self._settings: Settings | None = None
        self._lr: float | None = None  # at the start, which a resumed fit cannot see

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the settings when training begins."""
        if self._settings is None:
            self._settings = settings_of(trainer, pl_module, self._lr)
            self._lr = self._settings.lr

    def found(self, trainer: Trainer, val_loss: str, fair_train_loss: float | None = None) -> Evidence:
        """Return what is known by now."""
        val_error, rise_error = self.rows.errors()
        return Evidence(
            fair_train_loss=fair_train_loss,
            val_rows=self.rows.rows,
            val_error=val_error,
            rise_error=rise_error,
            keeps_best=any(keeps_lowest(saver, val_loss) for saver in savers(trainer)),
            settings=self._settings or Settings(),
        )

    def state(self) -> dict[str, Any]:
        """Return what a resumed fit goes on with."""
        return {"rows": self.rows.state(), "lr": self._lr}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.rows.load(state["rows"])
        self._lr = None if state["lr"] is None else float(state["lr"])


def savers(trainer: Trainer) -> list[Any]:
    """Return what keeps the best checkpoint, of whichever of Lightning's packages."""
    return [each for each in trainer.callbacks if hasattr(each, "best_model_path")]  # type: ignore[attr-defined]  # a connector's


def keeps_lowest(saver: Any, val_loss: str) -> bool:
    """Tell whether what keeps the best checkpoint goes by the lowest validation loss."""
    watched = plain(str(getattr(saver, "monitor", None))).removesuffix("_epoch")
    # Of an ensemble, whose members' loss is read here, our own keeps the best as a whole.
    read = plain(val_loss).removesuffix("_epoch"), ENSEMBLE_LOSS
    return watched in read and getattr(saver, "mode", "min") == "min" and getattr(saver, "save_top_k", 1) != 0


def settings_of(trainer: Trainer, pl_module: LightningModule, lr: float | None = None) -> Settings:
    """Return how a module is trained, as far as it, its trainer and its data tell; `lr` is known from before a resume.

    What a module says itself in `training_settings()`, by the names of `Settings`, counts before all else. Nothing
    that strangers' objects do instead of telling it raises an error.
    """
    found: dict[str, Any] = {}
    for read in (_of_optimizer, _of_trainer, _of_data, _of_network, _of_module):
        with suppress(Exception):
            found |= read(trainer, pl_module)
    known = {name: value for name, value in found.items() if _FITS.get(name, _never)(value)}
    if "hidden_sizes" in known:
        known["hidden_sizes"] = tuple(known["hidden_sizes"])
    return Settings(**{**known, **({} if lr is None else {"lr": lr})})


def _of_optimizer(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    if len(trainer.optimizers) != 1:
        return {}
    optimizer, configs = trainer.optimizers[0], trainer.lr_scheduler_configs
    group = optimizer.param_groups[0]
    kinds = {"sgd": (SGD,), "adam": (Adam, AdamW, NAdam, RAdam)}
    names = {type(config.scheduler).__name__ for config in configs}
    cosines = {"CosineSchedule", "CosineAnnealingLR", "OneCycleLR"}
    return {
        "optimizer": next((name for name, kind in kinds.items() if isinstance(optimizer, kind)), None),
        "lr": number(group.get("initial_lr", group["lr"])),  # a scheduler notes it
        "momentum": group.get("momentum"),
        "weight_decay": group.get("weight_decay"),
        "lr_schedule": ("cosine" if names <= cosines else "other") if configs else "constant",
    }


def _of_trainer(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    clip = float(trainer.gradient_clip_val or 0) if pl_module.automatic_optimization else None
    return {"max_epochs": None if trainer.max_epochs == -1 else trainer.max_epochs, "clip": clip}  # -1: without end


def _of_data(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    loader: Any = trainer.train_dataloader
    found = {"batch_size": loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)}
    with suppress(TypeError):  # a stream has no length
        found["train_rows"] = len(loader.dataset)
    return found


def _of_network(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Return the shape of a plain MLP, and the strongest dropout of any network that has layers of it."""
    parts = list(pl_module.modules())
    drops = [each.p for each in parts if isinstance(each, nn.Dropout)]
    found: dict[str, Any] = {"dropout": max(drops)} if drops else {}
    norms = nn.BatchNorm1d | nn.LayerNorm
    learning = [each for each in parts if next(each.parameters(recurse=False), None) is not None]
    layers = [each for each in learning if isinstance(each, nn.Linear)]
    one_after_another = all(a.out_features == b.in_features for a, b in pairwise(layers))
    if layers and one_after_another and all(isinstance(each, nn.Linear | norms) for each in learning):
        found["hidden_sizes"] = [each.out_features for each in layers[:-1]]
        found["in_features"] = layers[0].in_features
    return found


def _of_module(trainer: Trainer, pl_module: Any) -> dict[str, Any]:
    said: Callable[[], Mapping[str, Any]] = pl_module.training_settings
    return dict(said())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and value >= 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value)


def _are_counts(value: Any) -> bool:
    return isinstance(value, Sequence) and all(map(_is_count, value))


def _is_word(value: Any) -> bool:
    return value in ("sgd", "adam", "constant", "cosine", "other")


def _never(value: Any) -> bool:
    return False


# What a value has to be, by its type in `Settings`; anything else says nothing.
_KINDS = {"str": _is_word, "float": _is_number, "int": _is_count, "tuple[int, ...]": _are_counts}
_FITS = {name: _KINDS[str(hint).removesuffix(" | None")] for name, hint in Settings.__annotations__.items()}
