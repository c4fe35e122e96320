"""Watches one trial of a search: what it came to, its verdict, and whether it is hopeless."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.diagnosis.verdict import Diagnosis, Fit, diagnose
from callbacks.fit.reader import AUTO, USUAL, FitReader
from callbacks.host import Fresh

LOST = 100.0  # times the trivial loss: who is that far above it after an epoch does not come back


class TrialWatch(Callback):
    """Keeps the values of a metric and the curves of a trial, and ends it when it has diverged or learns nothing.

    Args:
        monitor: Name of the metric that is optimized.
        mode: `min` or `max`.
        baseline: Validation loss of the trivial prediction, or None.
        is_beaten: Whether the study holds a better value than this one. A trial that learns nothing is ended only
            then: where nothing learns, something must be left.
        pulse: Called now and then.
    """

    def __init__(
        self,
        monitor: str,
        mode: str,
        *,
        baseline: float | None,
        is_beaten: Callable[[float], bool],
        pulse: Callable[[], None],
    ) -> None:
        self.monitor, self.mode, self.baseline = monitor, mode, baseline
        self.values: list[float] = []
        self.epochs = 0
        self._is_beaten, self._pulse = is_beaten, pulse
        self._fresh = Fresh()
        self._diverged = False
        self.reader = FitReader("train_loss", monitor if mode == "min" else "val_loss", AUTO)

    def best(self) -> float:
        """The best value; NaN without any."""
        numbers = [value for value in self.values if value == value]
        return (min if self.mode == "min" else max)(numbers, default=float("nan"))

    def last(self) -> float:
        """The last value; NaN without any."""
        return self.values[-1] if self.values else float("nan")

    def fate(self) -> tuple[str, str]:
        """The verdict and its cause; what was ended for having diverged has, however early that was."""
        if self._diverged or (self.values and not isfinite(self.values[-1])):
            return str(Fit.DIVERGED), "exploded"
        found = self.verdict()
        return str(found.fit), found.cause

    def verdict(self) -> Diagnosis:
        """What `diagnose` makes of the curves so far."""
        train, val, metric = self.reader.record.paired()
        return diagnose(train, val, val_metric=metric, baseline_loss=self.baseline)

    def curves(self) -> dict[str, list[float | None]]:
        """Training and validation loss by epoch."""
        train, val, _ = self.reader.record.paired()
        return {"train_loss": train, self.reader.val_loss: val}

    # ------------------------------------------------------------------ reading

    def take(self, curves: Mapping[str, Sequence[float]]) -> None:
        """Read the curves of a fit that no trainer runs: one number an epoch by name."""
        self.values = list(curves[self.monitor])
        self.epochs = len(self.values)
        metric = next((name for name in USUAL if name in curves), "")
        names = {"train_loss": "train_loss", "val_loss": self.reader.val_loss, "metric": metric}
        for curve, name in names.items():
            if name in curves:
                self.reader.record.put(curve, self.epochs - 1, curves[name][-1])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what was logged late."""
        self.reader.late(trainer, trainer.current_epoch - 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up a training loss that is logged by the step alone."""
        self.reader.step(trainer, batch_idx)
        self._pulse()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell old values from those that will be logged."""
        self.reader.before_validation(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        """Keep those who wait from giving up."""
        self._pulse()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the metric; the pruning, which comes after, may end the trial here."""
        self.epochs = trainer.current_epoch + 1
        self._read(trainer)
        self.reader.validation(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pair the losses, and end the trial if it is hopeless."""
        self.epochs = trainer.current_epoch + 1
        self.reader.epoch(trainer, trainer.current_epoch)
        if not trainer.enable_validation:
            self._read(trainer)
        if reason := self.hopeless():
            from optuna import TrialPruned

            raise TrialPruned(reason)

    def _read(self, trainer: Trainer) -> None:
        value = self._fresh.read(trainer, self.monitor)
        if value is not None:
            self.values.append(value)

    def hopeless(self) -> str:
        """Why the trial is, in a few words; empty if it is not."""
        val = self.reader.record.at("val_loss", self.epochs - 1)
        base = self.baseline
        if val is not None and base is not None and isfinite(base) and val > base + LOST * abs(base):
            self._diverged = True
            return f"diverged: {self.reader.val_loss} is {val:.4g}, the trivial prediction's {base:.4g}"
        found = self.verdict()
        if found.fit is Fit.DIVERGED:
            self._diverged = True
            return f"diverged: {found.reason}"
        if found.cause == "not_learning" and self._is_beaten(self.best()):
            return f"not learning: {found.reason}"
        return ""
