"""`GradientMonitor`: names what is broken in a run, where, and what to do; silent when nothing is."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from callbacks.diagnosis.report import HealthPart, last_word
from callbacks.health.faults import PATIENCE, PATIENT, Fault, Finding, explained, from_plain, line, part_of, to_plain
from callbacks.health.nonfinite import CHOICES, NonFiniteError, NonFiniteGuard
from callbacks.health.probe import TrainingProbe
from callbacks.health.training_watch import TrainingWatch
from callbacks.host import Guard, NamedByPlace, say
from callbacks.host.packages import Callback, LightningModule, Trainer
from callbacks.loggers.dispatch import write_text
from callbacks.readers.optimizer_steps import NO_HOOKS, StepObserver


class GradientMonitor(NamedByPlace, Callback):
    """Says in one line what is wrong with a training run, where, with the numbers, and what to change.

    With each batch it reads the loss and the sums of the biases' gradients; all else now and then, often at first. What
    it looks at before the first step and in the first epoch costs some milliseconds, once.

    Args:
        on_nonfinite: What to do when a loss or a gradient is not finite, before the optimizer uses it: `stop` leaves
            the weights as they were before that batch and ends training, `skip` leaves the batch out and goes on,
            `raise` raises `NonFiniteError`.
        every: Steps between two looks at units, weights and updates, at least 1; at the start it looks more often.
        ignore: Faults not to speak of, by name, e.g. `unshuffled`.
        closing: Say at the end what was found, in one report with what a `FitMonitor` beside it says; without,
            `last_word` holds it.

    Attributes:
        findings: What was established so far, oldest first.

    Raises:
        ValueError: A choice or a number that cannot be, or a fault that is not known.
    """

    def __init__(
        self, on_nonfinite: str = "stop", every: int = 200, *, ignore: Sequence[str] = (), closing: bool = True
    ) -> None:
        if on_nonfinite not in CHOICES:
            raise ValueError(f"on_nonfinite must be one of {', '.join(CHOICES)}, not {on_nonfinite!r}.")
        if every < 1:
            raise ValueError(f"every must be at least 1, not {every}.")
        unknown = [name for name in ignore if name not in list(Fault)]
        if unknown:
            raise ValueError(f"ignore must name faults ({', '.join(Fault)}), not {unknown[0]!r}.")
        self.on_nonfinite = on_nonfinite
        self.every = every
        self.ignore = ignore
        self.closing = closing
        self.last_word = ""
        self.closing_part: HealthPart | None = None  # once a fit has ended
        self._begin()

    def _begin(self) -> None:
        self.findings: list[Finding] = []
        self._guard = Guard("GradientMonitor")
        self._nonfinite = NonFiniteGuard(self.on_nonfinite)
        self._watch = TrainingWatch(self.every)
        self._observed: list[tuple[StepObserver, Callable[[Optimizer], None]]] = []
        self._pending: list[Finding] = []
        self._probe = TrainingProbe()

    def state_dict(self) -> dict[str, Any]:
        """Return what was found, and how far it got."""
        guard, watches = self._nonfinite, {"watch": self._watch.state_dict(), "questions": self._probe.state_dict()}
        found, waiting = ([to_plain(each) for each in these] for these in (self.findings, self._pending))
        return {"findings": found, "pending": waiting, "skipped": guard.skipped, "steps": guard.steps, **watches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the findings of a checkpoint."""
        self.findings = [from_plain(found) for found in state_dict["findings"]]
        self._nonfinite.skipped, self._nonfinite.steps = int(state_dict["skipped"]), int(state_dict["steps"])
        self._watch.load_state_dict(state_dict["watch"])
        if "questions" in state_dict:  # else it is from before that was kept, and looks at the first steps anew
            self._pending = [from_plain(found) for found in state_dict["pending"]]
            self._probe.load_state_dict(state_dict["questions"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier run, unless this one goes on with it."""
        self.take_place(trainer)
        if stage == "fit" and trainer.current_epoch == 0:
            self._begin()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read weights and optimizers before anything moved."""
        self.closing_part = None
        with self._guard(trainer, "looking at the start"):
            self._nonfinite.begin(trainer, pl_module, self)
            self._probe.begin(trainer, pl_module, partial(self._guard.failed, trainer, "looking at a layer's input"))
            self._watch.begin(trainer, pl_module, self._probe.cuts)
            if not pl_module.automatic_optimization:
                self._observe(trainer, pl_module)

    # What runs with every batch is kept cheap: no context managers, no properties of the trainer.
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep what the forward pass could spoil."""
        watch = self._watch
        try:
            if batch_idx == 0:
                self._nonfinite.epoch_begins(trainer, pl_module)
                watch.reference_is_known(pl_module)  # whoever finds it out before training has done so
            self._nonfinite.before_batch(batch, batch_idx)
            if watch.batches >= watch.next:
                watch.due = watch.busy = True
            if watch.due:
                self._probe.before_batch(trainer, pl_module, batch, batch_idx)
        except Exception as error:  # noqa: BLE001  # as in `Guard`
            self._guard.failed(trainer, "looking at the batch", error)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Check the loss; now and then read the operations behind it."""
        nonfinite = self._nonfinite
        try:
            if not nonfinite.before_backward(trainer, pl_module, loss):
                return
            self._watch.losses.append(nonfinite.loss)
            if self._watch.due:
                self._watch.graph(trainer, loss)
            if self._probe.wants_losses:
                self._probe.before_backward(trainer, pl_module, loss)
        except Exception as error:  # noqa: BLE001  # as in `Guard`
            self._guard.failed(trainer, "looking at the loss", error)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell which of several batches was not finite, while their gradients are being summed."""
        if self._nonfinite.sums:
            with self._guard(trainer, "looking at the gradients"):
                self._nonfinite.after_backward()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Check the gradients; take them away if they would spoil the weights."""
        if pl_module.automatic_optimization:
            self._before_step(trainer, pl_module, optimizer)

    def _observe(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Under manual optimization Lightning does not call the hook above for a raw optimizer.
        for optimizer in trainer.optimizers:
            if not StepObserver.follows(optimizer):
                self._guard.once(trainer, f"{type(optimizer).__name__} is left out: {NO_HOOKS}.")
                continue
            observer, call = StepObserver.of(optimizer), partial(self._before_step, trainer, pl_module)
            observer.before_each(optimizer, call)
            self._observed.append((observer, call))

    def _before_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        nonfinite = self._nonfinite
        try:
            if nonfinite.before_step(trainer, pl_module) and self._watch.busy:
                self._watch.before_step(optimizer)
        except Exception as error:  # noqa: BLE001  # as in `Guard`
            self._guard.failed(trainer, "looking at the gradients", error)
        if nonfinite.news is not None:
            found, nonfinite.news = nonfinite.news, None
            self._say_or_raise(trainer, found)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read what the step did."""
        watch, probe = self._watch, self._probe
        try:
            self._nonfinite.after_batch()
            if watch.busy:
                watch.after_batch(trainer, self._nonfinite.uses if pl_module.automatic_optimization else 1)
            watch.batches += 1
            if probe.wants_batches or batch_idx == 0:
                probe.after_batch(trainer, pl_module, outputs, batch, batch_idx)
        except Exception as error:  # noqa: BLE001  # as in `Guard`
            self._guard.failed(trainer, "looking at the batch", error)
        if watch.new or probe.new or self._pending:
            self._speak(trainer)

    def steps_free(self, trainer: Trainer) -> float:
        """Return how many steps from now on may pass if loss and batch are read."""
        watch, probe = self._watch, self._probe
        if watch.due or watch.busy or probe.busy or self._nonfinite.sums:
            return 0
        return max(0, math.ceil(watch.next) - watch.batches)

    def steps_taken(self, trainer: Trainer, pl_module: LightningModule, taken: Any) -> None:
        """Read losses and batches of steps that were taken without the hooks; all is finite."""
        self._watch.losses += taken.losses
        self._watch.batches += len(taken.losses)
        self._nonfinite.steps += len(taken.losses)
        if self._probe.wants_batches:
            with self._guard(trainer, "looking at the batch"):
                self._probe.batches(trainer, taken.batches)
            self._speak(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Let the probe compare validation with training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            try:
                self._probe.validation_batch(trainer, pl_module, outputs, batch, batch_idx)
            except Exception as error:  # noqa: BLE001  # as in `Guard`
                self._guard.failed(trainer, "looking at a validation batch", error)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge what an epoch shows."""
        with self._guard(trainer, "looking at the epoch"):
            self._probe.epoch_end(trainer, pl_module)
            self._watch.epoch_end(trainer)
        self._speak(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was found."""
        self._close(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say what stopped the run, if it is a fault that is known, and what was found before."""
        if trainer.state.fn == "fit":
            with self._guard(trainer, "looking at the error"):
                self._probe.failed(trainer, pl_module, exception)
            self._close(trainer, alone=not isinstance(exception, KeyboardInterrupt))  # FitMonitor says nothing then
            self._leave_optimizers()

    def _close(self, trainer: Trainer, *, alone: bool = False) -> None:
        self._speak(trainer, ended=True)
        steps, skipped = self._nonfinite.steps, self._nonfinite.skipped
        self.closing_part = part_of(self.findings, skipped, steps=steps, batches=self._watch.batches)
        self.last_word = str(self.closing_part)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # a connector's
            return
        with self._guard(trainer, "the last word"):
            if self.closing and (said := last_word([self] if alone else trainer.callbacks)):  # type: ignore[attr-defined]  # a connector's
                say(trainer, said)
        with self._guard(trainer, "writing the findings"):
            write_text(trainer, "gradients/health", self.last_word, trainer.global_step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take every hook away."""
        self._nonfinite.end()
        self._watch.end()
        self._leave_optimizers()
        self._probe.end()

    def _leave_optimizers(self) -> None:
        for observer, call in self._observed:
            observer.leave(call)
        self._observed = []

    def _say_or_raise(self, trainer: Trainer, found: Finding) -> None:
        if "itself holds" not in found.why:
            self._watch.blown_up(trainer)  # the cause goes first
        self._speak(trainer)
        self._establish(trainer, [found])
        if self.on_nonfinite == "stop":
            # No vote is needed: the gradients are the sum over all ranks, so every rank saw the same.
            trainer.should_stop = True
        elif self.on_nonfinite == "raise":
            raise NonFiniteError(line(found))

    def _speak(self, trainer: Trainer, *, ended: bool = False) -> None:
        shown, self._probe.new = self._probe.new, []
        self._establish(trainer, shown)
        news, self._watch.new = self._watch.new, []
        self._pending += [found for found in news if found.fault in PATIENT]
        self._establish(trainer, [found for found in news if found.fault not in PATIENT])
        if self._pending and (ended or self._watch.batches >= PATIENCE):
            self._establish(trainer, self._pending)
            self._pending = []

    def _establish(self, trainer: Trainer, news: Sequence[Finding]) -> None:
        for found in news:
            if found.fault in self.ignore or any(found.fault is old.fault for old in self.findings):
                continue
            if not explained(found.fault, (old.fault for old in self.findings)):
                self.findings.append(found)
                say(trainer, f"GradientMonitor: {line(found)}")
