"""`Readings`: what callbacks read of steps that are taken without their hooks, kept once it is sure that they hold."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pytorch_lightning import Trainer

from lightning_mods.chain_rule import ChainRule
from lightning_mods.fast_limits import Reading, ReadsGradients


class Readings:
    """What is read of steps on the way, kept once it is sure that they hold.

    Args:
        readers: Who reads.
        trainer: The fit.
        chain: Whose gradients and weights.
    """

    def __init__(self, readers: Sequence[ReadsGradients], trainer: Trainer, chain: ChainRule) -> None:
        self._readers, self._trainer, self._chain = readers, trainer, chain
        self._all: list[Reading] = []
        self._open: list[Reading] = []
        self._due = [reader.next_reading(trainer, 0) for reader in readers]
        self.next = min(self._due, default=math.inf)

    @contextmanager
    def shown(self, steps: int) -> Iterator[None]:
        """Within it, the module's parameters and `.grad` are those of the steps, if one of so many is to be read."""
        if self.next >= steps:
            yield
            return
        chain, parameters = self._chain, self._chain.parameters
        before = [(parameter.data, parameter.grad) for parameter in parameters]
        try:
            for parameter, weight, gradient in zip(parameters, chain.weights, chain.gradients, strict=True):
                parameter.data, parameter.grad = weight, gradient
            yield
        finally:
            for parameter, (weight, gradient_before) in zip(parameters, before, strict=True):
                parameter.data, parameter.grad = weight, gradient_before

    def before_step(self, ahead: int) -> None:
        """Let those read for whom the coming step `ahead` is due."""
        for i, reader in enumerate(self._readers):
            if self._due[i] <= ahead:
                self._open.append(reader.read_gradients(self._trainer, ahead))
                self._due[i] = reader.next_reading(self._trainer, ahead + 1)
        self.next = min(self._due)

    def after_step(self) -> None:
        """Let them look at what the step did."""
        for reading in self._open:
            reading.stepped()
        self._all += self._open
        self._open = []

    def keep(self) -> None:
        """The steps hold."""
        for reading in self._all:
            reading.keep()
