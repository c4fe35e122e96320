"""`GroupNetwork`: many copies of one MLP as stacked parameters, trained by SGD with the chain rule written out."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from lightning_mods.layer_rules import activation_of
from lightning_mods.trial_group_activations import GroupActivation
from lightning_mods.trial_group_losses import GroupLoss
from lightning_mods.trial_group_products import Linear, as_aligned, shaped

_ALIGNED = 32  # floats, as in `aligned`
MOST = 16  # trials at once: by then there is nothing left of the costs that they share
LARGE = 1e9  # floating-point operations of a step from which several threads are worth their while, as in `threads`
CACHE = 7_000_000  # bytes that a step may go over: beyond a processor's own cache, trials get in each other's way


RATES = ("lr", "momentum", "weight_decay", "dropout")


@dataclass(frozen=True)
class Rates:
    """What may differ between the trials of a group: see `MLPModule` for the numbers."""

    lr: float
    momentum: float
    weight_decay: float
    dropout: float


class GroupNetwork:
    """T copies of an MLP. Each of them trains, to the last bit, as it would alone with autograd and `torch.optim.SGD`.

    The operations are those of autograd and SGD in their order, each on all trials at once; where a batched product
    of matrices would round differently there is a loop. That holds on one thread.

    Args:
        layers: Linear layers with an activation and perhaps dropout between them: the weights all trials begin with.
        rates: One for each trial.
        loss: What is minimised.
        nesterov: Nesterov's momentum, for all.
    """

    def __init__(self, layers: nn.Sequential, rates: Sequence[Rates], loss: GroupLoss, *, nesterov: bool) -> None:
        linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
        found = [activation_of(layer) for layer in layers if not isinstance(layer, nn.Linear | nn.Dropout)]
        self._activations = [GroupActivation(each) for each in found if each is not None]
        self._loss, self._nesterov = loss, nesterov
        parameters = [p.detach() for layer in linear for p in (layer.weight, layer.bias)]
        self.shapes = [p.shape for p in parameters]
        room = [-(-shape.numel() // _ALIGNED) * _ALIGNED for shape in self.shapes]
        self._starts = [0, *accumulate(room)]
        self._begun = False  # SGD's first momentum is the gradient
        self._draw = torch.Generator()
        flat = [torch.zeros(len(rates), self._starts[-1]) for _ in range(3)]
        self._take(rates, *flat)
        for part, parameter in zip(self.parts(flat[0]), parameters, strict=True):
            part.copy_(parameter.expand_as(part))

    def _take(self, rates: Sequence[Rates], weights: Tensor, grads: Tensor, momenta: Tensor) -> None:
        self.rates = list(rates)
        self.flat, self._grads, self._momenta = weights, grads, momenta
        self._layers: dict[int, list[Linear]] = {}  # by rows
        self._minus_lr, self._momentum, self._decay = (
            torch.tensor(column).unsqueeze(1)
            for column in zip(*((-r.lr, r.momentum, r.weight_decay) for r in rates), strict=True)
        )
        self._decays, self._moves = any(r.weight_decay for r in rates), any(r.momentum for r in rates)

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Flat parameters `[T, P]` as weights `[T, O, I]` and biases `[T, O]`, layer by layer; views."""
        pairs = zip(self._starts, self.shapes, strict=False)
        return [shaped(flat[:, at : at + shape.numel()], shape) for at, shape in pairs]

    def keep(self, trials: Sequence[int]) -> None:
        """Go on with some of the trials; the others leave."""
        at = torch.tensor(trials)
        self._take([self.rates[t] for t in trials], self.flat[at], self._grads[at], self._momenta[at])

    def alone(self, flat: Tensor) -> "GroupNetwork":
        """A network of one trial with these parameters `[P]`, to ask for outputs."""
        twin = copy.copy(self)
        nothing = torch.zeros(1, 0)
        twin._take(self.rates[:1], flat.clone().unsqueeze(0), flat.clone().unsqueeze(0), nothing)
        return twin

    # ------------------------------------------------------------------ steps

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs `[T, B, out_features]` for rows `[B, in_features]`, without dropout."""
        h = x
        layers = self._layers_for(len(x))
        for activation, layer in zip(self._activations, layers, strict=False):
            h = as_aligned(activation.forward(layer.forward(h)))
        return layers[-1].forward(h)

    def step(self, x: Tensor, y: Tensor, seed: int | None) -> Tensor:
        """One mini-batch for all: forward, backward, update.

        Args:
            x: Rows, `[B, F]`.
            y: Targets, `[B]`.
            seed: Of the dropout.

        Returns:
            What makes up the loss before the update; see `GroupLoss.values`.
        """
        layers = self._layers_for(len(x))
        noises = self._noises(len(x), seed)
        below, sums, values = [x], [], []
        for activation, layer, noise in zip(self._activations, layers, noises, strict=False):
            z = layer.forward(below[-1])
            h = activation.forward(z)
            sums.append(z)
            values.append(h)
            below.append(as_aligned(h if noise is None else h * noise))
        compared = self._loss.compared(layers[-1].forward(below[-1]), y)
        grad = as_aligned(self._loss.gradient(compared, y))
        layers[-1].gradients(grad, below[-1])
        for i in range(len(sums) - 1, -1, -1):
            grad = layers[i + 1].input_gradient(grad)
            if (noise := noises[i]) is not None:
                grad = grad.mul_(noise)
            grad = self._activations[i].backward(grad, sums[i], values[i])
            layers[i].gradients(grad, below[i])
        self._update()
        return compared

    def _update(self) -> None:
        # `addcmul` rounds once, as SGD's `add` with `alpha` does; a product of its own would round twice.
        grads = self._grads
        if self._decays:
            grads.addcmul_(self.flat, self._decay)
        if self._moves:
            if self._begun:
                self._momenta.mul_(self._momentum).add_(grads)
            else:
                self._momenta.copy_(grads)
            grads = grads.addcmul_(self._momenta, self._momentum) if self._nesterov else self._momenta
        self._begun = True
        self.flat.addcmul_(grads, self._minus_lr)

    def _layers_for(self, rows: int) -> list[Linear]:
        if rows not in self._layers:
            weights, grads = self.parts(self.flat), self.parts(self._grads)
            pairs = zip(weights[0::2], weights[1::2], grads[0::2], grads[1::2], strict=True)
            self._layers[rows] = [
                Linear(w, b, weight_grads=dw, bias_grads=db, rows=rows, first=i == 0)
                for i, (w, b, dw, db) in enumerate(pairs)
            ]
        return self._layers[rows]

    def _noises(self, rows: int, seed: int | None) -> Sequence[Tensor | None]:
        """What each hidden layer's values are multiplied by, drawn as torch draws it for a trial alone."""
        widths = [shape[0] for shape in self.shapes[0:-2:2]]
        shares = {r.dropout for r in self.rates}
        if not any(shares) or not widths:
            return [None] * len(widths)
        drawn: dict[float, list[Tensor]] = {}
        for p in shares:
            if seed is not None:
                self._draw.manual_seed(seed)
            drawn[p] = [
                torch.empty(rows, width).bernoulli_(1 - p, generator=self._draw).div_(1 - p)
                if p
                else torch.ones(rows, width)
                for width in widths
            ]
        if len(shares) == 1:
            return drawn[self.rates[0].dropout]
        return [torch.stack([drawn[r.dropout][i] for r in self.rates]) for i in range(len(widths))]


def worth_together(shapes: Sequence[Sequence[int]], rows: int) -> int:
    """How many trials of a network are worth training at once; 1 where each alone fills a core, 0 where several.

    Args:
        shapes: Of its parameters.
        rows: Rows of a mini-batch.
    """
    # Forward, and backward to the inputs and to the weights: three products of 2 · parameters · rows each.
    if 6 * rows * sum(math.prod(shape) for shape in shapes) >= LARGE and torch.get_num_threads() > 1:
        return 0
    # What a step goes over: weights, gradients and momenta, and the hidden values with their gradients.
    numbers = 3 * sum(math.prod(shape) for shape in shapes) + 3 * rows * sum(shape[0] for shape in shapes[0::2])
    return max(1, min(MOST, CACHE // (4 * numbers)))
