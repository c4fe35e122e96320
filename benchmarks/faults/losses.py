"""Losses by name: the network's output and the targets to one number."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def by_hand(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy written out: no softmax is seen anywhere, and none is missing."""
    return (torch.logsumexp(out, 1) - out.gather(1, y[:, None])[:, 0]).mean()


def log_likelihood(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy as minus the mean log-likelihood."""
    return -F.log_softmax(out, dim=1)[torch.arange(len(y)), y].mean()


def gaussian(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of a mean and a log-variance for each row; it may fall below zero, rightly."""
    return F.gaussian_nll_loss(out[:, 0], y, out[:, 1].clamp(-6, 6).exp())


FUNCTIONS: dict[str, Loss] = {
    "cross_entropy": F.cross_entropy,
    "smoothed": lambda out, y: F.cross_entropy(out, y, label_smoothing=0.1),
    "by_hand": by_hand,
    "log_likelihood": log_likelihood,
    "nll": F.nll_loss,
    "nll_of_log": lambda out, y: F.nll_loss(torch.log(out + 1e-7), y),
    "mse_one_hot": lambda out, y: F.mse_loss(out, F.one_hot(y, out.shape[1]).float()),
    "mse": lambda out, y: F.mse_loss(out[:, 0], y),
    "huber": lambda out, y: F.smooth_l1_loss(out[:, 0], y),
    "bce": lambda out, y: F.binary_cross_entropy_with_logits(out[:, 0], y),
    "gaussian_nll": gaussian,
}
MODULES: dict[str, Callable[[], nn.Module]] = {
    "cross_entropy": nn.CrossEntropyLoss,
    "smoothed": lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
    "nll": nn.NLLLoss,
}
SQUEEZED: dict[str, Callable[[], nn.Module]] = {
    "mse": nn.MSELoss,
    "huber": nn.SmoothL1Loss,
    "bce": nn.BCEWithLogitsLoss,
}
