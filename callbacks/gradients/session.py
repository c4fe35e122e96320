"""Read gradients at the steps of a fit that are due, turn them into numbers and histograms, and write these."""

import math
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from time import monotonic

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from callbacks.gradients.flow import GradientFlow
from callbacks.gradients.probe import (
    NONZERO,
    PER_HISTOGRAM,
    TOTAL,
    UPDATE,
    WEIGHT,
    Array,
    GradientReader,
    Moment,
    Probe,
    histograms,
    places,
    shown,
)
from callbacks.host import Guard, few
from callbacks.host.packages import Callback, LightningModule, Trainer, is_overridden
from callbacks.loggers import dispatch
from callbacks.loggers.base import Histogram
from callbacks.readers.optimizer_steps import NO_HOOKS, WITHIN, ObservedSteps, StepObserver
from callbacks.readers.pacing import NEVER, AnyOf, Every, SpareTime

UNSORTED = 100  # norms of steps that wait to be put into the history: many at once are put in quicker
DRAWING = 0.02  # share of the time that goes into pictures on the way
GUESS = 0.5  # seconds that the first one takes
PATIENCE = 10.0  # seconds after which what was read is written, block or no block


@dataclass(frozen=True)
class GradientSchedule:
    """How often and how much is read."""

    every: int  # steps from one reading of gradient norms to the next; 0 for never
    updates_every: int  # steps from one reading of weights and updates to the next; 0 for never
    histograms_every: int  # steps from one set of histograms to the next; 0 for never
    write_every: int  # steps whose readings are written as one
    flow_every: int  # steps of the first optimizer from one picture of gradient flow to the next; 0 for never
    sample: int  # elements of a parameter that are read, at most


@dataclass
class ReadingAhead:
    """Reads a coming step that does not pass through Lightning's loop; its moment is None if that could not be read."""

    session: "GradientSession"
    moment: Moment | None

    def clipped(self) -> None:
        """Read what clipping left of the gradients."""
        if self.moment is not None:
            self.session.read_clipped(self.moment)

    def stepped(self) -> None:
        """Read the weights after the step, if that is due."""
        if self.moment is not None:
            self.session.read_updates(self.moment)

    def keep(self) -> None:
        """Keep what was read: the step holds."""
        if self.moment is not None:
            self.session.keep(self.moment)


