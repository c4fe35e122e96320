"""`FastSteps`: takes most training steps of an MLP between two that pass through Lightning's loop.

Lightning's loop costs as much as the arithmetic of many small steps. So, before the loop is handed a mini-batch, those
that nobody asked to see are trained here, by the chain rule written out, and counted as the loop would count them.
The mini-batch that is handed out goes through every hook, with autograd, `.grad` and all. As both ways give the same
numbers, it makes no difference which steps go which way, nor where a run is interrupted.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from callbacks.host import few, say
from callbacks.host.packages import Callback, LightningModule, Trainer, kinds
from lightning_mods.models.average import WeightAverage
from lightning_mods.models.fused.chain_rule import ChainRule
from lightning_mods.models.fused.lightning_internals import batches_done, count_steps, is_known
from lightning_mods.models.fused.limits import (
    Hooks,
    LooksNowAndThen,
    Readings,
    ReadsGradients,
    SkippedSteps,
    limit_of,
    loop_limit,
)
from lightning_mods.models.fused.schedules import Course, step_schedule
from lightning_mods.models.fused.updates import Clip, Update, is_known_optimizer

LossSums = tuple[Tensor | float, Tensor | float]
"""Of the losses of an epoch, each times its weight; and of the weights."""


def mixed_seed(seed: int, value: int) -> int:
    """Return a 63-bit seed from a seed and a number (splitmix64's finaliser: neighbours come out unrelated)."""
    z = (seed * 0x9E3779B97F4A7C15 + value + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) % 2**63


def seed_batch(module: Any, seed: int | None, batch_idx: int) -> None:
    """Let the dropout of a mini-batch draw from a seed of its own: a function of (run, rank, epoch, batch)."""
    if module.dropout > 0 and seed is not None:
        of_epoch = mixed_seed(mixed_seed(seed, module.global_rank), module.current_epoch)
        torch.manual_seed(mixed_seed(of_epoch, batch_idx))


def add_loss(sums: LossSums, loss: Tensor, weight: Tensor | int) -> LossSums:
    """Add a mini-batch's mean loss to the sums over the epoch."""
    return sums[0] + loss * weight, sums[1] + weight


def add_losses(sums: LossSums, losses: Tensor, weights: Sequence[Tensor | int]) -> LossSums:
    """Add the losses `[K]` of some mini-batches, to the bit as if `add_loss` had added one after the other."""
    if losses.device.type != "cpu" or not all(isinstance(weight, int) for weight in weights):
        for loss, weight in zip(losses, weights, strict=True):
            sums = add_loss(sums, loss, weight)
        return sums
    found = losses.numpy()
    terms = found * np.array(weights, dtype=found.dtype)
    start = np.asarray(sums[0], dtype=terms.dtype).reshape(1)
    # One after the other in float32; `sum` and `cumsum` add in another order or in double.
    total = np.add.accumulate(np.concatenate([start, terms]))[-1]
    return torch.tensor(total), sums[1] + sum(weights)


WARM_UP = 3  # steps before a capture, as https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs asks for


class GraphedSteps:
    """Steps over mini-batches of one shape on the GPU; the gradients come from a graph, with one clipping for all.

    What differs from step to step, the learning rate and the average's, is outside of it. Nothing of the chain changes.
    """

    def __init__(self, chain: ChainRule, x: Tensor, y: Tensor, rule: Update) -> None:
        self._chain, self.clip = chain, rule.clip
        self.rows = len(x)
        self._x, self._y = x.clone(), y.clone()
        before = chain.snapshot()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                chain.step(self._x, self._y, rule)
        torch.cuda.current_stream().wait_stream(stream)
        chain.restore(before)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = chain.backward(self._x, self._y)
            chain.clip(rule)
        chain.restore(before)
        self.agrees = self._check(rule, before)

    def step(self, x: Tensor, y: Tensor, rule: Update) -> Tensor:
        """One mini-batch; its mean loss before the update."""
        self._x.copy_(x)
        self._y.copy_(y)
        self._graph.replay()
        self._chain.update(rule)
        return self._loss.clone()

    def _check(self, rule: Update, before: list[Tensor]) -> bool:
        """Whether a replay is, bit for bit, the step launched kernel by kernel."""
        chain, x, y = self._chain, self._x.clone(), self._y.clone()
        found = [self.step(x, y, rule), *chain.snapshot()]
        chain.restore(before)
        wanted = [chain.step(x, y, rule), *chain.snapshot()]
        chain.restore(before)
        return all(map(torch.equal, found, wanted))


SECONDS = 0.1  # that steps may go on without the loop: Ctrl-C and a time limit are heard in between

Rows = tuple[Tensor, Tensor]


@runtime_checkable
class Loader(Protocol):
    """Hands out mini-batches, and lets somebody else have some before it hands one out."""

    ahead: Callable[[], None] | None
    is_weighted: bool  # whether rows count differently, which is not written out here

    def coming(self, n: int) -> Sequence[Tensor]:
        """The row numbers of the next n mini-batches, fewer at an epoch's end; empty if it cannot tell."""

    def gather_each(self, batches: Sequence[Tensor], device: torch.device) -> Iterator[Rows]:
        """The rows of each of some mini-batches, on the device."""

    def move_on(self, n: int) -> None:
        """Take n mini-batches for handed out."""


class Learner(Protocol):
    """What steps and groups need of a module, see `MLPModule`."""

    losses: LossSums
    network: Callable[[Tensor], Tensor]
    nesterov: bool
    lr_schedule: str
    ema_epochs: float
    average: WeightAverage | None

    @property
    def metric_names(self) -> Sequence[str]:
        """Names of all metrics but the loss."""

    def chain_rule(self) -> ChainRule | None:
        """Return the training step written out; None if that is not known."""

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the loss to minimise."""

    def loss_weight(self, y: Tensor) -> Tensor | int:
        """Return how much a mini-batch's mean loss counts."""

    def logged_loss(self, loss: Tensor) -> Tensor:
        """Return the loss as it is logged."""

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return what the outputs mean."""

    def scores(
        self, predictions: Sequence[Tensor], targets: Sequence[Tensor], names: Sequence[str]
    ) -> dict[str, Tensor]:
        """Return metrics `[T]` of some names, from the batches' predictions `[T, B, ...]` and targets `[B]`."""


class FastSteps:
    """Trains mini-batches of a fit that nobody asked to see; the fit is about to begin."""

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,  # it satisfies `Learner`
        *,
        begin_batch: Callable[[int], None],  # called before a mini-batch's forward pass, with its index
        chain: ChainRule,
        loader: Loader,
        most: float,  # mini-batches at a time, one less than from one pass through the loop to the next
        graph: bool,  # whether a GPU may capture a step and replay it
    ) -> None:
        self._trainer, self._module, self._loader, self._most = trainer, module, loader, most
        self._learner: Learner = module  # type: ignore[assignment]  # as `open_fast_steps` asks for
        self._begin_batch = begin_batch
        self._chain = chain
        self._hooks = Hooks(module)
        there: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a connector's
        found = [(callback, limit_of(callback, trainer)) for callback in there]
        self._limits = [limit for _, limit in found if limit is not None]
        self.strangers = [callback for callback, limit in found if limit is None]  # they have to see each step
        self._watchers = [callback for callback in there if isinstance(callback, LooksNowAndThen)]
        self._readers = [callback for callback in there if isinstance(callback, ReadsGradients)]
        self._checked: dict[int, bool] = {}  # number of rows to whether the numbers are autograd's
        self._seconds = 0.0  # of a step
        self._graphed: GraphedSteps | None = None  # on a GPU
        self._may_graph = graph
        self._careful = 0  # mini-batches to leave to the loop

    def close(self) -> None:
        """Leave the loader alone."""
        self._loader.ahead = None

    # ------------------------------------------------------------------ before each mini-batch of the loop

    def advance(self) -> None:
        """Take the mini-batches that nobody has to see."""
        free = self._free()
        if free < 1 or _obstacle(self._trainer):  # a callback may have changed what a step is
            return
        trainer, optimizer = self._trainer, self._trainer.optimizers[0]
        if self._hooks.listened_to(optimizer):
            return
        profiler = trainer.profiler  # type: ignore[attr-defined]  # a connector's
        averages = self._averages()
        with profiler.profile("fast_steps"), torch.inference_mode():
            rule = self._chain.load(
                optimizer, clip_of(trainer.gradient_clip_val, trainer.gradient_clip_algorithm), averages
            )
            if rule is not None:
                self._take(self._loader.coming(int(free)), rule, optimizer)

    def _averages(self) -> list[Tensor]:
        average = self._learner.average
        return [] if average is None else list(average.values.values())

    def _rules(self, rule: Update, course: Course) -> Iterator[Update]:
        """The numbers of the coming steps, one after the other, from those of the next one."""
        average = self._learner.average
        for ahead in count():
            rate = 0.0 if average is None else average.rate(average.steps + ahead)
            yield rule.ahead(ahead, course.settings(ahead), rate)

    def _free(self) -> float:
        if self._careful:
            self._careful -= 1
            return 0
        free = min(self._most, loop_limit(self._trainer), *(limit() for limit in self._limits))
        return min(free, max(1, SECONDS // self._seconds)) if self._seconds else min(free, 1)

    def _take(self, batches: Sequence[Tensor], rule: Update, optimizer: torch.optim.Optimizer) -> None:
        chain, learner = self._chain, self._learner
        device = self._module.device
        first = batches_done(self._trainer)
        losses: list[Tensor] = []
        rows: list[Rows] = []
        readings, course = Readings(self._readers, self._trainer, chain), Course(self._trainer)
        began = time.perf_counter()
        with readings.shown(len(batches)):
            taken = zip(self._loader.gather_each(batches, device), self._rules(rule, course), strict=False)
            for ahead, ((x, y), numbers) in enumerate(taken):
                if not self._checked.get(len(x)) and not self._agrees(x, y, numbers, first + ahead):
                    self._careful = 0 if losses else 100  # a size that has to go through the loop, or all of them
                    break
                self._begin_batch(first + ahead)
                is_read = readings.next <= ahead
                losses.append(self._read((x, y), numbers, readings, ahead) if is_read else self._step(x, y, numbers))
                rows.append((x, y))
        if not losses:
            course.put_back()
            return
        stacked = torch.stack(losses)
        skipped = SkippedSteps(stacked.tolist(), rows)
        if not (all(map(math.isfinite, skipped.losses)) and chain.is_finite()):
            # As if nothing had been: the loop, and whoever watches it, shall meet the mini-batch that did it.
            course.put_back()
            self._careful = len(losses)
            return
        self._seconds = (time.perf_counter() - began) / len(losses)
        chain.store(optimizer, rule.ahead(len(losses), course.settings(len(losses)), 0.0), self._averages())
        learner.losses = add_losses(learner.losses, stacked, [learner.loss_weight(y) for _, y in rows])
        readings.keep()
        self._loader.move_on(len(losses))
        self._count(len(losses), scheduled=course.goes_by_the_step)
        for watcher in self._watchers:
            watcher.steps_taken(self._trainer, self._module, skipped)

    def _count(self, steps: int, *, scheduled: bool) -> None:
        count_steps(self._trainer, steps, scheduled=scheduled)
        if (average := self._learner.average) is not None:
            average.steps += steps

    def _read(self, batch: Rows, rule: Update, readings: Readings, ahead: int) -> Tensor:
        loss = self._chain.backward(*batch)
        readings.before_step(ahead)
        if rule.clip is not None:
            self._chain.clip(rule)
            readings.clipped()
        self._chain.update(rule)
        readings.after_step()
        return loss

    def _step(self, x: Tensor, y: Tensor, rule: Update) -> Tensor:
        if x.device.type == "cuda" and self._may_graph:
            if self._graphed is None or self._graphed.clip != rule.clip:
                self._capture(x, y, rule)
            if self._graphed is not None and self._graphed.rows == len(x):
                return self._graphed.step(x, y, rule)
        return self._chain.step(x, y, rule)

    def _capture(self, x: Tensor, y: Tensor, rule: Update) -> None:
        try:
            self._graphed = GraphedSteps(self._chain, x, y, rule)
        except RuntimeError as error:
            rank_zero_warn(f"steps are launched kernel by kernel, they cannot be captured as a CUDA graph: {error}")
            self._graphed = None
        self._may_graph = self._graphed is not None and self._graphed.agrees

    def _agrees(self, x: Tensor, y: Tensor, rule: Update, batch_idx: int) -> bool:
        """Check the first mini-batch of its size against autograd."""
        known = self._checked.get(len(x))
        if known is None:
            with torch.inference_mode(False):
                x, y = x.clone(), y.clone()  # autograd takes no inference tensors
                loss, seed = partial(self._loss, x, y), partial(self._begin_batch, batch_idx)
                known = self._chain.agrees(x, y, rule, loss, seed)
            self._checked[len(x)] = known
        return known

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self._learner.loss(self._learner.network(x), y)


def open_fast_steps(
    trainer: Trainer, module: Any, *, most: int | Literal["auto", "graph"], begin_batch: Callable[[int], None]
) -> FastSteps | None:
    """Put the fast steps of a fit that begins to work; None where every mini-batch has to go through Lightning's loop.

    `most` are the mini-batches from one that passes through the loop to the next; `auto`: as many as nobody has to see,
    on a CPU, as this was never run on anything else; `graph`: as many, replayed from a CUDA graph.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, Loader):
        return None
    loader.ahead = None
    limit = math.inf if isinstance(most, str) else most - 1
    if limit < 1 or trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
        return None
    chain = module.chain_rule() if is_known(trainer) else None
    reason = "weights of rows" if loader.is_weighted else _obstacle(trainer)
    if most == "auto" and module.device.type != "cpu":
        reason = reason or f"{module.device.type}, where nothing else was tried; --steps_per_execution=graph tries it"
    if chain is None and not reason:
        reason = f"{type(module).__name__}, whose step is its own"
    if chain is not None and not reason:
        steps = FastSteps(
            trainer, module, begin_batch=begin_batch, chain=chain, loader=loader, most=limit, graph=most == "graph"
        )
        if not steps.strangers or isinstance(most, int):
            loader.ahead = steps.advance
            return steps
        names = few([type(each).__name__ for each in steps.strangers])
        reason = f"{names}; --steps_per_execution=10 shows every tenth to callbacks"
    if trainer.num_training_batches * (trainer.max_epochs or 1) > _MANY:
        say(trainer, f"note: every mini-batch goes through Lightning's loop, most of a small step's time: {reason}.")
    return None


_MANY = 1000  # mini-batches of a fit from which on somebody waits


def _obstacle(trainer: Trainer) -> str:
    """Return what makes a step more than forward, backward, clipping and step on one device; empty for nothing."""
    optimizers = trainer.optimizers
    schedules = [
        type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs if config.interval != "epoch"
    ]
    found = {
        type(trainer.strategy).__name__: type(trainer.strategy) not in kinds(".strategies.SingleDeviceStrategy"),
        "the precision": type(trainer.precision_plugin) not in kinds(".plugins.precision.Precision"),
        "accumulated gradients": trainer.accumulate_grad_batches != 1,
        f"{len(optimizers)} optimizers": len(optimizers) != 1,
        few([type(each).__name__ for each in optimizers]): not all(map(is_known_optimizer, optimizers)),
        few(schedules): bool(schedules) and step_schedule(trainer) is None,
        "the search for anomalies": torch.is_anomaly_enabled(),
    }
    return next((what for what, is_so in found.items() if is_so), "")


def clip_of(gradient_clip_val: float | None, gradient_clip_algorithm: str | None) -> Clip | None:
    """Return the clipping that a trainer was asked for."""
    return Clip(float(gradient_clip_val), gradient_clip_algorithm == "value") if gradient_clip_val else None
