"""What a fit left behind, as digests: weights, buffers, optimizers, random states, and the names that it logged."""

import hashlib
import random
import re
from typing import Any

import numpy as np
import torch

SOUGHT = {"val", "valid", "validation", "dev", "eval"}


def digest(*values: Any) -> str:
    """Return a SHA-256 over the bits of tensors, arrays, numbers and texts, in any nesting."""
    whole = hashlib.sha256()

    def add(value: Any) -> None:
        whole.update(type(value).__name__.encode())
        if isinstance(value, torch.Tensor):
            dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
            value = dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            whole.update(repr((dense.dtype, tuple(dense.shape))).encode())
        if isinstance(value, np.ndarray):
            whole.update(value.tobytes())
        elif isinstance(value, dict):
            for key, item in value.items():
                add(key)
                add(item)
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        elif isinstance(value, str | int | float | bool | None):
            whole.update(repr(value).encode())

    add(values)
    return whole.hexdigest()[:16]


def validation_losses(names: list[str]) -> list[str]:
    """Return the names that say they are a validation loss, of an epoch."""
    tokens = {name: set(re.split(r"[^a-z]+", name.lower())) for name in names if not name.endswith("_step")}
    return [name for name, found in tokens.items() if found & SOUGHT and "loss" in found]


def recorder(pl: Any, left: dict[str, Any]) -> Any:
    """Return a callback, of the Lightning package `pl`, that notes in `left` what is there when training ends.

    It stands behind all others, and takes the state of the module that Lightning trains, wherever a package hides it.
    Copies of it, which some packages make, write to the same place.
    """

    names: set[str] = set()

    class Recorder(pl.Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            names.update(trainer.callback_metrics)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            names.update(trainer.callback_metrics)
            left["steps"], left["module"], left["logged"] = trainer.global_step, type(pl_module).__name__, sorted(names)
            left["digests"] = {
                "weights": digest(dict(pl_module.named_parameters())),
                "buffers": digest(dict(pl_module.named_buffers())),
                "optimizers": digest([optimizer.state_dict() for optimizer in trainer.optimizers]),
                "python": digest(random.getstate()),
                "numpy": digest(np.random.get_state()),
                "torch": digest(torch.get_rng_state()),
            }

    return Recorder()