@dataclass(eq=False)
class GradientSession:
    """Reads the steps of all optimizers of a fit."""

    owner: Callback  # the session reads for it
    trainer: Trainer
    module: LightningModule
    guard: Guard
    schedule: GradientSchedule
    history: InitVar[GradientFlow | None]
    taken: Sequence[int]  # steps of each optimizer so far
    draw: Callable[[], None]  # called between two steps when it is time for a picture

    def __post_init__(self, history: GradientFlow | None) -> None:
        schedule = self.schedule
        self._updates, self._histograms = Every(schedule.updates_every), Every(schedule.histograms_every)
        self._readings = AnyOf((Every(schedule.every), self._updates, self._histograms))
        self._pictures = Every(schedule.flow_every)
        self._clips = _may_clip(self.trainer, self.module)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        self._scaler = scaler if isinstance(scaler, torch.amp.GradScaler) else None
        self._pending: list[Moment] = []
        self._steps: dict[Optimizer, ObservedSteps] = {}
        self._readers: dict[Optimizer, GradientReader] = {}
        self._open: dict[Optimizer, Moment] = {}
        self._since = 0.0  # when the oldest of what is pending was read
        self._spare = SpareTime(DRAWING, GUESS)
        self._arranged = 0  # layers that are in order
        self._not_in_flow: list[tuple[int, dict[str, float]]] = []
        self.flow = history or GradientFlow(_trained(self.module))
        self._next_picture = self._pictures.upcoming(sum(self.taken[:1]) + 1)
        for optimizer in self.trainer.optimizers:
            self._observe(optimizer)

    @property
    def counts(self) -> list[int]:
        """Steps that each optimizer has taken."""
        return [steps.count for steps in self._steps.values()]

    def before_step(self, optimizer: Optimizer) -> None:
        """Pass on Lightning's `on_before_optimizer_step`."""
        steps = self._steps.get(optimizer) or self._observe(optimizer)
        if steps is not None and (steps.is_due or steps.observer.where != WITHIN):  # else it would do nothing
            steps.observer.before_step(steps)

    # ------------------------------------------------------------------ steps taken without Lightning's loop

    @property
    def steps_free(self) -> float:
        """Steps that may pass so: all, since they are read on the way; none where several optimizers take turns."""
        return math.inf if len(self._steps) == 1 else 0

    def skip(self, n: int) -> None:
        """Count steps of the one optimizer that passed so."""
        for steps in self._steps.values():
            steps.skip(n)
            self._draw_if_due(steps)

    def next_reading(self, ahead: int) -> float:
        """Return which of the coming steps, `ahead` or later, has gradients that are due; 0 the next one."""
        count = sum(self.counts)
        due = self._readings.upcoming(count + ahead)
        return math.inf if due == NEVER else due - count

    def read_ahead(self, ahead: int) -> ReadingAhead:
        """Read gradients of a coming step, and weights if that is due."""
        steps = next(iter(self._steps.values()))
        moment = self._read(steps, max(self.trainer.global_step, steps.count) + ahead)
        if moment is not None:
            with self.guard(self.trainer, "reading gradients"):
                self._read_samples(moment, steps.count + ahead, None)
        return ReadingAhead(self, moment)

    def flush(self) -> None:
        """Hand what is pending to the loggers, and bring the history up to date; between two steps."""
        for steps in self._steps.values():
            steps.observer.settle_skipped()
        self._write()
        self._add_to_flow()
        layers = len(self.flow.layers)
        if layers != self._arranged:  # looking for the order takes as long as a training step
            self.flow.arrange(_trained(self.module))
            self._arranged = layers

    def close(self) -> None:
        """Leave the optimizers alone, and hand over what is left."""
        for steps in self._steps.values():
            steps.observer.leave(steps)
        self.flush()

    def _write(self) -> None:
        moments, self._pending = self._pending, []
        if moments:
            with self.guard(self.trainer, "writing gradients"):
                self._not_in_flow += _write_moments(self.trainer, moments, self.schedule.write_every)
        if len(self._not_in_flow) > UNSORTED:
            self._add_to_flow()

    def _add_to_flow(self) -> None:
        for step, norms in self._not_in_flow:
            self.flow.add(step, norms)
        self._not_in_flow = []

    # ------------------------------------------------------------------ told by the observer of steps

    def gradients(self, steps: ObservedSteps) -> Tensor | None:
        """Read gradients, and weights if that is due, before the step."""
        optimizer = steps.optimizer
        self._open.pop(optimizer, None)
        # Raw optimizers' steps are not in global_step; those of a run whose checkpoint did not know us are only there.
        moment = self._read(steps, max(self.trainer.global_step, sum(self.counts) - 1))
        if moment is None:
            return None
        with self.guard(self.trainer, "reading gradients"):
            self._read_samples(moment, steps.step, self._unscale(optimizer))
            self._open[optimizer] = moment
        return moment.gradients if moment.probe.whole else None

    def _read(self, steps: ObservedSteps, step: int) -> Moment | None:
        """Read gradient norms, at a step of the loggers' axis."""
        with self.guard(self.trainer, "reading gradients"):
            probe = self._readers[steps.optimizer].probe(steps.optimizer)
            if probe is not None:
                total = TOTAL if len(self._steps) == 1 else f"{TOTAL}_{steps.index}"
                return Moment(step, probe, total, probe.gradient_norms(self._unscale(steps.optimizer)))
        return None

    def _read_samples(self, moment: Moment, step: int, unscale: Tensor | None) -> None:
        """Read more than norms, if that is due at a step of the optimizer."""
        moment.follows = self._updates(step)
        draws = self._histograms(step)
        if moment.follows or draws:
            moment.probe.keep(unscale)
        if draws:
            moment.samples = moment.probe.samples(shown(moment.probe), PER_HISTOGRAM)

    def clipped(self, steps: ObservedSteps) -> None:
        """Read the gradients again where something may have clipped them."""
        if self._clips and steps.optimizer in self._open:
            self.read_clipped(self._open[steps.optimizer], self._unscale(steps.optimizer))

    def read_clipped(self, moment: Moment, unscale: Tensor | None = None) -> None:
        """Read the norms of gradients that were clipped."""
        with self.guard(self.trainer, "reading clipped gradients"):
            moment.clipped = moment.probe.gradient_norms(unscale)

    def stepped(self, steps: ObservedSteps) -> None:
        """Read the weights after the step, and write if what is pending has waited long."""
        moment = self._open.pop(steps.optimizer, None)
        if moment is not None:
            with self.guard(self.trainer, "keeping what was read"):
                self.read_updates(moment)
                self.keep(moment)
                self._draw_if_due(steps)

    def read_updates(self, moment: Moment) -> None:
        """Read the weights after a step, if that is due."""
        if moment.follows:
            with self.guard(self.trainer, "reading updates"):
                moment.updates = moment.probe.after()

    def keep(self, moment: Moment) -> None:
        """Let what was read wait for its block to be full, or for a while."""
        every = self.schedule.write_every
        if self._pending and self._pending[0].step // every != moment.step // every:
            self._write()
        now = monotonic()
        if not self._pending:
            self._since = now
        self._pending.append(moment)
        if now - self._since > PATIENCE:
            self._write()

    def _draw_if_due(self, steps: ObservedSteps) -> None:
        if steps.index == 0 and NEVER != self._next_picture <= steps.count and self._spare.is_due:
            self._next_picture = self._pictures.upcoming(steps.count + 1)
            with self._spare.work():
                self.draw()

    def _unscale(self, optimizer: Optimizer) -> Tensor | None:
        """Return what gradients are to be multiplied by: a fused optimizer unscales them itself, within its step."""
        if self._scaler is None or not optimizer.defaults.get("fused"):
            return None
        one = torch.ones((), device=optimizer.param_groups[0]["params"][0].device)
        scaled = self._scaler.scale(one)  # asking for the scale itself would wait for the device
        assert isinstance(scaled, Tensor)
        return 1 / scaled

    def _observe(self, optimizer: Optimizer) -> ObservedSteps | None:
        index = len(self._steps)
        if not StepObserver.follows(optimizer):
            self.guard.once(self.trainer, f"{type(optimizer).__name__} is left out: {NO_HOOKS}.")
            return None
        reader = GradientReader(self.module, sample=self.schedule.sample, left_out=self._say_left_out)
        count, upcoming = next(iter(self.taken[index:]), 0), self._readings.upcoming
        reads = self.gradients, self.clipped, self.stepped
        steps = ObservedSteps(optimizer, index, upcoming, self.owner, *reads, taken=count)
        self._readers[optimizer], self._steps[optimizer] = reader, steps
        return steps

    def _say_left_out(self, names: Sequence[str]) -> None:
        self.guard.once(self.trainer, f"{few(names)} left out: sharded, so that no rank has the whole gradient.")


