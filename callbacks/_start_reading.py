"""Reads what there is to know before the first step: weights, optimizers, dropout, and the first loss."""

from collections.abc import Iterator, Sequence
from functools import cache
from inspect import signature
from math import log, nan
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import nn
from torch.nn import functional
from torch.nn.modules.dropout import Dropout
from torch.optim import Optimizer

from callbacks._health_facts import Head, OptimizerFacts, WeightStart
from callbacks._loss_graph import Op

# Bounds of torch's uniform initialisations, times sqrt(fan_in): its default for layers, and He's.
_BOUNDS = ((1.0, 3**-0.5), (6**0.5, 2**0.5))


def frozen_at_random(module: nn.Module, weights: Sequence[WeightStart]) -> tuple[str, ...]:
    """Frozen matrices that still hold what torch draws: trained ones do not end sharply at that bound.

    One that equals a trainable matrix is a copy that follows it (a target network) and is left out.
    """
    return tuple(w.name for w in weights if not w.trainable and _is_drawn(w) and not _is_copy(module, w.name))


def _is_drawn(w: WeightStart) -> bool:
    root = w.fan_in**0.5
    return w.size >= 128 and any(
        0.97 * bound <= w.peak * root <= 1.0001 * bound and abs(w.rms * root / rms - 1) < 0.08 for bound, rms in _BOUNDS
    )


def _is_copy(module: nn.Module, name: str) -> bool:
    own: Any = module.get_submodule(name).weight
    return any(p.requires_grad and p.shape == own.shape and torch.equal(p, own) for p in module.parameters())


def read_optimizers(optimizers: Sequence[Optimizer]) -> tuple[OptimizerFacts, ...]:
    """Each optimizer's groups of parameters."""
    return tuple(_group(optimizer, group) for optimizer in optimizers for group in optimizer.param_groups)


def _group(optimizer: Optimizer, group: dict[str, Any]) -> OptimizerFacts:
    return OptimizerFacts(
        type(optimizer).__name__,
        _number(group.get("lr")),
        _number(group.get("eps")),
        _usual_eps(type(optimizer)),  # type: ignore[arg-type]  # a class is hashable, whatever its objects are
        _number(group.get("weight_decay")),
    )


@cache
def _usual_eps(kind: type[Optimizer]) -> float:
    usual = signature(kind).parameters.get("eps")
    return nan if usual is None else _number(usual.default)


def _number(value: Any) -> float:
    if isinstance(value, torch.Tensor):
        return float(value) if value.numel() == 1 else nan
    return float(value) if isinstance(value, int | float) else nan


def read_dropouts(module: nn.Module) -> dict[str, float]:
    """The share each dropout module takes away."""
    return {name: part.p for name, part in module.named_modules() if isinstance(part, Dropout) and part.p > 0}


def is_alone(module: LightningModule, optimizers: Sequence[Optimizer]) -> bool:
    """Whether one optimizer minimises one loss."""
    return len(optimizers) == 1 and not any(group.get("maximize") for group in optimizers[0].param_groups)


def read_head(ops: Sequence[Op]) -> Head | None:
    """What the last operation that compares outputs with targets was given; None if there is none that is known."""
    return next((head for op in reversed(ops) for head in _head(op)), None)


def _head(op: Op) -> Iterator[Head]:
    outputs, targets = op.saved("self"), op.saved("target")
    if outputs is None or targets is None or not outputs.numel():
        return
    if op.kind in ("NllLoss", "NllLoss2D") and outputs.ndim > 1 and outputs.shape[1] > 1:
        loss = functional.nll_loss(outputs.float(), targets, ignore_index=op.number("ignore_index", -100))
        yield Head(loss.item(), log(outputs.shape[1]), nan, nan)
    elif op.kind == "BinaryCrossEntropyWithLogits":
        loss = functional.binary_cross_entropy_with_logits(outputs.float(), targets.float())
        yield Head(loss.item(), log(2), nan, nan)
    elif op.kind in ("MseLoss", "SmoothL1Loss", "HuberLoss"):
        sizes = torch.stack([outputs.float().square().mean(), targets.float().square().mean()]).sqrt()
        yield Head(nan, nan, *sizes.tolist())
