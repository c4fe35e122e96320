"""`GroupChain`: training steps of many networks at once, by one optimizer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_mods.models.fused.chain_rule import ChainRule, LossRule
from lightning_mods.models.fused.group import GroupNetwork
from lightning_mods.models.fused.group_ops import group_loss
from lightning_mods.models.fused.group_updates import Rates
from lightning_mods.models.fused.updates import Sgd, Update


class GroupChain(ChainRule):
    """Steps of networks alike in shape, on the same mini-batches, by one optimizer: as `ChainRule` for one.

    Its loss is the sum of theirs. Each has a share of dropout, drawn from the seed that torch was last given.
    """

    def __init__(self, networks: Sequence[nn.Sequential], dropouts: Sequence[float], loss: LossRule) -> None:
        self._values = group_loss(loss)
        rates = [Rates(0.0, 0.0, 0.0, dropout) for dropout in dropouts]  # the optimizer's come with each step
        none = Sgd(0.0, 0.0, None, 0.0, 0.0, nesterov=False)
        self._group = GroupNetwork(networks[0], rates, self._values, rule=none)
        self.parameters = [p for layers in networks for p in layers.parameters()]
        weights, grads = self._group.state()
        self._flat = [weights, grads, *(torch.zeros_like(weights) for _ in range(3))]
        self._networks = len(networks)
        self.weights, self.gradients, self._averages, *self._buffers = (
            [part[t] for t in range(self._networks) for part in self._group.parts(flat)] for flat in self._flat
        )

    def backward(self, x: Tensor, y: Tensor) -> Tensor:
        """Fill `gradients`; returns the sum of the mean losses, a scalar."""
        compared = self._group.backward(x, y, torch.initial_seed())
        total = torch.zeros(())
        for loss in self._values.values(compared.unsqueeze(0), y.unsqueeze(0))[0]:
            total = total + loss
        return total

    def clip(self, rule: Update) -> None:
        """Clip each network's gradients as if it were alone."""
        self._group.clip(rule.clip)

    def clipped_together(self, parameters: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """Return the parameters of each network."""
        size = len(parameters) // self._networks
        return [parameters[at : at + size] for at in range(0, len(parameters), size)]
