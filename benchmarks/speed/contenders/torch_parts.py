"""What those built on torch share: the network, the rows as tensors, and its answers."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.speed.contenders import LogProbabilities
from benchmarks.speed.shapes import CLASSES, HIDDEN, Job


def make_network(in_features: int) -> nn.Sequential:
    """Linear layers with ReLU between them, initialised as torch does."""
    widths = [in_features, *HIDDEN]
    layers: list[nn.Module] = []
    for i in range(len(HIDDEN)):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES))


def tensors(job: Job) -> list[Tensor]:
    """x, y, and x, y to validate on."""
    return [torch.from_numpy(array) for array in job.rows()]


def answers(network: nn.Module) -> LogProbabilities:
    """Logits of a network as it is when they are asked for."""

    def logits(x: NDArray[Any]) -> NDArray[Any]:
        network.eval()
        with torch.no_grad():
            return network(torch.from_numpy(x)).numpy()  # type: ignore[no-any-return]

    return logits
