"""`ScaledLinear`: a first layer that learns how much each feature counts."""

import torch
from torch import Tensor, nn
from torch.nn import functional

PACE = 4.0  # of the gains, against the weights


class ScaledLinear(nn.Linear):
    """A linear layer that learns besides how much each of its inputs counts.

    Input f is multiplied with 1 + 4 · gain[f], where the gains begin at 0; weight decay draws the factors to 1. So they
    learn faster than the weights do, which lets a network tell useful features from others early. Source: the scaling
    layer of RealMLP, Holzmüller et al. 2024, arXiv:2407.04491; that the decay goes to 1 is ours.

    Shape: input `[B, in_features]`, output `[B, out_features]`, `gain` `[in_features]`.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.gain = nn.Parameter(torch.zeros(in_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map rows to sums, with the factors multiplied into the weights, which are fewer than the inputs."""
        return functional.linear(x, self.weight * (self.gain * PACE + 1.0), self.bias)
