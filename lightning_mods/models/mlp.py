"""What SGD can be asked for."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn

from lightning_mods.models.scaling import ScaledLinear

Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "identity"]
Schedule = Literal["constant", "cosine"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}
# These squash: Glorot's variance keeps their inputs near the linear part. The others halve the variance (He).
_GLOROT = frozenset({"tanh", "sigmoid", "identity"})


class MLP(nn.Module):
    """Fully connected layers with an activation and dropout between them, none after the last.

    Weights start with He's variance (ReLU and its kin) or Glorot's (tanh, sigmoid), biases at zero; the last
    layer starts small, so that the first predictions are nearly the same for every row.
    Sources: He et al. 2015, arXiv:1502.01852; Glorot and Bengio 2010, AISTATS.

    Args:
        in_features: Width of the input, F; the input has shape `[B, F]`.
        out_features: Width of the output; the output has shape `[B, out_features]`.
        hidden_sizes: Widths of the hidden layers, first to last; empty for a linear model.
        activation: Between the layers: relu, leaky_relu, elu, gelu, silu, tanh, sigmoid or identity.
        dropout: Probability that a hidden unit is zeroed in training, in [0, 1).
        input_scaling: Whether the first layer is a `ScaledLinear`.

    Raises:
        ValueError: A width below 1, an unknown activation, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden_sizes: Sequence[int] = (128, 128),
        activation: Activation = "relu",
        dropout: float = 0.0,
        input_scaling: bool = False,
    ) -> None:
        super().__init__()
        _check(in_features, out_features, hidden_sizes, activation, dropout)
        sizes = [in_features, *hidden_sizes, out_features]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            kind = ScaledLinear if input_scaling and not layers else nn.Linear
            layers += [kind(fan_in, fan_out), _ACTIVATIONS[activation]()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers[: -2 if dropout > 0 else -1])  # none after the last
        self._initialise(activation)

    def _initialise(self, activation: Activation) -> None:
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        for layer in linear[:-1]:
            if activation in _GLOROT:
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        nn.init.normal_(linear[-1].weight, std=0.1 * linear[-1].in_features ** -0.5)
        for layer in linear:
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map rows `[B, in_features]` to outputs `[B, out_features]`; NaN in a row gives NaN in its output."""
        out: Tensor = self.layers(x)
        return out


def _check(in_features: int, out_features: int, hidden_sizes: Sequence[int], activation: str, dropout: float) -> None:
    for name, width in [("in_features", in_features), ("out_features", out_features)]:
        if width < 1:
            raise ValueError(f"{name} must be at least 1, not {width}.")
    if any(width < 1 for width in hidden_sizes):
        raise ValueError(f"hidden_sizes must be widths of at least 1, not {list(hidden_sizes)}.")
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(get_args(Activation))}, not {activation!r}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), not {dropout}.")


def check_sgd(lr: float, momentum: float, weight_decay: float, nesterov: bool) -> None:
    """Raise a ValueError for a number outside its range, with the range and what came."""
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr must be above 0, not {lr}; 0.1 is a usual start for SGD.")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), not {momentum}.")
    if not 0 <= weight_decay < float("inf"):
        raise ValueError(f"weight_decay must be at least 0, not {weight_decay}.")
    if nesterov and momentum == 0:
        raise ValueError("nesterov needs a momentum above 0; momentum is 0.")


def check_course(lr_schedule: str, ema_epochs: float) -> None:
    """Raise a ValueError for a schedule that is not known or an average over less than nothing."""
    if lr_schedule not in get_args(Schedule):
        raise ValueError(f"lr_schedule must be one of {', '.join(get_args(Schedule))}, not {lr_schedule!r}.")
    if not 0 <= ema_epochs < float("inf"):
        raise ValueError(f"ema_epochs must be at least 0, not {ema_epochs}; 0 is for no average.")


def left_out(**settings: object) -> tuple[str, ...]:
    """Name those settings that are off: a model without them has the hyperparameters it had before there were any."""
    off = {"lr_schedule": "constant", "ema_epochs": 0, "input_scaling": False}
    return tuple(name for name, value in settings.items() if value == off[name])
