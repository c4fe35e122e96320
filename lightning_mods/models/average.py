"""`WeightAverage`: the exponential moving average of the weights over the training steps."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def average_rate(step: int, horizon: float) -> float:
    """Return how much of the way to the parameters an average goes after a step; step 0 is the first."""
    return max(1.0 / horizon, 1.0 / (step + 2))


class WeightAverage:
    """Averages parameters over the training steps; what is evaluated and kept are the averages.

    After each step, average += rate · (parameter - average), with rate 1 / (steps so far + 2) at first, which makes it
    the mean of all weights so far, and at least 1 / horizon. Source: Morales-Brotons, Vogels and Hendrikx 2024,
    "Exponential moving average of weights in deep learning", arXiv:2411.18704; the first part is a plain mean's.

    Args:
        parameters: Name to parameter.
        horizon: Steps that the average looks back over, above 0.
        kept: Steps and averages by name of one to go on with.

    Attributes:
        values: The averages by name; while they are `shown`, the parameters as they are trained.
        steps: Training steps so far.
        shown: Whether the parameters hold the averages just now.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        horizon: float,
        kept: tuple[int, Mapping[str, Tensor]] | None = None,
    ) -> None:
        self._parameters = dict(parameters)
        self.horizon = horizon
        self.steps, averages = kept or (0, self._parameters)
        self.values = {
            name: averages[name].detach().clone().to(parameter.device) for name, parameter in parameters.items()
        }
        self.shown = False

    def rate(self, step: int) -> float:
        """Return the average's `average_rate` after a step."""
        return average_rate(step, self.horizon)

    @torch.no_grad()
    def update(self) -> None:
        """Count a step that the parameters have taken."""
        rate = self.rate(self.steps)
        for name, parameter in self._parameters.items():
            value = self.values[name]
            value.add_(parameter - value, alpha=rate)
        self.steps += 1

    @torch.no_grad()
    def show(self, shown: bool) -> None:
        """Put the averages into the parameters, or take them out again."""
        if shown == self.shown:
            return
        for name, parameter in self._parameters.items():
            trained = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name].copy_(trained)
        self.shown = shown

    def put_into(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Put the averages into a module's state; return the steps, and the parameters in training."""
        trained = {}
        for name, parameter in self._parameters.items():
            now, other = parameter.detach().clone(), self.values[name].clone()
            state_dict[name], trained[name] = (now, other) if self.shown else (other, now)
        return {"steps": self.steps, "trained": trained}


def taken_out(state_dict: dict[str, Any], kept: Mapping[str, Any]) -> tuple[int, dict[str, Tensor]]:
    """Undo `put_into`: put the parameters as trained into a module's state; return the steps and the averages."""
    averages = {name: state_dict[name] for name in kept["trained"]}
    state_dict.update(kept["trained"])
    return int(kept["steps"]), averages
