"""`TrainingProbe`: looks at the data, the head and the structure of whatever a trainer trains, rarely and cheaply."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from callbacks._batch_reading import read_inputs, tensors_in
from callbacks._data_watch import DataWatch
from callbacks._head_facts import Loss, Structure
from callbacks._layer_inputs import NUMERIC, LayerInputs
from callbacks._loss_reading import read_loss
from callbacks._structure_reading import read_batch_norms, read_structure
from callbacks._target_reading import with_batch
from callbacks.data_health import input_findings, out_of_range
from callbacks.gradient_health import Fault, Finding
from callbacks.head_health import head_findings
from callbacks.structure_health import (
    fades,
    signal_findings,
    start_findings,
    structure_findings,
    training_findings,
    validation_findings,
)

FIRST_STEPS = 4  # whose losses, layers and inputs are read
LOSSES_KEPT = 400  # of the first steps, to see whether they fall
REFUSED = re.compile(r"Target -?\d+ is out of bounds|Class values must be (smaller than|non-negative)")
FIRST_LOSSES, LAST_LOSSES = 5, 20


class TrainingProbe:
    """Gathers facts about the data, the head and the structure, and names the faults they establish.

    Call its methods from a callback's hooks of the same names. It alters nothing: not the batch, not the module, not
    the random numbers, and leaves no hook behind after `end`. Facts it cannot read make no finding.
    """

    def __init__(self) -> None:
        self._findings: dict[tuple[Fault, str], Finding] = {}
        self._steps = 0
        self.new: list[Finding] = []  # since they were last taken
        self._clear()

    def _clear(self) -> None:
        self.awake = True  # whether `after_batch` has anything to do but with an epoch's first batch
        self.listening = True  # whether `before_backward` has
        self._norms_seen = [0, 0]  # epochs and validations that began
        self._read: list[Loss] = []  # losses of the step that is under way
        self._layers = LayerInputs()
        self._given: list[Tensor] = []  # to the first layer, in the first steps
        self._fed = ""  # the first layer
        self._data = DataWatch()
        self._structure = Structure()
        self._signals: list[tuple[str, float]] = []
        self._losses: list[Tensor] = []
        self._norms_trained = False
        self._norms = False

    # ------------------------------------------------------------------ hooks

    def begin(self, trainer: Trainer, module: LightningModule) -> None:
        """Look at the structure before the first step, and hang hooks on the layers for the first few."""
        self.end()
        self._clear()
        self._steps = 0
        norms = read_batch_norms(module, fresh=True)
        self._norms = bool(norms)
        self._add(start_findings(norms, trainer.global_step))
        self._layers.open(module)

    def before_batch(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Compare a batch's classes with the outputs before the loss does, which would stop the run."""
        if self._data.open and self._data.outputs:
            self._add(self._data.out_of_range(tensors_in(batch), trainer.global_step))

    def failed(self, trainer: Trainer, module: LightningModule, error: BaseException) -> None:
        """Say in plain words what stopped the run, if it is a label that the loss refused."""
        if isinstance(error, IndexError | RuntimeError) and REFUSED.search(str(error)):
            self._add([out_of_range(f"the loss refuses a label: {error}", trainer.global_step)])

    def before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        """Read the graph of the first losses."""
        if (self._signals or self._steps < FIRST_STEPS) and len(self._losses) < LOSSES_KEPT:
            self._losses.append(loss.detach())
        if self._steps >= FIRST_STEPS or loss.grad_fn is None:
            return
        optimizers = trainer.optimizers
        alone = len(optimizers) == 1 and module.automatic_optimization
        maximised = any(group.get("maximize") for optimizer in optimizers for group in optimizer.param_groups)
        facts = read_loss(loss, alone=alone, maximised=maximised)
        self._read.append(facts)
        self._add(head_findings(facts, trainer.global_step))
        if self._steps == 0 and len(self._read) == 1:
            self._structure = read_structure(loss)
            self._add(structure_findings(self._structure, trainer.global_step))

    def after_batch(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Read the first batches, and with an epoch's first batch, more and more rarely, the mode of batch norms."""
        self._steps += 1
        if batch_idx == 0 and self._norms_trained and self._steps > FIRST_STEPS and self._now_and_then(0):
            norms = read_batch_norms(module, fresh=False)
            self._add(training_findings(norms, trainer.global_step, root_training=module.training, were_training=True))
        if not self.awake:
            return
        tensors = tensors_in(batch)
        if self._steps <= FIRST_STEPS:
            self._first_steps(trainer, module, tensors)
        self._data.training_batch(trainer, tensors)
        self._rest()

    @property
    def busy(self) -> bool:
        """Whether it has to see every step."""
        return self._steps < FIRST_STEPS or self.listening

    def batches(self, trainer: Trainer, batches: Iterable[Any]) -> None:
        """Take in training batches of steps that need not be seen."""
        for batch in batches:
            self._data.training_batch(trainer, tensors_in(batch))
        self._rest()

    def _rest(self) -> None:
        self.listening = self._steps < FIRST_STEPS or bool(self._signals)
        self.awake = self._steps < FIRST_STEPS or self._data.open or self._data.suspicion is not None

    def _now_and_then(self, which: int) -> bool:
        """The first time, the second, the fourth, the eighth, …"""
        self._norms_seen[which] += 1
        return not self._norms_seen[which] & (self._norms_seen[which] - 1)

    def validation_batch(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read validation batches of the first epoch, and the mode that batch norms are in."""
        if self._norms and batch_idx == 0 and not trainer.sanity_checking and self._now_and_then(1):
            self._add(validation_findings(read_batch_norms(module, fresh=False), trainer.global_step))
        if not self._data.compared and self._steps:
            self._data.validation_batch(trainer, tensors_in(batch))

    def epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Judge what one epoch gathered."""
        self._judge_inputs(trainer)
        if self._data.asks:
            self._add(self._data.judge(trainer))
            self._rest()
        self._judge_signal(trainer)

    def end(self) -> None:
        """Let go of everything but the findings."""
        self._layers.close()
        self._read.clear()
        self._given.clear()
        self._losses.clear()
        self._data.train.clear()
        self._data.val.clear()

    # ------------------------------------------------------------------ findings

    def news(self) -> list[Finding]:
        """Faults established since this was last asked."""
        found, self.new = self.new, []
        return found

    def findings(self) -> Sequence[Finding]:
        """All faults established so far, oldest first, one for each fault and place."""
        return tuple(self._findings.values())

    def state_dict(self) -> dict[str, Any]:
        """The findings as plain data."""
        return {
            "findings": [
                {"fault": str(f.fault), "where": f.where, "step": f.step, "why": f.why, "advice": f.advice}
                for f in self._findings.values()
            ]
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the findings of a checkpoint."""
        found = [Finding(**{**entry, "fault": Fault(entry["fault"])}) for entry in state["findings"]]
        self._findings = {(finding.fault, finding.where): finding for finding in found}

    def _add(self, found: Iterable[Finding]) -> None:
        for finding in found:
            if (finding.fault, finding.where) not in self._findings:
                self._findings[finding.fault, finding.where] = finding
                self.new.append(finding)

    # ------------------------------------------------------------------ the first steps

    def _first_steps(self, trainer: Trainer, module: LightningModule, tensors: list[Tensor]) -> None:
        step = trainer.global_step
        facts = [with_batch(loss, tensors) for loss in self._read]
        for loss in facts:
            self._add(head_findings(loss, step))
        first = self._layers.first
        self._data.learn(tensors, first[2] if first else None, facts)
        if first is not None:
            name, layer, given = first
            if isinstance(layer, NUMERIC) and given.is_floating_point():
                self._fed = name
                self._given.append(given)
        self._read.clear()
        self._layers.next_step()
        if self._norms and self._steps in (1, FIRST_STEPS):
            norms = read_batch_norms(module, fresh=True)
            self._norms_trained = self._norms_trained or any(norm.training for norm in norms)
            self._add(training_findings(norms, step, root_training=module.training, were_training=False))
        if self._steps == FIRST_STEPS:
            self._layers.close()
            self._judge_inputs(trainer)
            if self._layers.signals:
                values = torch.stack([signal for _, signal in self._layers.signals]).tolist()
                names = [name for name, _ in self._layers.signals]
                self._signals = list(zip(names, values, strict=True))
            if not fades(self._structure, self._signals):  # then nobody asks how the loss goes on
                self._signals.clear()
                self._losses.clear()

    def _judge_inputs(self, trainer: Trainer) -> None:
        if self._given:
            facts = read_inputs(self._fed, self._given, from_batch=self._data.input is not None)
            self._given = []
            if facts is not None:
                self._add(input_findings(facts, trainer.global_step))

    def _judge_signal(self, trainer: Trainer) -> None:
        if self._signals and len(self._losses) >= 100:
            first, last = self._losses[:FIRST_LOSSES], self._losses[-LAST_LOSSES:]
            means = float(torch.stack(first).mean()), float(torch.stack(last).mean())
            if all(math.isfinite(mean) for mean in means):
                self._add(signal_findings(self._structure, self._signals, means, trainer.global_step))
            if len(self._losses) >= LOSSES_KEPT:
                self._losses.clear()
                self._signals.clear()
