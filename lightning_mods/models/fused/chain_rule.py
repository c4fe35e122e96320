"""`ChainRule`: training steps of an MLP with the chain rule written out, without autograd.

Every operation is the one that autograd and torch's optimizer call, in their order: on one thread the numbers are the
same to the last bit, and `ChainRule.agrees` checks that they are. Sources: Rumelhart, Hinton and Williams 1986,
https://doi.org/10.1038/323533a0, and `updates`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm, parametrize

from lightning_mods.models.fused.updates import Clip, Update, update_of
from lightning_mods.models.scaling import PACE, ScaledLinear

_aten = torch.ops.aten

ALIGNED = 32  # floats: torch's own tensors begin on 16, products may depend on it; elementwise loops go by 32 at most


class Activation(NamedTuple):
    """An activation and its derivative."""

    forward: Callable[[Tensor], Tensor]  # from the layer's sums z to its values h; may write into z
    backward: Callable[[Tensor, Tensor, Tensor], Any]  # from the gradient of h, z and h to that of z


RELU = Activation(torch.relu_, lambda grad, z, h: _aten.threshold_backward.default(grad, h, 0))
_SILU = Activation(functional.silu, lambda grad, z, h: _aten.silu_backward.default(grad, z))
_TANH = Activation(torch.tanh_, lambda grad, z, h: _aten.tanh_backward.default(grad, h))
_SIGMOID = Activation(torch.sigmoid_, lambda grad, z, h: _aten.sigmoid_backward.default(grad, h))
_IDENTITY = Activation(lambda z: z, lambda grad, z, h: grad)
_RULES: dict[type[nn.Module], Callable[[Any], Activation]] = {
    nn.ReLU: lambda layer: RELU,
    nn.SiLU: lambda layer: _SILU,
    nn.Tanh: lambda layer: _TANH,
    nn.Sigmoid: lambda layer: _SIGMOID,
    nn.Identity: lambda layer: _IDENTITY,
    nn.LeakyReLU: lambda layer: Activation(
        lambda z: functional.leaky_relu(z, layer.negative_slope),
        lambda grad, z, h: _aten.leaky_relu_backward.default(grad, z, layer.negative_slope, False),
    ),
    nn.ELU: lambda layer: Activation(
        lambda z: functional.elu(z, layer.alpha),
        lambda grad, z, h: _aten.elu_backward.default(grad, layer.alpha, 1, 1, False, z),
    ),
    nn.GELU: lambda layer: Activation(
        lambda z: functional.gelu(z, approximate=layer.approximate),
        lambda grad, z, h: _aten.gelu_backward.default(grad, z, approximate=layer.approximate),
    ),
}


def activation_of(layer: nn.Module) -> Activation | None:
    """Return the rule of an activation layer; None for a kind that is not known."""
    make = _RULES.get(type(layer))
    return make(layer) if make else None


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy and its gradient."""

    weights: Tensor | None = None  # of the classes, shape (C,); None for all alike

    def __call__(self, outputs: Tensor, y: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, a scalar, and its gradient by the outputs `[B, C]`; `one` is the number 1."""
        logs = _aten._log_softmax.default(outputs, 1, False)
        loss, mass = _aten.nll_loss_forward.default(logs, y, self.weights, 1, -100)
        grad = _aten.nll_loss_backward.default(one, logs, y, self.weights, 1, -100, mass)
        return loss, _aten._log_softmax_backward_data.default(grad, logs, 1, outputs.dtype)


@dataclass(frozen=True)
class SquaredError:
    """Mean squared error on the standardised target and its gradient."""

    mean: float  # of the target, in its units
    std: float  # of the target, above 0

    def __call__(self, outputs: Tensor, y: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, a scalar, and its gradient by the outputs `[B, 1]`; `one` is the number 1."""
        wanted = ((y - self.mean) / self.std).to(outputs.dtype)
        found = outputs.squeeze(-1)
        grad = _aten.mse_loss_backward.default(one, found, wanted, 1)
        return functional.mse_loss(found, wanted), grad.unsqueeze(-1)


LossRule = CrossEntropy | SquaredError


def starts(shapes: Sequence[torch.Size]) -> list[int]:
    """Return where tensors of these shapes begin in a flat one, each aligned; and last, where that ends."""
    return [0, *accumulate(-(-shape.numel() // ALIGNED) * ALIGNED for shape in shapes)]


def by_layer(parameters: Sequence[Tensor], *, scaled: bool) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Sort the parameters of layers into weights, biases and the gains of a first layer that is a `ScaledLinear`."""
    rest = list(parameters)
    gains = [rest.pop(2)] if scaled else []
    return rest[0::2], rest[1::2], gains


class Scaling:
    """A `ScaledLinear`: its factors times its weights, and its gradients; of one `[O, F]`, or of trials `[T, O, F]`.

    The gradients of weights and gains are written; those of the weights are at first of the scaled ones.
    """

    def __init__(
        self, weights: Tensor, gains: Tensor, weight_grads: Tensor, gain_grads: Tensor, *, room: Tensor
    ) -> None:
        self._weights, self._gains, self._weight_grads, self._gain_grads = weights, gains, weight_grads, gain_grads
        self.scaled = room  # for the scaled weights
        self._factors = gains

    def forward(self) -> None:
        """Multiply the factors into the weights, as `scaled`."""
        self._factors = self._gains.mul(PACE).add_(1.0).unsqueeze(-2)
        torch.mul(self._weights, self._factors, out=self.scaled)

    def backward(self) -> None:
        """Make of the gradient of the scaled weights those of the weights and of the gains."""
        torch.sum(self._weight_grads * self._weights, -2, out=self._gain_grads)
        self._gain_grads.mul_(PACE)
        self._weight_grads.mul_(self._factors)


class ChainRule:
    """An MLP's parameters, gradients, averages and its optimizer's buffers in flat tensors, and steps that change them.

    It works on copies: `load` takes them from the module, `store` gives them back. Its linear layers are given first to
    last, with the activation and the share of dropout (0 for none) that follow each but the last.
    """

    def __init__(self, linear: Sequence[nn.Linear], hidden: Sequence[tuple[Activation, float]], loss: LossRule) -> None:
        self.parameters = [p for layer in linear for p in layer.parameters()]
        self._loss = loss
        shapes = [p.shape for p in self.parameters]
        device = self.parameters[0].device
        *begin, end = starts(shapes)
        self._flat = [torch.zeros(end, device=device) for _ in range(5)]
        places = list(zip(begin, shapes, strict=True))
        # Of `gradients`: of the latest `backward`, until `update` has used them.
        self.weights, self.gradients, self._averages, *self._buffers = (
            [flat[at : at + shape.numel()].view(shape) for at, shape in places] for flat in self._flat
        )
        scaled = isinstance(linear[0], ScaledLinear)
        matrices, self._biases, gains = by_layer(self.weights, scaled=scaled)
        self._matrix_grads, self._bias_grads, gain_grads = by_layer(self.gradients, scaled=scaled)
        self._scaling: Scaling | None = None
        if scaled:
            parts = (matrices[0], gains[0], self._matrix_grads[0], gain_grads[0])
            self._scaling = Scaling(*parts, room=torch.zeros_like(matrices[0]))
        first = matrices[0] if self._scaling is None else self._scaling.scaled
        self._transposed = [matrix.t() for matrix in (first, *matrices[1:])]
        self._one = torch.ones((), device=device)
        # What each step goes through, up to the last layer and down again: looked up once.
        below = zip(hidden, self._biases, self._transposed, strict=False)
        self._up = [(rule.forward, dropout, bias, matrix) for (rule, dropout), bias, matrix in below]
        above = zip(hidden, matrices[1:], self._matrix_grads[1:], self._bias_grads[1:], strict=True)
        self._down = [(rule.backward, matrix, dw, db) for (rule, _), matrix, dw, db in above][::-1]

    @classmethod
    def of(cls, layers: nn.Sequential, loss: LossRule) -> "ChainRule | None":
        """For linear layers with an activation and perhaps dropout between them; None for anything else."""
        parts = list(layers)
        linear: list[nn.Linear] = []
        hidden: list[tuple[Activation, float]] = []
        while parts:
            layer = parts.pop(0)
            known = type(layer) is nn.Linear or (type(layer) is ScaledLinear and not linear)
            if not (known and isinstance(layer, nn.Linear) and _is_plain(layer)):
                return None
            linear.append(layer)
            if not parts:
                return cls(linear, hidden, loss)
            activation = activation_of(parts.pop(0))
            if activation is None:
                return None
            dropout = parts.pop(0) if parts and isinstance(parts[0], nn.Dropout) else None
            hidden.append((activation, dropout.p if isinstance(dropout, nn.Dropout) else 0.0))
        return None

    # ------------------------------------------------------------------ copies

    def load(
        self, optimizer: torch.optim.Optimizer, clip: Clip | None = None, averages: Sequence[Tensor] = ()
    ) -> Update | None:
        """Copy parameters, the optimizer's buffers and averages, if there are any.

        Returns the numbers of the coming steps, without the average's; None if they cannot be written out.
        """
        rule = update_of(optimizer, self.parameters, clip)
        if rule is None or not all(p.requires_grad for p in self.parameters):
            return None
        for name, parts in zip(rule.buffers, self._buffers, strict=False):
            _copy(parts, [optimizer.state[p][name] for p in self.parameters])
        _copy(self.weights, self.parameters)
        if averages:
            _copy(self._averages, averages)
        return rule

    def store(self, optimizer: torch.optim.Optimizer, rule: Update, averages: Sequence[Tensor] = ()) -> None:
        """Give parameters, buffers and averages back to the module, its optimizer and who keeps them.

        `rule` has the numbers of the step that comes next.
        """
        _copy(self.parameters, self.weights)
        if averages:
            _copy(averages, self._averages)
        for name, parts in zip(rule.buffers, self._buffers, strict=False):
            _copy([optimizer.state[p][name] for p in self.parameters], parts)
        if rule.counted is not None:
            for parameter in self.parameters:
                optimizer.state[parameter]["step"].fill_(rule.counted)

    def snapshot(self) -> list[Tensor]:
        """Copies of parameters, gradients, buffers and averages, for `restore`."""
        return [flat.clone() for flat in self._flat]

    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Put parameters, gradients, buffers and averages back."""
        _copy(self._flat, snapshot)

    def is_finite(self) -> bool:
        """Whether all parameters are finite numbers; waits for the device."""
        return bool(torch.isfinite(self._flat[0].sum()))

    # ------------------------------------------------------------------ steps

    def step(self, x: Tensor, y: Tensor, rule: Update) -> Tensor:
        """Take a mini-batch, rows `[B, F]` and targets `[B]`, through all three passes; return its mean loss before."""
        loss = self.backward(x, y)
        self.clip(rule)
        self.update(rule)
        return loss

    def backward(self, x: Tensor, y: Tensor) -> Tensor:
        """Fill `gradients`; returns the mean loss, a scalar."""
        addmm, mm = torch.addmm, torch.mm
        if self._scaling is not None:
            self._scaling.forward()
        passed = []
        h = x
        for forward, dropout, bias, matrix in self._up:
            below, z = h, addmm(bias, h, matrix)
            h = active = forward(z)
            noise = None
            if dropout:  # as torch draws it on a CPU
                noise = torch.empty_like(active).bernoulli_(1 - dropout).div_(1 - dropout)
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
        if self._scaling is not None:
            self._scaling.backward()
        return loss

    def clip(self, rule: Update) -> None:
        """Clip the gradients, as `torch.nn.utils.clip_grad_norm_` and `clip_grad_value_` do."""
        if rule.clip is None:
            return
        gradients = self._flat[1]
        if rule.clip.by_value:
            gradients.clamp_(-rule.clip.most, rule.clip.most)
        else:
            norm = get_total_norm(self.gradients)
            gradients.mul_(torch.clamp(rule.clip.most / (norm + 1e-6), max=1.0))

    def clipped_together(self, parameters: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """Return the parameters whose gradients have one norm."""
        return [parameters]

    def update(self, rule: Update) -> None:
        """Let the optimizer use the gradients, and the average follow."""
        weights, grads, averages, first, second = self._flat
        rule.apply(weights, grads, first, second)
        if rule.average_rate:
            averages.add_(weights - averages, alpha=rule.average_rate)

    # ------------------------------------------------------------------ the check

    def agrees(self, x: Tensor, y: Tensor, rule: Update, loss: Callable[[], Tensor], seed: Callable[[], None]) -> bool:
        """Whether a step from what was loaded is, to the bit, that of autograd and the optimizer on a module's `loss`.

        Neither the module nor what was loaded changes. Products of matrices may depend on the number of rows, so
        each number of rows is to be checked once. `seed` is called before each pass, for dropout.
        """
        parameters = [p.detach().clone() for p in self.parameters]
        buffers = [[each.clone() for each in parts] for parts in self._buffers]
        averages = [a.clone() for a in self._averages]
        kept = self.snapshot()
        seed()
        with torch.enable_grad():
            wanted = loss()
            grads = torch.autograd.grad(wanted, self.parameters)
        if rule.clip is not None:
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad
            for together in self.clipped_together(parameters):
                (clip_grad_value_ if rule.clip.by_value else clip_grad_norm_)(together, rule.clip.most)
        rule.by_torch(parameters, list(grads), *buffers)
        for average, parameter in zip(averages, parameters, strict=True):
            average.add_(parameter - average, alpha=rule.average_rate)
        seed()
        found = self.step(x, y, rule)
        pairs = [(found, wanted), *zip(self.weights, parameters, strict=True)]
        pairs += zip(self._averages, averages, strict=True)
        for _, ours, torchs in zip(rule.buffers, self._buffers, buffers, strict=False):
            pairs += zip(ours, torchs, strict=True)
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
