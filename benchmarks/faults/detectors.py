"""How a detector is put beside a training: `watch(case)` returns callbacks, and what reads their words afterwards."""

from collections.abc import Callable

import pytorch_lightning as pl

from .kinds import Case
from .rivals import gradsnitch, torchmortem

Said = list[tuple[str, str]]  # name and text, in the order of saying
Watch = Callable[[Case], tuple[list[pl.Callback], Callable[[], Said]]]


class History(pl.Callback):
    """Keeps the validation loss of every epoch; says nothing."""

    def __init__(self) -> None:
        self.val_loss: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.val_loss.append(float(trainer.callback_metrics["val_loss"]))


def nobody(case: Case) -> tuple[list[pl.Callback], Callable[[], Said]]:
    """No detector: is the twin healthy, does the fault hurt?"""
    return [History()], list


def ours(case: Case) -> tuple[list[pl.Callback], Callable[[], Said]]:
    """`GradientMonitor` with its defaults."""
    from callbacks import GradientMonitor  # it is loaded when it is asked for: the bench runs without it

    monitor = GradientMonitor(on_nonfinite="stop")
    return [monitor], lambda: [(str(f.fault), f"{f.where} @{f.step}: {f.why}") for f in monitor.findings]


DETECTORS: dict[str, Watch] = {"none": nobody, "ours": ours, "torchmortem": torchmortem, "gradsnitch": gradsnitch}
