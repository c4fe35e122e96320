"""Watches one fit of a trial: reads and judges its curves, reports to Optuna, and ends it when it is hopeless."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from callbacks.diagnosis.early import diagnose_early
from callbacks.diagnosis.names import TRAIN, find_metric, logged_as, words
from callbacks.diagnosis.verdict import Diagnosis, Fit, diagnose
from callbacks.fit.reader import AUTO, FitReader, baseline_of
from callbacks.host import Fresh, NamedByPlace, few, logged
from callbacks.host.packages import Callback, LightningModule, Trainer
from callbacks.search.plan import SearchError

if TYPE_CHECKING:
    from optuna import Trial

EXPLODED = 100.0  # times the trivial loss: who is that far above it after an epoch does not come back
LEARNED = 0.1  # of the trivial loss: who is that far below it has learned something, and has not diverged


class _Monitored:
    """Reads a metric when it was logged anew: `val_loss` under the name that it was first found under."""

    def __init__(self, name: str) -> None:
        self._asked, self._name, self._fresh = name, "", Fresh()

    def read(self, trainer: Trainer) -> float | None:
        """Return the new value; NaN stays NaN, and None says that there is none."""
        # A loss of training, which is logged later, may make another look likelier: one fit reports one thing.
        name = self._name or logged_as(self._asked, trainer.callback_metrics)
        value = self._fresh.read(trainer, name)
        self._name = self._name if value is None else name
        return value


class TrialObserver(Callback):
    """Reads the metric and the losses of a fit, and prunes the trial when it has diverged or learns nothing.

    With several processes rank zero decides, and all ranks raise together. Comes before a `TrialPruning`, which may
    end the trial where this reads.
    """

    def __init__(
        self,
        metric: str,  # as logged; its best epoch counts
        *,
        high: bool,  # whether it is good when it is high
        val_loss: str,
        prunes: bool,
        others_learn: Callable[[], bool],  # asked on rank zero: whether another trial of the study learned something
        keeps_weights: bool = False,  # those of the best epoch
    ) -> None:
        self.metric, self.high = metric, high
        self.baseline: float | None = None
        self.values: list[float] = []  # the metric after each epoch; NaN and infinity as they were logged
        self.best: Mapping[str, float] = {}  # all metrics of the best epoch; empty before any finite value
        self.best_epoch: int | None = None
        self.weights: Mapping[str, Any] = {}  # the module's state in the best epoch, where it is wanted
        self.epochs = 0  # begun
        self.curves: Mapping[str, Sequence[float]] = {}  # one number an epoch, of a fit that no trainer runs
        self.improved: Callable[[Trainer], object] | None = None  # called at every new best epoch
        self._prunes, self._others_learn, self._keeps_weights = prunes, others_learn, keeps_weights
        self._reader, self._monitored = FitReader("train_loss", val_loss, AUTO), _Monitored(metric)
        self._is_read = False  # since the epoch began
        self._judged = -1
        self._exploded = ""

    def losses(self) -> dict[str, list[float | None]]:
        """Return training and validation loss by name, one value an epoch."""
        train, val, _ = self._reader.record.paired()
        return {"train_loss": train, self._reader.val_loss: val}

    def verdict(self) -> tuple[str, str, str]:
        """Return verdict, cause and reason, however early the fit ended; in NaN or infinity, it has diverged."""
        found, why = self._diagnosis(), self._exploded
        said = found.fit, found.cause, found.reason
        if found.cause in ("too_few_epochs", "no_validation", "no_signal", "unclear"):  # no trial is told nothing
            train, val, _ = self._reader.record.paired()
            early = diagnose_early(train, val, baseline_loss=self.baseline)
            said = said if early[0] is Fit.UNKNOWN else early
        if self.values and not math.isfinite(self.values[-1]):
            why = why or f"{self.metric} is {self.values[-1]}."
        if why and said[0] is not Fit.DIVERGED:  # the metric's NaN need not be the loss's
            return Fit.DIVERGED.value, "exploded", why
        return said[0].value, *said[1:]

    def hopeless(self, max_epochs: int) -> str:
        """Return why the trial is to end now, of so many epochs in all (below 1: unknown); empty if it is to go on.

        It is hopeless if its loss has diverged (or is NaN), or if it has learned nothing by a quarter of its epochs
        (a slow start is no failure) although another trial has: where nothing learns, something must be left.
        """
        epoch, base = self.epochs - 1, self.baseline
        val = self._reader.record.at("val_loss", epoch)
        if val is not None and base is not None and math.isfinite(base):
            if val > base + EXPLODED * abs(base):
                self._exploded = f"{self._reader.val_loss} is {val:.4g}, the trivial prediction's {base:.4g}."
                return f"diverged, exploded: {self._exploded}"
            if val < base - LEARNED * abs(base):
                return ""  # a diagnosis after every epoch costs more than many an epoch
        if epoch - self._judged < max(1, self._judged // 10):
            return ""
        self._judged = epoch
        found = self._diagnosis()
        is_late = 4 * self.epochs >= max_epochs
        if found.fit is Fit.DIVERGED or (found.cause == "not_learning" and is_late and self._others_learn()):
            return f"{found.fit}, {found.cause.replace('_', ' ')}: {found.reason}"
        return ""

    def _diagnosis(self) -> Diagnosis:
        train, val, metric = self._reader.record.paired()
        return diagnose(train, val, val_metric=metric, baseline_loss=self.baseline, advise=False)

    def take(self, curves: Mapping[str, Sequence[float]]) -> None:
        """Read the newest epoch of a fit that no trainer runs: one number an epoch by name."""
        self.curves = curves
        self.epochs = len(curves[self.metric])
        usual = find_metric(curves) or ""
        for curve, name in (("train_loss", "train_loss"), ("val_loss", self._reader.val_loss), ("metric", usual)):
            if name in curves:
                self._reader.record.put(curve, self.epochs - 1, curves[name][-1])
        self._add(curves[self.metric][-1], self.epochs - 1, lambda: {n: each[-1] for n, each in curves.items()})

    def _add(self, value: float, epoch: int, found: Callable[[], Mapping[str, float]]) -> bool:
        """Add a value of the metric; return whether it is the best."""
        self.values.append(value)
        best = self.best.get(self.metric)
        is_best = math.isfinite(value) and (best is None or (value > best if self.high else value < best))
        if is_best:
            self.best, self.best_epoch = found(), epoch
        return is_best

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a training loss that was logged late."""
        self.epochs += 1
        self._is_read = False
        self.baseline = baseline_of(pl_module)
        self._reader.late(trainer, trainer.current_epoch - 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up a training loss that is logged by the step alone."""
        self._reader.step(trainer, batch_idx)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell old values from those that will be logged."""
        self._reader.before_validation(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read what the validation logged."""
        if trainer.state.fn != "fit":
            return
        self._reader.validation(trainer)
        if not trainer.sanity_checking and self._is_of_validation(trainer):
            self._read(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pair the losses, and end the trial if it is hopeless."""
        self._reader.epoch(trainer, trainer.current_epoch)
        if not self._is_read and not self._is_of_validation(trainer):
            self._read(trainer)
        if not self._prunes:
            return
        why = self.hopeless(trainer.max_epochs or 0) if trainer.is_global_zero else ""
        if why := trainer.strategy.broadcast(why, src=0):
            from optuna import TrialPruned

            raise TrialPruned(why)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a training loss that was logged late in the last epoch."""
        self._reader.late(trainer, max(trainer.current_epoch - 1, 0))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Read what there is of a fit that was pruned in the middle of an epoch."""
        from optuna import TrialPruned

        # The ranks share what they read; what is raised by one alone finds no other that would.
        if trainer.world_size == 1 or isinstance(exception, TrialPruned):
            self._reader.epoch(trainer, trainer.current_epoch)

    def _is_of_validation(self, trainer: Trainer) -> bool:
        """Return whether the metric is read behind a validation: those of training come later in an epoch."""
        return trainer.enable_validation and not TRAIN & {*words(self.metric)}

    def _read(self, trainer: Trainer) -> None:
        self._is_read = True
        value = self._monitored.read(trainer)
        if value is None:
            return
        if not self._add(value, trainer.current_epoch, lambda: {**logged(trainer), self.metric: value}):
            return
        if self._keeps_weights:
            state = trainer.lightning_module.state_dict()
            self.weights = {name: each.detach().cpu().clone() for name, each in state.items()}
        if self.improved:
            self.improved(trainer)


@dataclass(frozen=True)
class _Verdict:
    """Says what rank zero decides and every rank does."""

    prune: str = ""  # why the trial is pruned
    wrong: str = ""  # what the user has to put right
    broken: str = ""  # what failed on rank zero, which raises it itself


class TrialPruning(NamedByPlace, Callback):
    """Reports a metric to an Optuna trial after every validation, and prunes the trial by raising `TrialPruned`.

    For any Trainer and every storage. The sanity check is not reported, nor a value that was not logged anew. With
    several processes rank zero reports and decides, and all ranks raise together. A metric that is no longer finite
    ends the trial at once, whatever the pruner; it is not reported, since no pruner can compare it. In a study of
    several objectives Optuna has no pruning, and nothing is reported. A fit without validation reports after every
    epoch of training.

    Args:
        trial: The trial. Only rank zero's is used; None elsewhere, where a script is started anew for each rank.
        monitor: Name of the metric, as logged; `val_loss` also finds a validation loss of another name.
        first_step: Step of the first report; the steps count up from it. Give the second fit of the same trial (another
            seed or fold) the `next_step` of the first, since Optuna takes each step once.

    Raises:
        SearchError: The metric is not there after the second validation, or at the end of the fit.
        optuna.TrialPruned: From `trainer.fit`.
    """

    def __init__(self, trial: Trial | None, monitor: str = "val_loss", *, first_step: int = 0) -> None:
        self.trial, self.monitor = trial, monitor
        self.first_step = self.next_step = first_step
        self._begin()

    def _begin(self) -> None:
        self._monitored = _Monitored(self.monitor)
        self._missed = 0  # validations without the metric
        self._seen = False

    @property
    def plain_key(self) -> str:
        """Tell the prunings of one trainer apart by what they read."""
        return f"{type(self).__qualname__}[{self.monitor}]"

    def state_dict(self) -> dict[str, Any]:
        """Return the step of the next report."""
        return {"next_step": self.next_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where a checkpoint ended."""
        self.next_step = state_dict["next_step"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what an earlier fit logged; the steps go on."""
        self.take_place(trainer)
        if stage == "fit":
            self._begin()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, and prune if it is time."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._all_ranks(trainer, self._report(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what training logged, in a fit without validation."""
        if not trainer.enable_validation:
            self._all_ranks(trainer, self._report(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise if the metric never came."""
        self._all_ranks(trainer, (_Verdict(wrong=self._never_logged(trainer, after=0)), None))

    def _report(self, trainer: Trainer) -> tuple[_Verdict, Exception | None]:
        """Return what rank zero makes of the newest value; other ranks read along and decide nothing."""
        value = self._monitored.read(trainer)
        step = self.next_step
        self.next_step += 1
        if value is None:
            self._missed += 1
            return _Verdict(wrong=self._never_logged(trainer, after=1)), None
        self._seen = True
        if self.trial is None or not trainer.is_global_zero or len(self.trial.study.directions) > 1:
            return _Verdict(), None
        if not math.isfinite(value):
            return _Verdict(prune=f"{self.monitor} is {value} at step {step}"), None
        try:
            self.trial.report(value, step)
            pruner = type(self.trial.study.pruner).__name__ if self.trial.should_prune() else ""
        except Exception as error:  # noqa: BLE001  # raised again, once the other ranks know
            return _Verdict(broken=f"{type(error).__name__}: {error}"), error
        return _Verdict(prune=f"{pruner}: {self.monitor} {value:.6g} at step {step}" if pruner else ""), None

    def _all_ranks(self, trainer: Trainer, decided: tuple[_Verdict, Exception | None]) -> None:
        """Let every rank do what rank zero decided: one that went on alone would wait for the others for ever."""
        own, error = decided
        verdict: _Verdict = trainer.strategy.broadcast(own, src=0)
        if error is not None:
            raise error
        if verdict.broken:
            raise RuntimeError(f"TrialPruning failed on rank zero ({verdict.broken}).")
        if verdict.wrong:
            raise SearchError(verdict.wrong)
        if verdict.prune:
            from optuna import TrialPruned

            raise TrialPruned(verdict.prune)

    def _never_logged(self, trainer: Trainer, *, after: int) -> str:
        """Return what is wrong if the metric was missed more than `after` times and never came; else nothing."""
        if self._missed <= after or self._seen or self.monitor in trainer.callback_metrics:
            return ""
        there = few(sorted(logged(trainer)), 20) or "nothing"
        return f"TrialPruning reads {self.monitor!r}, which was not logged; logged were: {there}."
