"""`TrainingProbe`: looks at the data, the head and the structure of whatever a trainer trains, rarely and cheaply."""

from collections.abc import Sequence
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from callbacks._batch_reading import tensors_in
from callbacks._head_facts import Loss
from callbacks._loss_reading import read_loss, with_batch
from callbacks.gradient_health import Fault, Finding
from callbacks.head_health import head_findings

FIRST_LOSSES = 4  # losses whose graph is read; a model with several optimizers has as many a step


class TrainingProbe:
    """Gathers facts about the data, the head and the structure, and names the faults they establish.

    Call its methods from a callback's hooks of the same names. It alters nothing: not the batch, not the module, not
    the random numbers, and leaves no hook behind after `end`. Facts it cannot read make no finding.
    """

    def __init__(self) -> None:
        self._findings: dict[tuple[Fault, str], Finding] = {}
        self._losses_left = FIRST_LOSSES
        self._read: list[Loss] = []  # losses of the step that is under way

    def begin(self, trainer: Trainer, module: LightningModule) -> None:
        """Look at the structure before the first step."""
        self._losses_left = FIRST_LOSSES

    def before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        """Read the graph of the first losses."""
        if not self._losses_left or loss.grad_fn is None:
            return
        self._losses_left -= 1
        optimizers = trainer.optimizers
        alone = len(optimizers) == 1 and module.automatic_optimization
        maximised = any(group.get("maximize") for optimizer in optimizers for group in optimizer.param_groups)
        facts = read_loss(loss, alone=alone, maximised=maximised)
        self._add(head_findings(facts, trainer.global_step))
        self._read.append(facts)

    def after_batch(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Read the first batches."""
        for facts in self._read:
            self._add(head_findings(with_batch(facts, tensors_in(batch)), trainer.global_step))
        self._read.clear()

    def validation_batch(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the first validation batches."""

    def epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Judge what one epoch gathered."""

    def end(self) -> None:
        """Let go of everything but the findings."""
        self._read.clear()

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

    def _add(self, found: Sequence[Finding]) -> None:
        for finding in found:
            self._findings.setdefault((finding.fault, finding.where), finding)
