"""`TrialGroup`: fits of one MLP that differ in their rates, trained as one batched model; each as it would be alone."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lightning_mods.models.average import average_rate
from lightning_mods.models.fused.chain_rule import LossRule, Scaling, activation_of, by_layer, starts
from lightning_mods.models.fused.group_ops import (
    GroupActivation,
    GroupLoss,
    GroupLossSums,
    Linear,
    aligned,
    as_aligned,
    group_loss,
    shaped,
)
from lightning_mods.models.fused.group_updates import Buffers, OwnOptimizers, Rates, take_step
from lightning_mods.models.fused.steps import Learner, mixed_seed
from lightning_mods.models.fused.updates import Clip, Sgd, Update
from lightning_mods.models.scaling import ScaledLinear
from lightning_mods.models.schedule import cosine

MOST = 16  # trials at once: by then there is nothing left of the costs that they share
# Floating-point operations of a step below which a second thread costs more than it gives: it takes part in products
# of some microseconds each, and waits between them. 1e9 are about 11 ms of one core.
SMALL_STEP = 1e9
CACHE = 7_000_000  # bytes that a step may go over: beyond a processor's own cache, trials get in each other's way

Batch = tuple[Tensor, Tensor]
RATES = ("lr", "momentum", "weight_decay", "dropout")
LR = "lr"  # the curve of each epoch's first learning rate


class GroupNetwork:
    """T copies of an MLP. Each of them trains, to the last bit, as it would alone with autograd and torch's optimizer.

    The operations are those of autograd and the optimizer in their order, each on all trials at once; where a batched
    product of matrices would round differently there is a loop. That holds on one thread. All begin with the weights
    of `layers`: linear layers with an activation and perhaps dropout between them.
    """

    def __init__(
        self,
        layers: nn.Sequential,
        rates: Sequence[Rates],
        loss: GroupLoss,
        *,
        rule: Update,  # of the steps, but for the rates
        averages: bool = False,  # whether the average of the weights is kept
    ) -> None:
        linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
        found = [activation_of(layer) for layer in layers if not isinstance(layer, nn.Linear | nn.Dropout)]
        self._activations = [GroupActivation(each) for each in found if each is not None]
        self._loss, self._rule = loss, rule
        self._scaled = isinstance(linear[0], ScaledLinear)
        parameters = [p.detach() for layer in linear for p in layer.parameters()]
        self.shapes = [p.shape for p in parameters]
        self._starts = starts(self.shapes)
        self._taken = 0  # steps
        self._draw = torch.Generator()
        weights = torch.zeros(len(rates), self._starts[-1])
        for part, parameter in zip(self.parts(weights), parameters, strict=True):
            part.copy_(parameter.expand_as(part))
        kept = [torch.zeros_like(weights) if len(rule.buffers) > at else torch.zeros(len(rates), 0) for at in (0, 1)]
        self._take(rates, Buffers(weights, torch.zeros_like(weights), *kept), weights.clone() if averages else None)

    def _take(self, rates: Sequence[Rates], buffers: Buffers, averages: Tensor | None) -> None:
        self.rates = list(rates)
        self._buffers, self._averages = buffers, averages
        weights, grads, *_ = buffers
        self._layers: dict[int, list[Linear]] = {}  # by rows
        self._scaling: Scaling | None = None
        if self._scaled:
            found = [by_layer(self.parts(flat), scaled=True) for flat in (weights, grads)]
            parts = [part for matrices, _, gains in found for part in (matrices[0], gains[0])]
            self._scaling = Scaling(*parts, room=aligned(*parts[0].shape))

    @property
    def flat(self) -> Tensor:
        """Return the parameters of all trials, `[T, P]`."""
        return self._buffers.weights

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Flat parameters `[T, P]` as the layers have them: weights `[T, O, I]`, biases `[T, O]` and so on; views."""
        pairs = zip(self._starts, self.shapes, strict=False)
        return [shaped(flat[:, at : at + shape.numel()], shape) for at, shape in pairs]

    def keep(self, trials: Sequence[int]) -> None:
        """Go on with some of the trials; the others leave."""
        at = torch.tensor(trials)
        averages = None if self._averages is None else self._averages[at]
        self._take([self.rates[t] for t in trials], Buffers(*(each[at] for each in self._buffers)), averages)

    def state(self) -> list[Tensor]:
        """Return the parameters and gradients, `[T, P]` each, flat."""
        return [self._buffers.weights, self._buffers.grads]

    def alone(self, flat: Tensor) -> "GroupNetwork":
        """Make a network of one trial with these parameters `[P]`, to ask for outputs."""
        twin = copy.copy(self)
        nothing = torch.zeros(1, 0)
        twin._take(self.rates[:1], Buffers(flat[None].clone(), flat[None].clone(), nothing, nothing), None)
        return twin

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the weights are their averages, where these are kept."""
        if self._averages is None:
            yield
            return
        trained = self.flat.clone()
        self.flat.copy_(self._averages)
        try:
            yield
        finally:
            self.flat.copy_(trained)

    # ------------------------------------------------------------------ steps

    def outputs(self, x: Tensor) -> Tensor:
        """Return outputs `[T, B, out_features]` for rows `[B, in_features]`, without dropout."""
        h = x
        if self._scaling is not None:
            self._scaling.forward()
        layers = self._layers_for(len(x))
        for activation, layer in zip(self._activations, layers, strict=False):
            h = as_aligned(activation.forward(layer.forward(h)))
        return layers[-1].forward(h)

    def step(self, x: Tensor, y: Tensor, seed: int, average_rate: float) -> Tensor:
        """Take a mini-batch, rows `[B, F]` and targets `[B]`, forward, backward and update for all.

        Returns what makes up the loss before the update, see `GroupLoss.values`.
        """
        compared = self.backward(x, y, seed)
        self.clip(self._rule.clip)
        self._taken += 1
        take_step(self._rule, self.rates, self._taken, self._buffers)
        if self._averages is not None:
            self._averages.add_(self.flat - self._averages, alpha=average_rate)
        return compared

    def backward(self, x: Tensor, y: Tensor, seed: int) -> Tensor:
        """Take a mini-batch forward and backward, but for the update; returns what `step` returns."""
        if self._scaling is not None:
            self._scaling.forward()
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
        if self._scaling is not None:
            self._scaling.backward()
        return compared

    def clip(self, rule: Clip | None) -> None:
        """Clip each trial's gradients, as `ChainRule.clip` does those of one."""
        grads = self._buffers.grads
        if rule is None:
            return
        if rule.by_value:
            grads.clamp_(-rule.most, rule.most)
            return
        norms = [torch.linalg.vector_norm(part.flatten(1), dim=1) for part in self.parts(grads)]
        norm = torch.linalg.vector_norm(torch.stack(norms, dim=1), dim=1)
        grads.mul_(torch.clamp(rule.most / (norm + 1e-6), max=1.0).unsqueeze(1))

    def _layers_for(self, rows: int) -> list[Linear]:
        if rows not in self._layers:
            weights, biases, _ = by_layer(self.parts(self.flat), scaled=self._scaled)
            weight_grads, bias_grads, _ = by_layer(self.parts(self._buffers.grads), scaled=self._scaled)
            weights[0] = weights[0] if self._scaling is None else self._scaling.scaled
            pairs = zip(weights, biases, weight_grads, bias_grads, strict=True)
            self._layers[rows] = [Linear(*each, rows=rows, first=i == 0) for i, each in enumerate(pairs)]
        return self._layers[rows]

    def _noises(self, rows: int, seed: int) -> Sequence[Tensor | None]:
        """Return what each hidden layer's values are multiplied by, drawn as torch draws it for a trial alone."""
        widths = _widths(self.shapes)[:-1]
        shares = {r.dropout for r in self.rates}
        if not any(shares) or not widths:
            return [None] * len(widths)
        drawn: dict[float, list[Tensor]] = {}
        for p in shares:
            self._draw.manual_seed(seed)
            draws = [torch.ones(rows, width) for width in widths]
            drawn[p] = [each.bernoulli_(1 - p, generator=self._draw).div_(1 - p) for each in draws] if p else draws
        if len(shares) == 1:
            return drawn[self.rates[0].dropout]
        return [torch.stack([drawn[r.dropout][i] for r in self.rates]) for i in range(len(widths))]


