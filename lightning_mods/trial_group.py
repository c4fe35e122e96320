"""`TrialGroup`: fits of one MLP that differ in their rates, trained as one batched model; each as it would be alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_mods.trial_group_losses import GroupLoss
from lightning_mods.trial_group_network import GroupNetwork, Rates

Batch = tuple[Tensor, Tensor]
_FLUSH = 64  # steps whose losses are summed up at once


class Learner(Protocol):
    """What a group needs of a module, see `MLPModule`."""

    nesterov: bool

    @property
    def metric_names(self) -> Sequence[str]:
        """Names of all metrics but the loss."""

    def loss_weight(self, y: Tensor) -> Tensor | int:
        """How much a batch's mean loss counts."""

    def logged_loss(self, loss: Tensor) -> Tensor:
        """The loss as it is logged."""

    def predictions(self, outputs: Tensor) -> Tensor:
        """What the outputs mean."""

    def scores(
        self, predictions: Sequence[Tensor], targets: Sequence[Tensor], names: Sequence[str]
    ) -> dict[str, Tensor]:
        """Metrics `[T]` of some names, from the batches' predictions `[T, B, ...]` and targets `[B]`."""


class TrialGroup:
    """Fits from the same weights on the same batches, a learning rate, momentum, weight decay and dropout each.

    Curves and weights are, to the last bit, those of Lightning's fit of the module on one thread.

    Args:
        learner: The module.
        layers: Its layers, with the weights to begin with.
        loss: Its loss.
        rates: One for each trial.
        train: Loader of the training batches; its sampler has `set_epoch`.
        val: Loader of the validation batches, or an empty list.
        seed_of: Seed of the dropout, by epoch and batch.
        monitor: Name of the metric by which an epoch is the best.
        high: Whether it is good when it is high.
        curves: Further metrics that are wanted of every epoch.

    Raises:
        ValueError: A monitor that is not logged.

    Attributes:
        rates: As they were given.
        curves: For each trial, name to one number an epoch.
        epochs: Epochs done.
        there: The trials that are still trained, by their number from 0.
    """

    def __init__(
        self,
        learner: Learner,
        layers: nn.Sequential,
        loss: GroupLoss,
        rates: Sequence[Rates],
        *,
        train: DataLoader[Batch],
        val: "DataLoader[Batch] | list[Batch]",
        seed_of: Callable[[int, int], int | None],
        monitor: str = "val_loss",
        high: bool = False,
        curves: Sequence[str] = (),
    ) -> None:
        self._learner, self._loss, self._train, self._val, self._seed_of = learner, loss, train, val, seed_of
        self._network = GroupNetwork(layers, rates, loss, nesterov=learner.nesterov)
        self._monitor, self._high = monitor, high
        names = learner.metric_names
        if monitor != "val_loss" and monitor.removeprefix("val_") not in names:
            raise ValueError(f"monitor must be val_loss or one of {', '.join(names)} with val_, not {monitor}.")
        self._wanted = [name for name in names if f"val_{name}" in {monitor, *curves}]
        self.rates = list(rates)
        self.curves: list[dict[str, list[float]]] = [{} for _ in rates]
        self.there = list(range(len(rates)))
        self.epochs = 0
        self._best = torch.full((len(rates),), float("nan"), dtype=torch.float64)
        self._best_flat = self._network.flat.clone()
        self.best_epochs: list[int | None] = [None] * len(rates)

    def run(self, epochs: int) -> None:
        """Train until so many epochs are done; on one thread, where alone the numbers are those of each by itself."""
        with torch.no_grad(), _one_thread():
            while self.epochs < epochs:
                found = self._train_epoch(self.epochs)
                found |= self._evaluate()
                for place, trial in enumerate(self.there):
                    for name, values in found.items():
                        self.curves[trial].setdefault(name, []).append(float(values[place]))
                self._note_best(found)
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
        """Weight and bias of each layer of a trial that is there."""
        place = self.there.index(trial)
        return [part[place].clone() for part in self._network.parts(self._network.flat)]

    # ------------------------------------------------------------------ an epoch

    def _train_epoch(self, epoch: int) -> dict[str, Tensor]:
        self._train.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        sums = _LossSums(self._learner, self._loss)
        for index, (x, y) in enumerate(self._train):
            sums.add(self._network.step(x, y, self._seed_of(epoch, index)), y)
        return {"train_loss": self._learner.logged_loss(sums.mean())}

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
        """All that would be logged of a trial's best epoch, by name; empty if there is none."""
        epoch = self.best_epochs[trial]
        if epoch is None:
            return {}
        found = {name: values[epoch] for name, values in self.curves[trial].items()}
        missing = [name for name in self._learner.metric_names if f"val_{name}" not in found] if self._val else []
        if missing:
            network = self._network.alone(self._best_flat[trial])
            outputs = [(self._predictions(network.outputs(x)), y) for x, y in self._val]
            scores = self._learner.scores([p for p, _ in outputs], [y for _, y in outputs], missing)
            found |= {f"val_{name}": float(value) for name, value in scores.items()}
        return found


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _LossSums:
    """The mean of the training loss over an epoch, as the module sums it up."""

    def __init__(self, learner: Learner, loss: GroupLoss) -> None:
        self._learner, self._loss = learner, loss
        self._terms: list[Tensor] = []
        self._ys: list[Tensor] = []
        self._total: Tensor | None = None
        self._weight: Tensor | float = 0.0

    def add(self, terms: Tensor, y: Tensor) -> None:
        """A step: what its loss is made of, and its targets `[B]`."""
        if self._terms and (len(self._terms) >= _FLUSH or len(self._ys[-1]) != len(y)):
            self._flush()
        self._terms.append(terms)
        self._ys.append(y)

    def _flush(self) -> None:
        losses = self._loss.values(torch.stack(self._terms), torch.stack(self._ys))
        weights = [self._learner.loss_weight(y) for y in self._ys]
        for loss, weight in zip(losses, weights, strict=True):
            self._total = loss * weight if self._total is None else self._total + loss * weight
            self._weight = self._weight + weight
        self._terms, self._ys = [], []

    def mean(self) -> Tensor:
        """The mean so far, `[T]`."""
        self._flush()
        assert self._total is not None
        return self._total / self._weight
