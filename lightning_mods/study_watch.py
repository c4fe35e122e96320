"""What watches the fit of a trial: its best epoch, its diagnosis, its row in the HParams tab, and whether to go on."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn

from callbacks import FitMonitor
from callbacks.diagnosis import Diagnosis, Fit

if TYPE_CHECKING:
    from optuna import Trial


class TrialMonitor(FitMonitor):
    """A `FitMonitor` that judges and is silent: what it finds is stored with the trial."""

    def __init__(self) -> None:
        super().__init__(plot=False, closing=False)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a training loss that was logged late; of one that is not logged at all nothing is said here."""
        self._reader.late(trainer, trainer.current_epoch - 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the last verdict."""
        epoch = max(trainer.current_epoch - 1, 0)
        self._reader.late(trainer, epoch)
        self._judge(trainer, pl_module, epoch, last=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Judge what there is of a fit that was pruned in the middle of an epoch."""
        from optuna import TrialPruned

        # The ranks share what they read; what is raised by one alone finds no other that would.
        if trainer.world_size == 1 or isinstance(exception, TrialPruned):
            self._reader.epoch(trainer, trainer.current_epoch)
        self._judge(trainer, pl_module, trainer.current_epoch, last=True)

    def _report(
        self, trainer: Trainer, found: Diagnosis, epoch: int, base: float | None, *, changed: bool, last: bool
    ) -> None:
        """Say nothing and write nothing."""


class TrialWatch(Callback):
    """Keeps what was logged in the epoch in which the metric was best, and writes the trial's row for the HParams tab.

    NaN is never best; a metric that was NaN in every epoch has no best epoch.

    Args:
        metric: Name of the metric.
        high: Whether it is good when it is high.
        params: Values of the trial by their names, for the HParams tab.
        metrics: Names of the columns of the HParams tab beside it, if logged.
    """

    def __init__(
        self, metric: str, *, high: bool, params: Mapping[str, Any] | None = None, metrics: Sequence[str] = ()
    ) -> None:
        self.metric = metric
        self.high = high
        self.params = dict(params or {})
        self.metrics = list(metrics)
        self.best: dict[str, float] = {}
        self.best_epoch: int | None = None
        self.epochs = 0
        self.lost: float | None = None  # the latest value, if it is no finite number
        self._described = False
        self._looked = False  # since the epoch began

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epoch."""
        self.epochs += 1
        self._looked = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what the validation logged."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and self._is_of_validation(trainer):
            self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what training logged, where the metric is one of training."""
        if not self._looked and not self._is_of_validation(trainer):
            self._look(trainer)

    def _is_of_validation(self, trainer: Trainer) -> bool:
        """Training metrics of an epoch come after its validation."""
        return trainer.enable_validation and not self.metric.startswith("train")

    def _look(self, trainer: Trainer) -> None:
        self._looked = True
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if value.numel() == 1}
        value = found.get(self.metric)
        if value is None:
            return
        self.lost = None if isfinite(value) else value
        if self.lost is not None:
            return
        best = self.best.get(self.metric)
        if best is None or (value > best if self.high else value < best):
            self.best, self.best_epoch = found, trainer.current_epoch
            self._write(trainer, found)

    def _write(self, trainer: Trainer, found: Mapping[str, float]) -> None:
        names = dict.fromkeys([self.metric, *self.metrics, *(n for n in sorted(found) if n.startswith("val_"))])
        row = {f"hp/{name}": found[name] for name in names if name in found}
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger) or not row:
                continue
            if self._described:
                logger.log_metrics(row, step=trainer.current_epoch)
            else:
                logger.log_hyperparams({name: plain(value) for name, value in self.params.items()}, row)
        self._described = self._described or bool(row)


class HopelessTrial(Callback):
    """Prunes a trial that diverged, or that learns nothing although other trials of the study did.

    With several processes rank zero decides, and all ranks raise together.

    Args:
        monitor: Who judges; it comes before this in the trainer's list.
        others_learn: Asked whether other trials did.
    """

    def __init__(self, monitor: FitMonitor, others_learn: Callable[[], bool]) -> None:
        self.monitor = monitor
        self._ask_others = others_learn
        self._others_learn = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune on the latest verdict."""
        found = self.monitor.diagnosis
        why = ""
        if trainer.is_global_zero and found is not None and self._is_hopeless(found, trainer):
            why = f"{found.fit}, {found.cause.replace('_', ' ')}: {found.reason}"
        if why := trainer.strategy.broadcast(why, src=0):
            from optuna import TrialPruned

            raise TrialPruned(why)

    def _is_hopeless(self, found: Diagnosis, trainer: Trainer) -> bool:
        if found.fit is Fit.DIVERGED:
            return True
        # A slow start is no failure: a quarter of the way must lie behind it.
        early = 4 * (trainer.current_epoch + 1) < (trainer.max_epochs or 0)
        if found.cause != "not_learning" or early:
            return False
        self._others_learn = self._others_learn or self._ask_others()
        return self._others_learn


def others_learn(trial: "Trial") -> bool:
    """Whether a whole trial of the study learned something."""
    whole = [each for each in trial.study.get_trials(deepcopy=False) if each.state.name == "COMPLETE"]
    return any(each.user_attrs.get("cause", "not_learning") != "not_learning" for each in whole)


def plain(value: Any) -> Any:
    """A value as the HParams tab takes it."""
    return value if isinstance(value, bool | int | float | str) else str(value)