def _widths(shapes: Iterable[Sequence[int]]) -> list[int]:
    """The outputs of each layer, from the shapes of its parameters."""
    return [shape[0] for shape in shapes if len(shape) > 1]


def step_operations(shapes: Iterable[Sequence[int]], rows: int) -> int:
    """Return the floating-point operations of a step with parameters of these shapes and so many rows.

    Forward, and backward to the inputs and to the weights: three products of 2 · parameters · rows each.
    """
    return 6 * rows * sum(map(math.prod, shapes))


def worth_together(shapes: Sequence[Sequence[int]], rows: int) -> int:
    """Return how many trials are worth training at once, with parameters of these shapes and so many rows a mini-batch.

    1 where each alone fills a core, 0 where it fills several.
    """
    if step_operations(shapes, rows) >= SMALL_STEP and torch.get_num_threads() > 1:
        return 0
    # What a step goes over: weights, gradients and momenta, and the hidden values with their gradients.
    numbers = 3 * sum(math.prod(shape) for shape in shapes) + 3 * rows * sum(_widths(shapes))
    return max(1, min(MOST, CACHE // (4 * numbers)))


class TrialGroup:
    """Fits from the same weights on the same batches, a learning rate, momentum, weight decay and dropout each.

    Curves and weights are, to the last bit, those of Lightning's fit of the module on one thread.
    """

    def __init__(
        self,
        module: Any,  # satisfies `Learner`, and has the layers of an MLP in `network.layers`, to begin with
        rule: LossRule,
        rates: Sequence[Mapping[str, float]],  # of each trial, by name, what differs from the module's own
        *,
        seed: int,  # of the run's dropout
        train: DataLoader[Batch],  # its sampler has `set_epoch`
        val: "DataLoader[Batch] | list[Batch]",
        monitor: str = "val_loss",  # by which an epoch is the best
        high: bool = False,  # whether it is good when it is high
        curves: Sequence[str] = (),  # further metrics that are wanted of every epoch
        max_epochs: int = 0,  # of the fits: when their schedule ends
        clip: Clip | None = None,
        optimizers: Sequence[tuple[Optimizer, Any]] | None = None,  # of each trial its own, see `OwnOptimizers`
    ) -> None:
        learner: Learner = module
        self._learner, self._loss = learner, group_loss(rule)
        self._train, self._val, self._seed = train, val, seed
        own = {name: getattr(module, name) for name in RATES}
        self.rates = [Rates(**{**own, **each}) for each in rates]
        self._optimizers = None if optimizers is None else OwnOptimizers(optimizers, clip)
        plain = Sgd(0.0, 0.0, clip, 0.0, max(r.momentum for r in self.rates), learner.nesterov)
        self._network = GroupNetwork(
            module.network.layers,
            self.rates,
            self._loss,
            rule=plain if self._optimizers is None else self._optimizers.rule,
            averages=learner.ema_epochs > 0,
        )
        self._names = [f"network.{name}" for name, _ in module.network.named_parameters()]
        falls = learner.lr_schedule == "cosine" and optimizers is None
        self._steps = max_epochs * len(train) if falls else 0
        self._monitor, self._high = monitor, high
        names = learner.metric_names
        if monitor != "val_loss" and monitor.removeprefix("val_") not in names:
            raise ValueError(f"monitor must be val_loss or one of {', '.join(names)} with val_, not {monitor}.")
        self._wanted = [name for name in names if f"val_{name}" in {monitor, *curves}]
        self.curves: list[dict[str, list[float]]] = [{} for _ in rates]  # name to one number an epoch
        self.there = list(range(len(rates)))  # the trials that are still trained
        self.epochs = 0
        self._best = torch.full((len(rates),), float("nan"), dtype=torch.float64)
        self._best_flat = self._network.flat.clone()
        self.best_epochs: list[int | None] = [None] * len(rates)

    def run(self, epochs: int) -> None:
        """Train until so many epochs are done; on one thread, where alone the numbers are those of each by itself."""
        with torch.no_grad(), _one_thread():
            while self.epochs < epochs:
                found = self._train_epoch(self.epochs)
                with self._network.averaged():
                    found |= self._evaluate()
                    self._note_best(found)
                if self._optimizers is not None:
                    self._optimizers.end_epoch()
                for place, trial in enumerate(self.there):
                    for name, values in found.items():
                        self.curves[trial].setdefault(name, []).append(float(values[place]))
                self.epochs += 1

    def keep(self, trials: Sequence[int]) -> None:
        """Go on with some of the trials, given by their number; the others leave the batch."""
        if list(trials) == self.there:
            return
        places = [self.there.index(trial) for trial in trials]
        self.there = list(trials)
        if trials:
            self._network.keep(places)

    def weights(self, trial: int) -> list[Tensor]:
        """Return weight and bias of each layer of a trial that is there, averaged where averages are kept."""
        place = self.there.index(trial)
        with self._network.averaged():
            return [part[place].clone() for part in self._network.parts(self._network.flat)]

    # ------------------------------------------------------------------ an epoch

    def _train_epoch(self, epoch: int) -> dict[str, Tensor]:
        self._train.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        sums, first = GroupLossSums(self._learner, self._loss), epoch * len(self._train)
        rates = self._rates(first)
        horizon = self._learner.ema_epochs * len(self._train)
        for index, (x, y) in enumerate(self._train):
            seed = mixed_seed(mixed_seed(self._seed, epoch), index)
            self._network.rates = self._rates(first + index) if self._steps else rates
            rate = average_rate(first + index, horizon) if horizon else 0.0
            sums.add(self._network.step(x, y, seed, rate), y)
        lrs = torch.tensor([each.lr for each in rates], dtype=torch.float64)
        return {LR: lrs, "train_loss": self._learner.logged_loss(sums.mean())}

    def _rates(self, step: int) -> list[Rates]:
        rates = self.rates
        if self._optimizers is not None:
            rates = self._optimizers.rates([each.dropout for each in rates])
        factor = cosine(step / self._steps) if self._steps else 1.0
        return [replace(rates[trial], lr=rates[trial].lr * factor) for trial in self.there]

    def _evaluate(self) -> dict[str, Tensor]:
        if not self._val:
            return {}
        sums = torch.zeros(2, len(self.there))
        predictions, targets = [], []
        for x, y in self._val:
            outputs = self._network.outputs(x)
            terms = self._loss.compared(outputs, y)
            weight = self._learner.loss_weight(y)
            sums[0] += self._loss.values(terms[None], y[None])[0] * weight
            sums[1] += weight
            if self._wanted:
                predictions.append(self._predictions(outputs))
                targets.append(y)
        found = {"val_loss": self._learner.logged_loss(sums[0] / sums[1])}
        if self._wanted:
            scores = self._learner.scores(predictions, targets, self._wanted)
            found |= {f"val_{name}": value for name, value in scores.items()}
        return found

    def _predictions(self, outputs: Tensor) -> Tensor:
        rows = self._learner.predictions(outputs.reshape(-1, outputs.shape[-1]))
        return rows.reshape(*outputs.shape[:2], *rows.shape[1:])

    # ------------------------------------------------------------------ the best

    def _note_best(self, found: Mapping[str, Tensor]) -> None:
        value = found[self._monitor].double()
        best = self._best[self.there]
        better = (value > best if self._high else value < best) | best.isnan()
        better &= value.isfinite()
        at = torch.tensor(self.there)[better]
        self._best[at] = value[better]
        self._best_flat[at] = self._network.flat[better]
        for trial in at.tolist():
            self.best_epochs[trial] = self.epochs

    @torch.no_grad()
    def best_metrics(self, trial: int) -> dict[str, float]:
        """Return all that would be logged of a trial's best epoch, by name; empty if there is none."""
        epoch = self.best_epochs[trial]
        if epoch is None:
            return {}
        found = {name: values[epoch] for name, values in self.curves[trial].items() if name != LR}
        missing = [name for name in self._learner.metric_names if f"val_{name}" not in found] if self._val else []
        if missing:
            network = self._network.alone(self._best_flat[trial])
            outputs = [(self._predictions(network.outputs(x)), y) for x, y in self._val]
            scores = self._learner.scores([p for p, _ in outputs], [y for _, y in outputs], missing)
            found |= {f"val_{name}": float(value) for name, value in scores.items()}
        return found

    def best_weights(self, trial: int) -> dict[str, Tensor]:
        """Return the module's parameters in a trial's best epoch by name; nothing if there is none."""
        if self.best_epochs[trial] is None:
            return {}
        parts = self._network.parts(self._best_flat[trial].unsqueeze(0))
        return {name: part[0].clone() for name, part in zip(self._names, parts, strict=True)}


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
