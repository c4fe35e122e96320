"""What an optimizer makes of gradients: the arithmetic of torch's optimizers over flat tensors, step by step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd


@dataclass(frozen=True)
class Clip:
    """The clipping before a step: of the norm of all gradients together, or of each value; as `Trainer` does it."""

    most: float
    by_value: bool = False


@dataclass(frozen=True)
class Update(ABC):
    """The numbers of an optimizer's step, of the clipping before it, and of the weights' average after it."""

    lr: float
    weight_decay: float
    clip: Clip | None
    average_rate: float  # how far the average goes to the new weights; 0 where there is none

    @property
    @abstractmethod
    def buffers(self) -> tuple[str, ...]:
        """Name what the optimizer keeps of each parameter from step to step: none, one or two tensors like it."""

    @abstractmethod
    def apply(self, weights: Tensor, grads: Tensor, first: Tensor, second: Tensor) -> None:
        """Change flat weights by flat gradients, of which nothing is left, and the flat buffers in the order of names.

        Every operation is torch's own for a single tensor, in its order.
        """

    @abstractmethod
    def by_torch(self, weights: list[Tensor], grads: list[Tensor], first: list[Tensor], second: list[Tensor]) -> None:
        """Let torch do the same, parameter by parameter."""

    scheduled: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")
    """Settings of the optimizer that a schedule may change, by its names for them."""

    def ahead(self, steps: int, settings: Mapping[str, Any], average_rate: float) -> "Update":
        """Return the numbers of the step that comes so many after this one, with the optimizer's settings then."""
        return replace(self, average_rate=average_rate, **{name: settings[name] for name in self.scheduled})

    def read(self, state: Mapping[str, Any]) -> "Update":
        """Return the numbers with what the optimizer counts for its parameters."""
        return self

    @property
    def counted(self) -> int | None:
        """Return the steps before this one, if the optimizer counts them."""
        return None


@dataclass(frozen=True)
class Sgd(Update):
    """The numbers of a step of `torch.optim.SGD`."""

    momentum: float
    nesterov: bool
    scheduled = ("lr", "weight_decay", "momentum")

    @property
    def buffers(self) -> tuple[str, ...]:
        """Name the momentum, where there is one."""
        return ("momentum_buffer",) if self.momentum else ()

    def apply(self, weights: Tensor, grads: Tensor, first: Tensor, second: Tensor) -> None:
        """Take a step of SGD."""
        if self.weight_decay:
            grads.add_(weights, alpha=self.weight_decay)
        if self.momentum:
            first.mul_(self.momentum).add_(grads)
            grads = grads.add(first, alpha=self.momentum) if self.nesterov else first
        weights.add_(grads, alpha=-self.lr)

    def by_torch(self, weights: list[Tensor], grads: list[Tensor], first: list[Tensor], second: list[Tensor]) -> None:
        """Let torch take the step."""
        momenta: list[Tensor | None] = list(first)
        numbers = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}
        how = {"nesterov": self.nesterov, "dampening": 0, "maximize": False, "foreach": False}
        sgd(weights, grads, momenta, **numbers, **how)  # type: ignore[arg-type]  # names with their values


@dataclass(frozen=True)
class _Counted(Update):
    """The numbers of an optimizer that counts its steps."""

    step: int  # the number of this one, from 1 on

    def ahead(self, steps: int, settings: Mapping[str, Any], average_rate: float) -> "Update":
        """Return the numbers of the step that comes so many after this one, with the optimizer's settings then."""
        now = {name: settings[name] for name in self.scheduled}
        return replace(self, average_rate=average_rate, step=self.step + steps, **now)

    def read(self, state: Mapping[str, Any]) -> "Update":
        """Return the numbers of the step after those that the optimizer has counted."""
        return replace(self, step=int(state["step"]) + 1)

    @property
    def counted(self) -> int | None:
        """Return the steps before this one."""
        return self.step - 1

    def _counts(self, weights: Sequence[Tensor]) -> list[Tensor]:
        return [torch.tensor(float(self.step - 1)) for _ in weights]


@dataclass(frozen=True)
class Adaptive(_Counted):
    """The numbers of a step of `torch.optim.Adam` or, where the decay is `decoupled`, of `AdamW`.

    Sources: Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019, arXiv:1711.05101.
    """

    betas: tuple[float, float]
    eps: float
    decoupled: bool
    scheduled = ("lr", "weight_decay", "betas")

    @property
    def buffers(self) -> tuple[str, ...]:
        """Name the moving averages of the gradient and of its square."""
        return ("exp_avg", "exp_avg_sq")

    def apply(self, weights: Tensor, grads: Tensor, first: Tensor, second: Tensor) -> None:
        """Take a step of Adam."""
        if self.weight_decay:
            if self.decoupled:
                weights.mul_(1 - self.lr * self.weight_decay)
            else:
                grads.add_(weights, alpha=self.weight_decay)
        beta1, beta2 = self.betas
        first.lerp_(grads, 1 - beta1)
        second.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
        step = float(self.step)
        size, root = self.lr / (1 - beta1**step), (1 - beta2**step) ** 0.5
        weights.addcdiv_(first, (second.sqrt() / root).add_(self.eps), value=-size)

    def by_torch(self, weights: list[Tensor], grads: list[Tensor], first: list[Tensor], second: list[Tensor]) -> None:
        """Let torch take the step."""
        beta1, beta2 = self.betas
        numbers = {"lr": self.lr, "beta1": beta1, "beta2": beta2, "eps": self.eps, "weight_decay": self.weight_decay}
        how = {"decoupled_weight_decay": self.decoupled, "amsgrad": False, "maximize": False, "foreach": False}
        adam(weights, grads, first, second, [], self._counts(weights), **numbers, **how)  # type: ignore[arg-type]  # as above


