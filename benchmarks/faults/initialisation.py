"""First weights, reasonable and not."""

from torch import nn


def initialise(net: nn.Module, how: str) -> None:
    """Set the weights and biases of all linear and convolutional layers; `default` leaves torch's own."""
    layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    if how == "zero_last":  # legitimate: the first prediction is the same for all rows, and only that
        layers = layers[-1:]
    for layer in layers if how != "default" else []:
        weight, bias = layer.weight, layer.bias
        if how == "he":
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
        elif how == "xavier":
            nn.init.xavier_uniform_(weight)
        elif how == "orthogonal":
            nn.init.orthogonal_(weight, gain=2**0.5)
        elif how == "constant":
            nn.init.constant_(weight, 0.05)
        elif how == "zero_last":
            nn.init.zeros_(weight)
        elif how == "large":
            nn.init.normal_(weight, std=2.0)
        else:
            raise ValueError(how)
        if bias is not None:
            nn.init.zeros_(bias)
