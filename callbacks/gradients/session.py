"""One fit, looked at: brings the steps that are due, what is read of them, and the loggers together."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from callbacks.gradients.flow import GradientFlow
from callbacks.gradients.probe import PER_HISTOGRAM, TOTAL, GradientReader, Moment, places, shown
from callbacks.gradients.writer import GradientWriter
from callbacks.host import Guard
from callbacks.readers.optimizer_steps import StepWatch
from callbacks.readers.pacing import NEVER, AnyOf, Every, SpareTime


@dataclass(frozen=True)
class Pace:
    """How often and how much is looked at.

    Args:
        every: Steps from one reading of gradient norms to the next; 0 for never.
        updates_every: Steps from one look at weights and updates to the next; 0 for never.
        histograms_every: Steps from one set of histograms to the next; 0 for never.
        write_every: Steps whose readings are written as one.
        flow_every: Steps of the first optimizer from one picture of gradient flow to the next; 0 for never.
        sample: Elements of a parameter that are looked at, at most.
    """

    every: int
    updates_every: int
    histograms_every: int
    write_every: int
    flow_every: int
    sample: int


UNSORTED = 100  # norms of steps that wait to be put into the history: many at once are put in quicker
DRAWING = 0.02  # share of the time that goes into pictures on the way
GUESS = 0.5  # seconds that the first one takes
PATIENCE = 10.0  # seconds after which what was read is written, block or no block


class StepAhead:
    """What is read of a coming step that does not pass through Lightning's loop.

    Args:
        session: Who reads.
        moment: What was read before the step; None if it could not be.
    """

    def __init__(self, session: "GradientSession", moment: Moment | None) -> None:
        self._session, self._moment = session, moment

    def stepped(self) -> None:
        """Read the weights after the step, if that is due."""
        if self._moment is not None:
            self._session.follow(self._moment)

    def keep(self) -> None:
        """The step holds."""
        if self._moment is not None:
            self._session.keep(self._moment)


class GradientSession:
    """Looks at the steps of all optimizers of a fit.

    Args:
        trainer: The fit.
        module: What it trains.
        pace: How often.
        guard: Reports failures.
        flow: The history so far.
        counts: Steps that each optimizer has taken before.
        draw: Called between two steps when it is time for a picture.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        *,
        pace: Pace,
        guard: Guard,
        flow: GradientFlow | None,
        counts: Sequence[int],
        draw: Callable[[], None],
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._guard = guard
        self._pace = pace
        self._updates, self._histograms = Every(pace.updates_every), Every(pace.histograms_every)
        self._looks = AnyOf((self._updates, self._histograms))
        self._readings = AnyOf((Every(pace.every), self._looks))
        self._pictures = Every(pace.flow_every)
        self._clips = _may_clip(trainer, module)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._scaler = scaler if isinstance(scaler, torch.amp.GradScaler) else None
        self._writer = GradientWriter(pace.write_every)
        self._pending: list[Moment] = []
        self._watches: dict[Optimizer, StepWatch] = {}
        self._readers: dict[Optimizer, GradientReader] = {}
        self._open: dict[Optimizer, Moment] = {}
        self._counts = list(counts)
        self._since = 0.0  # when the oldest of what is pending was read
        self._draw = draw
        self._spare = SpareTime(DRAWING, GUESS)
        self._arranged = 0  # layers that are in order
        self._not_in_flow: list[tuple[int, dict[str, float]]] = []
        self.flow = flow or GradientFlow(_trained(module))
        self._next_picture = self._pictures.upcoming(sum(counts[:1]) + 1)
        for optimizer in trainer.optimizers:
            self._watch(optimizer)

    @property
    def counts(self) -> list[int]:
        """Steps that each optimizer has taken."""
        return [watch.count for watch in self._watches.values()]

    def before_step(self, optimizer: Optimizer) -> None:
        """Lightning's `on_before_optimizer_step`."""
        watch = self._watches.get(optimizer) or self._watch(optimizer)
        if watch is not None:
            watch.before_step()

    # ------------------------------------------------------------------ steps taken without Lightning's loop

    @property
    def steps_free(self) -> float:
        """Steps that may pass so: all, since they are read on the way; none where several optimizers take turns."""
        return math.inf if len(self._watches) == 1 else 0

    def skip(self, n: int) -> None:
        """Count steps of the one optimizer that passed so."""
        for watch in self._watches.values():
            watch.skip(n)
            self._draw_if_due(watch)

    def next_reading(self, ahead: int) -> float:
        """Which of the coming steps, `ahead` or later, has gradients that are due; 0 the next one."""
        count = sum(self.counts)
        due = self._readings.upcoming(count + ahead)
        return math.inf if due == NEVER else due - count

    def read_ahead(self, ahead: int) -> StepAhead:
        """Read gradients of a coming step, and weights if that is due."""
        watch = next(iter(self._watches.values()))
        moment = self._read(watch, max(self._trainer.global_step, watch.count) + ahead)
        if moment is not None:
            with self._guard(self._trainer, "reading gradients"):
                self._look(moment, watch.count + ahead, None)
        return StepAhead(self, moment)

    def flush(self) -> None:
        """Between two steps: hand what is pending to the loggers, and bring the history up to date."""
        for watch in self._watches.values():
            watch.settle_skipped()
        self._write()
        self._add_to_flow()
        layers = len(self.flow.layers)
        if layers != self._arranged:  # looking for the order takes as long as a training step
            self.flow.arrange(_trained(self._module))
            self._arranged = layers

    def close(self) -> None:
        """Leave the optimizers alone, and hand over what is left."""
        for watch in self._watches.values():
            watch.detach()
        self.flush()

    def _write(self) -> None:
        moments, self._pending = self._pending, []
        if moments:
            with self._guard(self._trainer, "writing gradients"):
                self._not_in_flow += self._writer.write(self._trainer, moments)
        if len(self._not_in_flow) > UNSORTED:
            self._add_to_flow()

    def _add_to_flow(self) -> None:
        for step, norms in self._not_in_flow:
            self.flow.add(step, norms)
        self._not_in_flow = []

    # ------------------------------------------------------------------ told by the watches

    def gradients(self, watch: StepWatch) -> None:
        """Read gradients, and weights if that is due, before the step."""
        optimizer = watch.optimizer
        self._open.pop(optimizer, None)
        moment = self._read(watch, self._step())
        if moment is None:
            return
        with self._guard(self._trainer, "reading gradients"):
            self._look(moment, watch.step, self._unscale(optimizer))
            self._open[optimizer] = moment

    def _look(self, moment: Moment, step: int, unscale: Tensor | None) -> None:
        """Read more than norms, if that is due at a step of the optimizer."""
        probe = moment.probe
        moment.follows = self._updates(step)
        draws = self._histograms(step)
        if moment.follows or draws:
            probe.keep(unscale)
        if draws:
            moment.samples = probe.samples(shown(probe), PER_HISTOGRAM)

    def _read(self, watch: StepWatch, step: int) -> Moment | None:
        """Gradient norms of a step of the loggers' axis."""
        with self._guard(self._trainer, "reading gradients"):
            probe = self._readers[watch.optimizer].probe(watch.optimizer)
            if probe is not None:
                total = TOTAL if len(self._watches) == 1 else f"{TOTAL}_{watch.index}"
                return Moment(step, probe, total, probe.gradient_norms(self._unscale(watch.optimizer)))
        return None

    def clipped(self, watch: StepWatch) -> None:
        """Read the gradients again where something may have clipped them."""
        if self._clips and watch.optimizer in self._open:
            with self._guard(self._trainer, "reading clipped gradients"):
                moment = self._open[watch.optimizer]
                moment.clipped = moment.probe.gradient_norms(self._unscale(watch.optimizer))

    def stepped(self, watch: StepWatch) -> None:
        """Read the weights after the step, and write if what is pending has waited long."""
        moment = self._open.pop(watch.optimizer, None)
        if moment is None:
            return
        self.follow(moment)
        self.keep(moment)
        self._draw_if_due(watch)

    def follow(self, moment: Moment) -> None:
        """Read the weights after a step, if that is due."""
        if moment.follows:
            with self._guard(self._trainer, "reading updates"):
                moment.updates = moment.probe.after()

    def _draw_if_due(self, watch: StepWatch) -> None:
        if watch.index == 0 and NEVER != self._next_picture <= watch.count and self._spare.is_due:
            self._next_picture = self._pictures.upcoming(watch.count + 1)
            with self._spare.work():
                self._draw()

    def keep(self, moment: Moment) -> None:
        """Let what was read wait for its block to be full, or for a while."""
        if self._pending and self._pending[0].step // self._pace.write_every != moment.step // self._pace.write_every:
            self._write()
        now = monotonic()
        if not self._pending:
            self._since = now
        self._pending.append(moment)
        if now - self._since > PATIENCE:
            self._write()

    def _step(self) -> int:
        # Raw optimizers' steps are not in global_step; those of a run whose checkpoint did not know us are only there.
        return max(self._trainer.global_step, sum(self.counts) - 1)

    def _unscale(self, optimizer: Optimizer) -> Tensor | None:
        """What gradients are to be multiplied by: a fused optimizer unscales them itself, within its step."""
        if self._scaler is None or not optimizer.defaults.get("fused"):
            return None
        one = torch.ones((), device=optimizer.param_groups[0]["params"][0].device)
        scaled = self._scaler.scale(one)  # asking for the scale itself would wait for the device
        assert isinstance(scaled, Tensor)
        return 1 / scaled

    def _watch(self, optimizer: Optimizer) -> StepWatch | None:
        index = len(self._watches)
        if not hasattr(optimizer, "register_step_post_hook"):
            name = type(optimizer).__name__
            self._guard.once(self._trainer, f"{name} is left out: it is no torch.optim.Optimizer with step hooks.")
            return None
        count = self._counts[index] if index < len(self._counts) else 0
        watch = StepWatch(optimizer, index, upcoming=self._readings.upcoming, witness=self, count=count)
        self._watches[optimizer] = watch
        self._readers[optimizer] = GradientReader(self._module, sample=self._pace.sample, left_out=self._left_out)
        return watch

    def _left_out(self, names: Sequence[str]) -> None:
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        self._guard.once(self._trainer, f"{some} left out: sharded, so that no rank has the whole gradient.")


def _trained(module: LightningModule) -> list[str]:
    found = places(module).items()
    return list(dict.fromkeys(place.layer for parameter, place in found if parameter.requires_grad))


def _may_clip(trainer: Trainer, module: LightningModule) -> bool:
    """Whether something may change the gradients between Lightning's hook and the update."""
    own = any(is_overridden(hook, module) for hook in ("configure_gradient_clipping", "on_before_optimizer_step"))
    return own or bool(trainer.gradient_clip_val)
