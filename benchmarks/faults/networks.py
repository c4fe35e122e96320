"""Small networks as people write them: some with modules in a row, some with functions in `forward`."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from .initialisation import initialise
from .settings import Settings

MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh,
}  # fmt: skip


HEADS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda out: out,
    "softmax": lambda out: F.softmax(out, dim=1),
    "softmax_over_batch": lambda out: F.softmax(out, dim=0),
    "log_softmax": lambda out: F.log_softmax(out, dim=-1),
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softplus": F.softplus,
}
FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu, "leaky_relu": F.leaky_relu, "gelu": F.gelu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
}  # fmt: skip


class Network(nn.Module):
    """Hidden layers with an optional norm, a pooling half way and at the end, a linear output and a head."""

    def __init__(self, s: Settings, shape: torch.Size):
        super().__init__()
        self.s, self.middle, inputs = s, len(s.widths) // 2, shape[0]
        self.hidden, self.norms = nn.ModuleList(), nn.ModuleList()
        for width in s.widths:
            self.hidden.append(_layer(s.network, inputs, width))
            self.norms.append(_norm(s, width))
            inputs = width
        if not s.functional:
            self.activations = nn.ModuleList(MODULES[s.activation]() for _ in s.widths)
            self.dropout = nn.Dropout(s.dropout)
        if (
            s.network == "cnn2d" and len(s.widths) == 2
        ):  # the pictures lie flat before the output, halved by the pooling
            inputs *= shape[1] * shape[2] // 4
        self.output = nn.Linear(inputs, 2 if s.loss == "gaussian_nll" else max(1, s.classes))
        initialise(self, s.initialisation)
        if s.shifted_bias:
            fed = self.hidden[self.middle] if s.norm == "none" else self.norms[self.middle]
            nn.init.constant_(fed.bias, s.shifted_bias)  # type: ignore[arg-type]  # every layer used here has one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = self.s
        for number, (layer, norm) in enumerate(zip(self.hidden, self.norms, strict=True)):
            x = layer(x)
            x = norm(self._activate(x, number)) if s.norm == "batch_after" else self._activate(norm(x), number)
            if s.detached and number == self.middle:
                x = x.detach()
            if s.network != "mlp" and number == self.middle:
                x = F.max_pool1d(x, 2) if s.network == "cnn1d" else F.max_pool2d(x, 2)
        if s.network != "mlp":
            x = x.flatten(2).mean(2) if len(s.widths) > 2 else x.flatten(1)
        x = F.dropout(x, s.dropout, self.training) if s.functional else self.dropout(x)
        return HEADS[s.head](self.output(x) * s.output_scale)

    def _activate(self, x: torch.Tensor, number: int) -> torch.Tensor:
        if self.s.functional:
            return FUNCTIONS[self.s.activation](x)
        out: torch.Tensor = self.activations[number](x)
        return out


def _layer(kind: str, inputs: int, width: int) -> nn.Module:
    if kind == "mlp":
        return nn.Linear(inputs, width)
    return (nn.Conv1d if kind == "cnn1d" else nn.Conv2d)(inputs, width, 3, padding=1)


def _norm(s: Settings, width: int) -> nn.Module:
    if s.norm == "none":
        return nn.Identity()
    if s.norm == "group":
        return nn.GroupNorm(4, width)
    return {"mlp": nn.BatchNorm1d, "cnn1d": nn.BatchNorm1d, "cnn2d": nn.BatchNorm2d}[s.network](width)
