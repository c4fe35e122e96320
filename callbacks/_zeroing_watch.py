"""Notices gradients that nobody cleared: what a step uses is then what came in, plus what the last step used."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

AGREED = 3  # steps in a row that must show it
NEAR, FAR = 1e-3, 1e-2  # of the largest value: rounding of a sum in another order; a difference that is none


class ZeroingWatch:
    """Compares, for one small parameter of an optimizer, what came in by backward passes with what a step uses.

    It adds a hook that only looks to that parameter for a few steps at the start, and takes it away again. Gradients
    that are summed over several backward passes on purpose come in in full, so accumulation does not mislead it.
    """

    def __init__(self) -> None:
        self.kept: int = 0  # steps that used the last step's gradient again
        self.done = False
        self._parameter: nn.Parameter | None = None
        self._optimizer: Optimizer | None = None
        self._held: Tensor | None = None
        self._came: Tensor | None = None
        self._hook: Any = None

    def before_step(self, optimizer: Optimizer) -> None:
        """Compare, when the optimizer that is watched is about to step."""
        if self.done or self._hook is None or optimizer is not self._optimizer:
            return
        self._disarm()
        gradient = self._parameter.grad if self._parameter is not None else None
        if gradient is None or self._held is None or self._came is None:
            return
        largest = torch.stack([self._held.abs().max(), gradient.abs().max()]).max()
        again = (gradient - self._held - self._came).abs().max()
        afresh = (gradient - self._came).abs().max()
        if bool(again <= NEAR * largest) and bool(afresh > FAR * largest):
            self.kept += 1
            self.done = self.kept >= AGREED
        elif bool(afresh <= NEAR * largest):
            self.done = True

    def after_batch(self, optimizer: Optimizer | None) -> None:
        """Begin to watch the next step of the optimizer that has just stepped."""
        if self.done or optimizer is None or self._hook is not None:
            return
        own = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        if all(p.grad is None for p in own):
            self.done = True  # cleared after the step
            return
        self._parameter = min(
            (p for p in own if p.grad is not None and not p.grad.is_sparse), key=nn.Parameter.numel, default=None
        )
        if self._parameter is None or self._parameter.grad is None:
            self.done = True
            return
        self._optimizer, self._held, self._came = optimizer, self._parameter.grad.detach().clone(), None
        if not bool(self._held.any()):
            return  # nothing to tell it by; perhaps cleared, perhaps a dead unit
        self._hook = self._parameter.register_hook(self._add)

    def _add(self, gradient: Tensor) -> None:
        came = gradient.detach()
        self._came = came.clone() if self._came is None else self._came + came

    def _disarm(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def end(self) -> None:
        """Take the hook away."""
        self._disarm()
        self._parameter = self._optimizer = self._held = self._came = None
