"""One fit, looked at: brings the steps that are due, what is read of them, and the loggers together."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from callbacks import _tensorboard
from callbacks._gradient_norms import DEPTH
from callbacks._gradient_reader import PER_HISTOGRAM, GradientReader, Moment, shown
from callbacks._gradient_writer import GradientWriter
from callbacks._layers import TOTAL, places
from callbacks._step_watch import StepWatch
from callbacks._terminal import Guard
from callbacks.gradient_flow import GradientFlow
from callbacks.schedules import Either, Every

PATIENCE = 10.0  # seconds after which what was read is written, block or no block


@dataclass(frozen=True)
class Pace:
    """How often and how much is looked at.

    Args:
        every: Steps from one reading to the next; 0 for never.
        histograms_every: Steps from one set of histograms to the next; 0 for never.
        write_every: Steps whose readings are written as one.
        sample: Elements of a parameter that are looked at, at most.
    """

    every: int
    histograms_every: int
    write_every: int
    sample: int


class GradientSession:
    """Looks at the steps of all optimizers of a fit.

    Args:
        trainer: The fit.
        module: What it trains.
        pace: How often.
        guard: Reports failures.
        flow: The history so far.
        counts: Steps that each optimizer has taken before.
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
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._guard = guard
        self._pace = pace
        self._histograms = Every(pace.histograms_every if _tensorboard.tensorboard_loggers(trainer) else 0)
        self._due = Either(Every(pace.every), self._histograms)
        self._clips = _may_clip(trainer, module)
        self._writer = GradientWriter(pace.write_every)
        self._pending: list[Moment] = []
        self._watches: dict[Optimizer, StepWatch] = {}
        self._readers: dict[Optimizer, GradientReader] = {}
        self._open: dict[Optimizer, Moment] = {}
        self._counts = list(counts)
        self._since = 0.0  # when the oldest of what is pending was read
        self.flow = flow or GradientFlow(_trained(module))
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

    def flush(self) -> None:
        """Hand what is pending to the loggers."""
        for watch in self._watches.values():
            watch.settle_skipped()
        moments, self._pending = self._pending, []
        with self._guard(self._trainer, "writing gradients"):
            for step, norms in self._writer.write(self._trainer, moments):
                self.flow.add(step, norms)

    def close(self) -> None:
        """Leave the optimizers alone, and hand over what is left."""
        for watch in self._watches.values():
            watch.detach()
        self.flush()
        self.flow.arrange(_trained(self._module))

    # ------------------------------------------------------------------ told by the watches

    def gradients(self, watch: StepWatch) -> None:
        """Read gradients and weights before the step."""
        self._open.pop(watch.optimizer, None)
        self._flush_old()
        with self._guard(self._trainer, "reading gradients"):
            probe = self._readers[watch.optimizer].probe(watch.optimizer)
            if probe is None:
                return
            probe.before(self._unscale(watch.optimizer))
            samples = probe.samples(shown(probe), PER_HISTOGRAM) if self._histograms(watch.step) else None
            total = TOTAL if len(self._watches) == 1 else f"{TOTAL}_{watch.index}"
            self._open[watch.optimizer] = Moment(self._step(), probe, total, samples)

    def clipped(self, watch: StepWatch) -> None:
        """Read the gradients again where something may have clipped them."""
        if self._clips and watch.optimizer in self._open:
            with self._guard(self._trainer, "reading clipped gradients"):
                self._open[watch.optimizer].probe.clipped(self._unscale(watch.optimizer))

    def stepped(self, watch: StepWatch) -> None:
        """Read the weights after the step, and write when there is enough."""
        if watch.optimizer not in self._open:
            return
        moment = self._open.pop(watch.optimizer)
        with self._guard(self._trainer, "reading updates"):
            moment.probe.after()
            if not self._pending:
                self._since = monotonic()
            self._pending.append(moment)
        if len(self._pending) >= DEPTH:
            self.flush()

    def _flush_old(self) -> None:
        """Where steps are slow nobody shall wait for a block to fill; what is written as one stays together."""
        if self._pending and monotonic() - self._since > PATIENCE:
            unit = self._pace.write_every
            if self._pending[-1].step // unit != self._step() // unit:
                self.flush()

    def _step(self) -> int:
        # Raw optimizers' steps are not in global_step; those of a run whose checkpoint did not know us are only there.
        return max(self._trainer.global_step, sum(self.counts) - 1)

    def _unscale(self, optimizer: Optimizer) -> Tensor | None:
        """What gradients are to be multiplied by: a fused optimizer unscales them itself, within its step."""
        scaler = getattr(self._trainer.precision_plugin, "scaler", None)
        if not isinstance(scaler, torch.amp.GradScaler) or not optimizer.defaults.get("fused"):
            return None
        one = torch.ones((), device=optimizer.param_groups[0]["params"][0].device)
        scaled = scaler.scale(one)  # asking for the scale itself would wait for the device
        assert isinstance(scaled, Tensor)
        return 1 / scaled

    def _watch(self, optimizer: Optimizer) -> StepWatch | None:
        index = len(self._watches)
        if not hasattr(optimizer, "register_step_post_hook"):
            name = type(optimizer).__name__
            self._guard.once(self._trainer, f"{name} is left out: it is no torch.optim.Optimizer with step hooks.")
            return None
        count = self._counts[index] if index < len(self._counts) else 0
        watch = StepWatch(optimizer, index, due=self._due, witness=self, count=count)
        self._watches[optimizer] = watch
        self._readers[optimizer] = GradientReader(
            self._module, sample=self._pace.sample, clips=self._clips, left_out=self._left_out
        )
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
