"""The rivals beside the same trainings, each as its documentation says, with its defaults.

They are installed in an environment of their own: `python -m venv --system-site-packages .venv-rivals`, then
`pip install torchmortem==0.1.1 gradsnitch==0.1.0`. Their words are mapped to our names below, as generously as is
honest: a message counts as all the faults that its own text gives as its meaning or first causes, and is right if one
of them is. A message that names no cause at all has no name and counts as detected only.

Cockpit (`cockpit-for-pytorch` 1.0.2, with `backpack-for-pytorch` 1.7.1) installs and runs under torch 2.13 in a
hand-written loop over extended modules, in all three of its configurations. It draws instruments and leaves the
judgement to whoever looks: no message to map, so it has no row here.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytorch_lightning as pl
import torch

from callbacks.health.faults import Fault

from .kinds import Case

TORCHMORTEM: dict[str, tuple[Fault, ...]] = {
    # remedies: normalisation, other activations; "the first layers are barely learning"
    "Vanishing gradients": (Fault.VANISHING_GRADIENT, Fault.MISSING_NORMALISATION, Fault.WRONG_ACTIVATION),
    # "occurs with high learning rates, poor weight initialization"
    "Exploding gradients": (Fault.EXPLODING_GRADIENT, Fault.LEARNING_RATE_TOO_HIGH, Fault.WRONG_INITIALISATION),
    "Gradient stalling": (Fault.NOT_UPDATING, Fault.VANISHING_GRADIENT),  # "weights are effectively frozen"
    "Dead units": (Fault.DEAD_UNITS,),
    "Activation saturation": (Fault.SATURATED_UNITS,),
    "Update ratio too low": (Fault.LEARNING_RATE_TOO_LOW, Fault.NOT_UPDATING),  # "the layer is effectively frozen"
    "Update ratio too high": (Fault.LEARNING_RATE_TOO_HIGH,),
    "Weight norm explosion": (Fault.UNDER_REGULARISED, Fault.LEARNING_RATE_TOO_HIGH),  # its first two remedies
    "Stagnant weight norms": (Fault.NOT_UPDATING, Fault.LEARNING_RATE_TOO_LOW),  # "may not be learning"
    "Inter-layer weight norm": (Fault.WRONG_INITIALISATION,),  # "check weight initialization"
    "Training divergence": (Fault.LEARNING_RATE_TOO_HIGH, Fault.NON_FINITE),  # "also from NaN in weights or gradients"
    "Loss plateau": (Fault.LEARNING_RATE_TOO_LOW,),  # "the learning rate is too small"
    "Rank collapse": (
        Fault.OVER_REGULARISED,
        Fault.LEARNING_RATE_TOO_HIGH,
    ),  # "excessive weight decay", "rate too high"
    "High gradient noise": (),  # the batch is too small: not one of the kinds
}
_UNSTABLE = (Fault.EXPLODING_GRADIENT, Fault.LEARNING_RATE_TOO_HIGH)
GRADSNITCH: dict[str, tuple[Fault, ...]] = {
    "GS001": (Fault.NON_FINITE, Fault.LEARNING_RATE_TOO_HIGH),  # "LR too high, overflow, or a bad batch"
    "GS002": _UNSTABLE,
    "GS003": _UNSTABLE,
    "GS004": (Fault.UNDER_REGULARISED,),
    # "LR too low, dead/poor init, frozen params, or a data/labeling issue"
    "GS005": (Fault.LEARNING_RATE_TOO_LOW, Fault.WRONG_INITIALISATION, Fault.NOT_UPDATING, Fault.LABELS_WRONG),
    "GS006": (Fault.LEARNING_RATE_TOO_HIGH,),
    # "dead/saturated units, too-deep stack without residuals/norm, or LR far too low"
    "GS007": (
        Fault.VANISHING_GRADIENT, Fault.DEAD_UNITS, Fault.SATURATED_UNITS, Fault.MISSING_NORMALISATION,
        Fault.LEARNING_RATE_TOO_LOW,
    ),
    "GS008 high": (Fault.LEARNING_RATE_TOO_HIGH,),
    "GS008 low": (Fault.LEARNING_RATE_TOO_LOW,),
    "GS009": (Fault.LEARNING_RATE_TOO_HIGH,),
    "GS010": (Fault.LEARNING_RATE_TOO_LOW,),
}  # fmt: skip


def _joined(faults: tuple[Fault, ...], otherwise: str) -> str:
    return "|".join(map(str, faults)) or otherwise


class AutopsyCallback(pl.Callback):
    """The loop of torchmortem's README: `with Autopsy(model, optimizer=optimizer)`, `autopsy.step(loss=...)`."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.autopsy = import_module("torchmortem").Autopsy(pl_module.net, optimizer=trainer.optimizers[0])
        self.autopsy.attach()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.autopsy.step(loss=outputs["loss"].item())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.autopsy.detach()


def torchmortem(case: Case) -> tuple[list[pl.Callback], Callable[[], list[tuple[str, str]]]]:
    """Its findings, most severe first; what it marks INFO it calls harmless itself."""
    callback = AutopsyCallback()

    def read() -> list[tuple[str, str]]:
        report = callback.autopsy.get_report()
        said = []
        for finding in report.findings if report else []:
            names = next((n for title, n in TORCHMORTEM.items() if finding.title.startswith(title)), ())
            if finding.severity.name != "INFO":
                said.append((_joined(names, finding.category), f"{finding.title}: {finding.summary}"))
        return said

    return [callback], read


class SnitchCallback(pl.Callback):
    """gradsnitch's one line in a loop: its own Lightning adapter hands over neither rates nor updates, this does."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.monitor = import_module("gradsnitch").watch(pl_module, trainer.optimizers[0])
        self.val_loss: float | None = None

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        self.loss = loss.item()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.monitor.log(trainer.global_step, self.loss, val_loss=self.val_loss)
        self.val_loss = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:  # handed over with the next step, as its adapters do
            self.val_loss = float(trainer.callback_metrics["val_loss"])


def gradsnitch(case: Case) -> tuple[list[pl.Callback], Callable[[], list[tuple[str, str]]]]:
    """Its findings in its own order, that of the rules' numbers."""
    callback = SnitchCallback()

    def read() -> list[tuple[str, str]]:
        said = []
        for finding in callback.monitor.report():
            high = f"{finding.code} {'high' if 'high' in finding.name else 'low'}"
            names = GRADSNITCH.get(finding.code) or GRADSNITCH[high]
            said.append((_joined(names, finding.code), f"{finding.code} {finding.name}: {finding.evidence}"))
        return said

    return [callback], read
