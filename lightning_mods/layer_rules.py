"""What the chain rule needs of each layer between two matrix products: a value forward, a gradient backward.

The operations are those that autograd calls for the same modules, in its order, so that the numbers are the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_threshold_backward = torch.ops.aten.threshold_backward.default
_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.default
_elu_backward = torch.ops.aten.elu_backward.default
_gelu_backward = torch.ops.aten.gelu_backward.default
_silu_backward = torch.ops.aten.silu_backward.default
_tanh_backward = torch.ops.aten.tanh_backward.default
_sigmoid_backward = torch.ops.aten.sigmoid_backward.default
_log_softmax = torch.ops.aten._log_softmax.default
_log_softmax_backward = torch.ops.aten._log_softmax_backward_data.default
_nll_loss = torch.ops.aten.nll_loss_forward.default
_nll_loss_backward = torch.ops.aten.nll_loss_backward.default
_mse_loss_backward = torch.ops.aten.mse_loss_backward.default

Forward = Callable[[Tensor], Tensor]
Backward = Callable[[Tensor, Tensor, Tensor], Any]  # a tensor; torch.ops has no types


@dataclass(frozen=True)
class Activation:
    """An activation and its derivative.

    Attributes:
        forward: From the layer's sums z to its values h; may write into z if `keeps_sums` is false.
        backward: From the gradient of h, z and h to the gradient of z.
        keeps_sums: Whether `backward` reads z.
    """

    forward: Forward
    backward: Backward
    keeps_sums: bool


def _relu(grad: Tensor, z: Tensor, h: Tensor) -> Any:
    return _threshold_backward(grad, h, 0)


def _leaky_relu(slope: float) -> Activation:
    def backward(grad: Tensor, z: Tensor, h: Tensor) -> Any:
        return _leaky_relu_backward(grad, z, slope, False)

    return Activation(lambda z: nn.functional.leaky_relu(z, slope), backward, True)


def _elu(alpha: float) -> Activation:
    def backward(grad: Tensor, z: Tensor, h: Tensor) -> Any:
        return _elu_backward(grad, alpha, 1, 1, False, z)

    return Activation(lambda z: nn.functional.elu(z, alpha), backward, True)


def _gelu(approximate: str) -> Activation:
    def backward(grad: Tensor, z: Tensor, h: Tensor) -> Any:
        return _gelu_backward(grad, z, approximate=approximate)

    return Activation(lambda z: nn.functional.gelu(z, approximate=approximate), backward, True)


_RELU = Activation(torch.relu_, _relu, False)
_SILU = Activation(nn.functional.silu, lambda grad, z, h: _silu_backward(grad, z), True)
_TANH = Activation(torch.tanh_, lambda grad, z, h: _tanh_backward(grad, h), False)
_SIGMOID = Activation(torch.sigmoid_, lambda grad, z, h: _sigmoid_backward(grad, h), False)
_IDENTITY = Activation(lambda z: z, lambda grad, z, h: grad, False)


def activation_of(layer: nn.Module) -> Activation | None:
    """The rule of an activation layer; None for a kind that is not known."""
    if type(layer) not in (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity):
        return None
    match layer:
        case nn.LeakyReLU():
            return _leaky_relu(layer.negative_slope)
        case nn.ELU():
            return _elu(layer.alpha)
        case nn.GELU():
            return _gelu(layer.approximate)
    plain = {nn.ReLU: _RELU, nn.SiLU: _SILU, nn.Tanh: _TANH, nn.Sigmoid: _SIGMOID, nn.Identity: _IDENTITY}
    return plain[type(layer)]


def dropout_noise(h: Tensor, p: float) -> Tensor:
    """What a training layer of dropout multiplies its input by, drawn as torch draws it on a CPU."""
    return torch.empty_like(h).bernoulli_(1 - p).div_(1 - p)


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy and its gradient.

    Args:
        weights: Of the classes, shape (C,); None for all alike.
    """

    weights: Tensor | None = None

    def __call__(self, outputs: Tensor, y: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, a scalar, and its gradient with respect to the outputs `[B, C]`; `one` is the number 1."""
        logs = _log_softmax(outputs, 1, False)
        loss, mass = _nll_loss(logs, y, self.weights, 1, -100)
        grad = _nll_loss_backward(one, logs, y, self.weights, 1, -100, mass)
        return loss, _log_softmax_backward(grad, logs, 1, outputs.dtype)


@dataclass(frozen=True)
class SquaredError:
    """Mean squared error on the standardised target and its gradient.

    Args:
        mean: Of the target, in its units.
        std: Of the target, above 0.
    """

    mean: float
    std: float

    def __call__(self, outputs: Tensor, y: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, a scalar, and its gradient with respect to the outputs `[B, 1]`; `one` is the number 1."""
        wanted = ((y - self.mean) / self.std).to(outputs.dtype)
        found = outputs.squeeze(-1)
        loss = nn.functional.mse_loss(found, wanted)
        return loss, _mse_loss_backward(one, found, wanted, 1).unsqueeze(-1)


LossRule = CrossEntropy | SquaredError