def _trained(module: LightningModule) -> list[str]:
    found = places(module).items()
    return list(dict.fromkeys(place.layer for parameter, place in found if parameter.requires_grad))


def _may_clip(trainer: Trainer, module: LightningModule) -> bool:
    """Whether something may change the gradients between Lightning's hook and the update."""
    own = any(is_overridden(hook, module) for hook in ("configure_gradient_clipping", "on_before_optimizer_step"))
    return own or bool(trainer.gradient_clip_val)


def _write_moments(trainer: Trainer, moments: Sequence[Moment], write_every: int) -> list[tuple[int, dict[str, float]]]:
    """Write moments, oldest first; return the step and the gradient norm of each layer of each."""
    groups: dict[tuple[int, str, Probe], list[Moment]] = {}
    for moment in moments:
        groups.setdefault((moment.step // write_every, moment.total, moment.probe), []).append(moment)
    flows = []
    for together in sorted(groups.values(), key=lambda group: group[-1].step):
        norms = _write_together(trainer, together)
        layers = together[0].probe.layers
        flows += [(m.step, dict(zip(layers, row, strict=False))) for m, row in zip(together, norms, strict=True)]
    return sorted(flows, key=lambda flow: flow[0]) if len(groups) > 1 else flows


def _write_together(trainer: Trainer, moments: list[Moment]) -> list[list[float]]:
    last = moments[-1]
    norms, values = _numbers(moments)
    names = [*last.probe.layers, last.total]
    # A ratio to weights that are all zero is no number. Norms that are none are told as they are.
    scalars = {
        f"{quantity}/{name}": value
        for quantity, row in values.items()
        for name, value in zip(names, row.tolist(), strict=True)
        if value == value or quantity != "update_ratio"
    }
    if len(moments) > 1:
        scalars[f"grad_norm_max/{last.total}"] = float(norms[:, -1].max())
    for moment in moments[:-1]:
        if moment.samples is not None:
            dispatch.write_moment(trainer, moment.step, {}, _histograms(moment))
    dispatch.write_moment(trainer, last.step, scalars, _histograms(last))
    return norms.tolist()  # type: ignore[no-any-return]


def _numbers(moments: Sequence[Moment]) -> tuple[Array, dict[str, Array]]:
    """Return gradient norms `[moments, layers + 1]` of one probe, and the means of all quantities, `[layers + 1]`.

    The last column is for all layers together. One transfer from the device.
    """
    probe = moments[0].probe
    clipped = [moment.clipped for moment in moments if moment.clipped is not None]
    updates = [moment.updates for moment in moments if moment.updates is not None]
    found = torch.stack([*[moment.gradients for moment in moments], *clipped])
    if updates:
        found = torch.cat([found.to(updates[0]), *updates])
    numbers = found.cpu().double().numpy()
    with np.errstate(all="ignore"):
        count = len(moments) + len(clipped)
        norms = np.sqrt(probe.by_layer(numbers[:count] ** 2))
        values = {"grad_norm": norms[: len(moments)].mean(0)}
        if clipped:
            values["grad_norm_clipped"] = norms[len(moments) :].mean(0)
        if updates:
            values |= _around(probe, numbers[count:].reshape(len(updates), 3, -1))
    return norms[: len(moments)], values


def _around(probe: Probe, numbers: Array) -> dict[str, Array]:
    """Return means of what was read around steps; a ratio is over the steps that have one, NaN where none has."""
    squares = probe.squares(numbers)
    weights = np.sqrt(squares[:, WEIGHT])
    ratios = np.sqrt(squares[:, UPDATE]) / weights
    there = (weights > 0) & ~np.isnan(ratios)
    return {
        "weight_norm": weights.mean(0),
        "update_ratio": np.where(there, ratios, 0.0).sum(0) / there.sum(0),
        "grad_zeros": (1 - squares[:, NONZERO] / probe.numels).mean(0),
    }


def _histograms(moment: Moment) -> dict[str, Histogram]:
    if moment.samples is None:
        return {}
    probe, which = moment.probe, shown(moment.probe)
    drawn = histograms(moment.samples.cpu().double().numpy(), 2 * probe.sample_sizes(which, PER_HISTOGRAM))
    tags = [f"{kind}/{probe.places[i].name}" for kind in ("gradients", "weights") for i in which]
    sparse = {f"gradients/{probe.places[i].name}" for i in which if probe.is_sparse(i)}
    return {tag: one for tag, one in zip(tags, drawn, strict=True) if one is not None and tag not in sparse}
