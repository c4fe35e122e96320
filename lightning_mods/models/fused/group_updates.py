"""An optimizer's steps for many trials at once, each with a learning rate and a decay of its own, to the last bit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from lightning_mods.models.fused.schedules import steps_alone
from lightning_mods.models.fused.updates import KNOWN, Adaptive, Clip, RootMeanSquare, Sgd, Update, is_known_optimizer


@dataclass(frozen=True)
class Rates:
    """What may differ between the trials of a group: see `MLPModule` for the numbers."""

    lr: float
    momentum: float
    weight_decay: float
    dropout: float


class Buffers(NamedTuple):
    """Flat numbers `[T, P]` of all trials: their weights, gradients, and what the optimizer keeps of each."""

    weights: Tensor
    grads: Tensor
    first: Tensor
    second: Tensor


def _column(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(list(numbers)).unsqueeze(1)


def _sgd(rule: Update, rates: Sequence[Rates], step: int, all_: Buffers) -> None:
    # `addcmul` rounds once, as SGD's `add` with `alpha` does; a product of its own would round twice.
    assert isinstance(rule, Sgd)
    weights, grads, momenta, _ = all_
    _decay(rates, weights, grads)
    if any(r.momentum for r in rates):
        momentum = _column([r.momentum for r in rates])
        if step > 1:
            momenta.mul_(momentum).add_(grads)
        else:  # SGD's first momentum is the gradient
            momenta.copy_(grads)
        grads = grads.addcmul_(momenta, momentum) if rule.nesterov else momenta
    weights.addcmul_(grads, _column([-r.lr for r in rates]))


def _decay(rates: Sequence[Rates], weights: Tensor, grads: Tensor) -> None:
    if any(r.weight_decay for r in rates):
        grads.addcmul_(weights, _column([r.weight_decay for r in rates]))


def _adaptive(rule: Update, rates: Sequence[Rates], step: int, all_: Buffers) -> None:
    # torch's `addcdiv` multiplies, divides and adds, rounding after each.
    assert isinstance(rule, Adaptive)
    weights, grads, first, second = all_
    if not rule.decoupled:
        _decay(rates, weights, grads)
    elif any(r.weight_decay for r in rates):
        weights.mul_(_column([1 - r.lr * r.weight_decay for r in rates]))
    beta1, beta2 = rule.betas
    first.lerp_(grads, 1 - beta1)
    second.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
    root, faded = (1 - beta2 ** float(step)) ** 0.5, 1 - beta1 ** float(step)
    sizes = _column([-(r.lr / faded) for r in rates])
    weights.add_((first * sizes).div_((second.sqrt() / root).add_(rule.eps)))


def _root_mean_square(rule: Update, rates: Sequence[Rates], step: int, all_: Buffers) -> None:
    assert isinstance(rule, RootMeanSquare)
    weights, grads, first, second = all_
    _decay(rates, weights, grads)
    first.mul_(rule.alpha).addcmul_(grads, grads, value=1 - rule.alpha)
    average, sizes = first.sqrt().add_(rule.eps), _column([-r.lr for r in rates])
    if rule.momentum:
        weights.addcmul_(second.mul_(rule.momentum).addcdiv_(grads, average), sizes)
    else:
        weights.add_((grads * sizes).div_(average))


_TAKE: Mapping[type, Callable[[Update, Sequence[Rates], int, Buffers], None]] = {
    **{Sgd: _sgd, Adaptive: _adaptive, RootMeanSquare: _root_mean_square}
}


def take_step(rule: Update, rates: Sequence[Rates], step: int, all_: Buffers) -> None:
    """Take the optimizer's step, 1 the first, with each trial's rates; `rule` has what trials have in common."""
    _TAKE[type(rule)](rule, rates, step, all_)


def is_known_beside_others(optimizer: Optimizer, schedule: Any) -> bool:
    """Return whether a group can have trials with such an optimizer, and a schedule by the epoch that sets the rate."""
    turns = schedule is None or (steps_alone(schedule) and not isinstance(schedule, OneCycleLR | CyclicLR))
    return is_known_optimizer(optimizer) and turns


def _common(rule: Update) -> dict[str, Any]:
    own = ("lr", "weight_decay", "momentum") if isinstance(rule, Sgd) else ("lr", "weight_decay")
    return {name: value for name, value in vars(rule).items() if name not in own}


class OwnOptimizers:
    """The optimizers of some trials, each over a parameter that stands for the trial's, with their schedules by epoch.

    Args:
        made: Each trial's optimizer and its schedule, None for none.
        clip: The clipping before each step.

    Raises:
        ValueError: They are not of one kind that is known, or differ in more than rates.
    """

    def __init__(self, made: Sequence[tuple[Optimizer, Any]], clip: Clip | None) -> None:
        self._made = list(made)
        if not all(is_known_optimizer(optimizer) for optimizer, _ in made) or len({type(o) for o, _ in made}) != 1:
            raise ValueError("trials of a group need one optimizer that is known.")
        rules = [KNOWN[type(optimizer)](optimizer.param_groups[0], clip) for optimizer, _ in made]
        if any(_common(rule) != _common(rules[0]) for rule in rules):
            raise ValueError("the optimizers of a group may differ in rates alone.")
        self.rule = max(rules, key=lambda rule: len(rule.buffers))  # some may have no momentum

    def rates(self, dropouts: Sequence[float]) -> list[Rates]:
        """Return the rates of the coming epoch, those of each trial with its dropout."""
        groups = [optimizer.param_groups[0] for optimizer, _ in self._made]
        return [
            Rates(float(group["lr"]), float(group.get("momentum", 0.0)), float(group["weight_decay"]), dropout)
            for group, dropout in zip(groups, dropouts, strict=True)
        ]

    def end_epoch(self) -> None:
        """Let the schedules step."""
        for optimizer, scheduler in self._made:
            if scheduler is not None:
                optimizer.step()  # without gradients it does nothing; torch warns of a schedule that steps first
                scheduler.step()