@dataclass(frozen=True)
class RootMeanSquare(_Counted):
    """The numbers of a step of `torch.optim.RMSprop` that is not centered.

    Source: Hinton's lecture notes, https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf.
    """

    alpha: float
    eps: float
    momentum: float
    scheduled = ("lr", "weight_decay", "momentum")

    @property
    def buffers(self) -> tuple[str, ...]:
        """Name the moving average of the gradient's square, and the momentum where there is one."""
        return ("square_avg", "momentum_buffer") if self.momentum else ("square_avg",)

    def apply(self, weights: Tensor, grads: Tensor, first: Tensor, second: Tensor) -> None:
        """Take a step of RMSprop."""
        if self.weight_decay:
            grads.add_(weights, alpha=self.weight_decay)
        first.mul_(self.alpha).addcmul_(grads, grads, value=1 - self.alpha)
        average = first.sqrt().add_(self.eps)
        if self.momentum:
            second.mul_(self.momentum).addcdiv_(grads, average)
            weights.add_(second, alpha=-self.lr)
        else:
            weights.addcdiv_(grads, average, value=-self.lr)

    def by_torch(self, weights: list[Tensor], grads: list[Tensor], first: list[Tensor], second: list[Tensor]) -> None:
        """Let torch take the step."""
        numbers = {"lr": self.lr, "alpha": self.alpha, "eps": self.eps, "weight_decay": self.weight_decay}
        how = {"momentum": self.momentum, "centered": False, "maximize": False, "foreach": False}
        rmsprop(weights, grads, first, [], second, self._counts(weights), **numbers, **how)  # type: ignore[arg-type]  # as above


_ODD = ("dampening", "maximize", "differentiable", "fused", "foreach", "capturable", "amsgrad", "centered")
_NUMBERS = ("lr", "momentum", "weight_decay", "alpha", "eps")


def _of_sgd(group: Mapping[str, Any], clip: Clip | None) -> Update:
    return Sgd(group["lr"], group["weight_decay"], clip, 0.0, group["momentum"], bool(group["nesterov"]))


def _of_adam(group: Mapping[str, Any], clip: Clip | None) -> Update:
    how = group["betas"], group["eps"], bool(group["decoupled_weight_decay"])
    return Adaptive(group["lr"], group["weight_decay"], clip, 0.0, 0, *how)


def _of_rmsprop(group: Mapping[str, Any], clip: Clip | None) -> Update:
    numbers = group["alpha"], group["eps"], group["momentum"]
    return RootMeanSquare(group["lr"], group["weight_decay"], clip, 0.0, 0, *numbers)


KNOWN: Mapping[type, Callable[[Mapping[str, Any], Clip | None], Update]] = {
    **{SGD: _of_sgd, Adam: _of_adam, AdamW: _of_adam, RMSprop: _of_rmsprop}
}


def is_known_optimizer(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer's steps are written out here, with its settings as they are now."""
    if type(optimizer) not in KNOWN or len(optimizer.param_groups) != 1:
        return False
    group = optimizer.param_groups[0]
    numbers = [group[name] for name in _NUMBERS if name in group] + list(group.get("betas", ()))
    # of the others the paths on accelerators are untried
    fits = type(optimizer) is SGD or group["params"][0].device.type == "cpu"
    return fits and not any(group.get(name) for name in _ODD) and all(isinstance(n, float | int) for n in numbers)


def update_of(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], clip: Clip | None) -> Update | None:
    """Return the numbers of an optimizer's coming step over just these parameters; None if it is another's.

    None too before its first step, which makes its buffers.
    """
    if not is_known_optimizer(optimizer):
        return None
    group = optimizer.param_groups[0]
    if list(map(id, group["params"])) != list(map(id, parameters)):
        return None
    rule = KNOWN[type(optimizer)](group, clip)
    states = [optimizer.state.get(p, {}) for p in parameters]  # asking makes no entry
    if any(state.get(name) is None for state in states for name in rule.buffers):
        return None
    counts = {float(state["step"]) for state in states if "step" in state}
    return rule.read(states[0]) if len(counts) <= 1 else None
