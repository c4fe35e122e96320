"""`ChainRule`: training steps of an MLP by SGD with the chain rule written out, without autograd.

Every operation is the one that autograd and `torch.optim.SGD` call, in their order: on one thread the numbers are the
same to the last bit, and `ChainRule.agrees` checks that they are. Sources: Rumelhart, Hinton and Williams 1986,
https://doi.org/10.1038/323533a0, and the notes of `torch.optim.SGD`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.sgd import sgd

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


_ALIGNED = 16  # floats, 64 bytes: where torch's own tensors begin, and products of matrices may depend on it


@dataclass(frozen=True)
class Sgd:
    """The numbers of a step of `torch.optim.SGD`."""

    lr: float
    momentum: float
    weight_decay: float
    nesterov: bool


@dataclass(frozen=True)
class _Hidden:
    activation: Activation
    dropout: float


class ChainRule:
    """An MLP's parameters, gradients and momenta in three flat tensors, and the steps that change them.

    It works on copies: `load` takes them from the module, `store` gives them back.

    Args:
        linear: The linear layers, first to last.
        hidden: What follows each of them but the last.
        loss: What is minimised.

    Attributes:
        parameters: Those of the module, weight and bias of each layer in turn.
        weights: The copies of them.
        gradients: Of the latest `backward`, one for each, until `update` has used them.
    """

    def __init__(self, linear: Sequence[nn.Linear], hidden: Sequence[_Hidden], loss: LossRule) -> None:
        self.parameters = [p for layer in linear for p in layer.parameters()]
        self._loss = loss
        shapes = [p.shape for p in self.parameters]
        device = self.parameters[0].device
        room = [-(-shape.numel() // _ALIGNED) * _ALIGNED for shape in shapes]
        starts = [0, *accumulate(room)]
        self._flat = [torch.zeros(starts[-1], device=device) for _ in range(3)]
        parts = [
            [flat[at : at + shape.numel()].view(shape) for at, shape in zip(starts, shapes, strict=False)]
            for flat in self._flat
        ]
        self.weights, self.gradients, self._momenta = parts
        self._matrices, self._biases = parts[0][0::2], parts[0][1::2]
        self._transposed = [matrix.t() for matrix in self._matrices]
        self._matrix_grads, self._bias_grads = parts[1][0::2], parts[1][1::2]
        self._one = torch.ones((), device=device)
        # What each step goes through, up to the last layer and down again: looked up once.
        rules = [each.activation for each in hidden]
        self._up = [
            (rule.forward, each.dropout, bias, matrix)
            for rule, each, bias, matrix in zip(rules, hidden, self._biases, self._transposed, strict=False)
        ]
        above = zip(self._matrices[1:], self._matrix_grads[1:], self._bias_grads[1:], strict=True)
        self._down = [(rule.backward, *layer) for rule, layer in zip(rules, above, strict=True)][::-1]

    @classmethod
    def of(cls, layers: nn.Sequential, loss: LossRule) -> "ChainRule | None":
        """For linear layers with an activation and perhaps dropout between them; None for anything else."""
        parts = list(layers)
        linear: list[nn.Linear] = []
        hidden: list[_Hidden] = []
        while parts:
            layer = parts.pop(0)
            if type(layer) is not nn.Linear or not _is_plain(layer):
                return None
            linear.append(layer)
            if not parts:
                return cls(linear, hidden, loss)
            activation = activation_of(parts.pop(0))
            if activation is None:
                return None
            dropout = parts[0] if parts else None
            if isinstance(dropout, nn.Dropout):
                parts.pop(0)
            hidden.append(_Hidden(activation, dropout.p if isinstance(dropout, nn.Dropout) else 0.0))
        return None

    # ------------------------------------------------------------------ copies

    def load(self, optimizer: torch.optim.Optimizer) -> Sgd | None:
        """Copy parameters and momenta; the numbers of the coming steps, or None if they cannot be written out."""
        rule = _sgd_of(optimizer, self.parameters)
        if rule is None or not all(p.requires_grad for p in self.parameters):
            return None
        if rule.momentum:
            buffers = [optimizer.state[p].get("momentum_buffer") for p in self.parameters]
            if any(buffer is None for buffer in buffers):
                return None  # the first step makes them
            _copy(self._momenta, buffers)
        _copy(self.weights, self.parameters)
        return rule

    def store(self, optimizer: torch.optim.Optimizer, rule: Sgd) -> None:
        """Give parameters and momenta back to the module and its optimizer."""
        _copy(self.parameters, self.weights)
        if rule.momentum:
            _copy([optimizer.state[p]["momentum_buffer"] for p in self.parameters], self._momenta)

    def snapshot(self) -> list[Tensor]:
        """Copies of parameters, gradients and momenta, for `restore`."""
        return [flat.clone() for flat in self._flat]

    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Put parameters, gradients and momenta back."""
        _copy(self._flat, snapshot)

    def is_finite(self) -> bool:
        """Whether all parameters are finite numbers; waits for the device."""
        return bool(torch.isfinite(self._flat[0].sum()))

    # ------------------------------------------------------------------ steps

    def step(self, x: Tensor, y: Tensor, rule: Sgd) -> Tensor:
        """One mini-batch: forward, backward, update.

        Args:
            x: Rows, `[B, F]`.
            y: Targets, `[B]`.
            rule: From `load`.

        Returns:
            The mean loss before the update, a scalar.
        """
        loss = self.backward(x, y)
        self.update(rule)
        return loss

    def backward(self, x: Tensor, y: Tensor) -> Tensor:
        """Fill `gradients`; returns the mean loss, a scalar."""
        addmm, mm = torch.addmm, torch.mm
        passed = []
        h = x
        for forward, dropout, bias, matrix in self._up:
            below, z = h, addmm(bias, h, matrix)
            h = active = forward(z)
            noise = None
            if dropout:
                noise = dropout_noise(active, dropout)
                h = active * noise
            passed.append((below, z, active, noise))
        loss, grad = self._loss(addmm(self._biases[-1], h, self._transposed[-1]), y, self._one)
        below = h
        for derivative, matrix, matrix_grad, bias_grad in self._down:
            # The transposed product: so autograd computes it, and the other way round rounds differently.
            mm(grad.t(), below, out=matrix_grad)
            torch.sum(grad, 0, out=bias_grad)
            below, z, active, noise = passed.pop()
            grad = mm(grad, matrix)
            if noise is not None:
                grad = grad * noise
            grad = derivative(grad, z, active)
        mm(grad.t(), below, out=self._matrix_grads[0])
        torch.sum(grad, 0, out=self._bias_grads[0])
        return loss

    def update(self, rule: Sgd) -> None:
        """Let SGD use the gradients."""
        weights, grads, momenta = self._flat
        if rule.weight_decay:
            grads.add_(weights, alpha=rule.weight_decay)
        if rule.momentum:
            momenta.mul_(rule.momentum).add_(grads)
            grads = grads.add(momenta, alpha=rule.momentum) if rule.nesterov else momenta
        weights.add_(grads, alpha=-rule.lr)

    # ------------------------------------------------------------------ the check

    def agrees(self, x: Tensor, y: Tensor, rule: Sgd, loss: Callable[[], Tensor], seed: Callable[[], None]) -> bool:
        """Whether a step from what was loaded is, bit for bit, what autograd and SGD make of it.

        Neither the module nor what was loaded changes. Products of matrices may depend on the number of rows, so
        each number of rows is to be checked once.

        Args:
            x: Rows.
            y: Targets.
            rule: From `load`.
            loss: The module's loss on these rows, as it would be minimised.
            seed: Called before each pass, for dropout.
        """
        parameters = [p.detach().clone() for p in self.parameters]
        momenta: list[Tensor | None] = [m.clone() for m in self._momenta]
        kept = self.snapshot()
        seed()
        with torch.enable_grad():
            wanted = loss()
            grads = torch.autograd.grad(wanted, self.parameters)
        sgd(parameters, list(grads), momenta, dampening=0, maximize=False, foreach=False, **asdict(rule))
        seed()
        found = self.step(x, y, rule)
        pairs = [(found, wanted), *zip(self.weights, parameters, strict=True)]
        pairs += zip(self._momenta, momenta, strict=True) if rule.momentum else []  # type: ignore[arg-type]
        same = all(torch.equal(a, b) for a, b in pairs)
        self.restore(kept)
        return same


def _copy(to: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for target, value in zip(to, values, strict=True):
            target.copy_(value)


def _is_plain(layer: nn.Linear) -> bool:
    parameters = [layer.weight, layer.bias]
    if any(p is None or p.dtype is not torch.float32 or not p.requires_grad for p in parameters):
        return False
    return layer.weight.is_contiguous() and not parametrize.is_parametrized(layer)


def _sgd_of(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> Sgd | None:
    """The numbers of plain SGD over just these parameters; None for anything else."""
    if type(optimizer) is not torch.optim.SGD or len(optimizer.param_groups) != 1:
        return None
    group = optimizer.param_groups[0]
    odd = any(group[name] for name in ("dampening", "maximize", "differentiable", "fused"))
    numbers = all(isinstance(group[name], float | int) for name in ("lr", "momentum", "weight_decay"))
    if odd or not numbers or list(map(id, group["params"])) != list(map(id, parameters)):
        return None
    return Sgd(group["lr"], group["momentum"], group["weight_decay"], bool(group["nesterov"]))
