"""A trial of a study: one fit, or one for each seed and fold, through the command line's own machinery."""

import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn

from callbacks import FitMonitor, TrialPruning
from callbacks.diagnosis.verdict import Diagnosis, Fit
from callbacks.search.plan import SearchError
from lightning_mods.cli.verbs import limit_threads
from lightning_mods.study.space import short_names
from lightning_mods.study.trial_cli import StudyCLI

if TYPE_CHECKING:
    from optuna import Study, Trial


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


_FILES = count()  # files of one second must not have one name


def write_run(
    folder: Path,
    params: Mapping[str, Any],
    curves: Mapping[str, Sequence[float]],
    *,
    lr: float,
    best: tuple[int | None, Mapping[str, float]],
    metrics: Sequence[str],
) -> None:
    """Write the run of a fit as its own loggers would: the curves, and its row for the HParams tab.

    Args:
        folder: The run.
        params: What the trial tried, by name.
        curves: Name to one number an epoch.
        lr: The learning rate.
        best: The best epoch and all metrics of it; None and nothing if no epoch had a finite value.
        metrics: Names of the objectives.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard.summary import hparams

    epoch_of_best, found = best
    results = dict.fromkeys([*metrics, *(name for name in sorted(found) if name.startswith("val_"))])
    row = {f"hp/{name}": found[name] for name in results if name in found}
    shown = {name: plain(value) for name, value in params.items()}
    summaries = [(each, 0) for each in hparams(shown, row)] if row else []  # type: ignore[no-untyped-call]
    for epoch, _ in enumerate(curves["train_loss"]):
        values = {"lr": lr, **{name: curve[epoch] for name, curve in curves.items()}, "epoch": float(epoch)}
        if epoch == epoch_of_best:
            values |= {**found, **row}
        tags = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        summaries.append((Summary(value=tags), epoch))
    _write(folder, summaries)


def _write(folder: Path, summaries: Sequence[tuple[Any, int]]) -> None:
    """Write an event file in one go: TensorBoard's writer starts a thread for it, which takes longer."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    now = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{int(now):010d}.{platform.node()}.{os.getpid()}.{next(_FILES)}"
    with (folder / name).open("wb") as file:
        records = RecordWriter(file)
        records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for summary, step in summaries:
            records.write(Event(wall_time=now, step=step, summary=summary).SerializeToString())


class Trials:
    """Trains trials. What it finds stands in their user attributes.

    These are `verdict`, `cause` and `why` (the diagnosis), `epochs` (trained, over all fits), `best_epoch` and
    `metrics` (of the best epoch, with several fits their mean).

    Args:
        cli: The command.
        space: Names that are searched.
        folder: The study's folder; a trial's TensorBoard run is `trial_NUMBER` in it.
    """

    def __init__(self, cli: StudyCLI, space: Iterable[str], folder: Path) -> None:
        self.cli = cli
        self.study = cli.study
        self.folder = folder
        self.space = list(space)
        self.shown = short_names(self.space)
        self._threads = torch.get_num_threads()

    def train(self, trial: "Trial", values: Mapping[str, Any]) -> list[float]:
        """Fit with the values; the objectives, each the mean over the fits of its value in the best epoch.

        Raises:
            SearchError: A metric that is never logged.
            optuna.TrialPruned: The trial is hopeless.
        """
        forget_attempts(trial.study, trial.number, trial.user_attrs, self.folder)
        return self.fits(trial, values, number=trial.number, others_learn=lambda: others_learn(trial))

    def fits(
        self, trial: Any, values: Mapping[str, Any], *, number: int, others_learn: Callable[[], bool]
    ) -> list[float]:
        """The fits of a trial, as `train`.

        Args:
            trial: The trial, or what stands for it; None on all ranks of a fit but the first.
            values: Flag to value.
            number: The trial's.
            others_learn: Asked whether other trials learned something.
        """
        fits: list[_Fit] = []
        for index in range(self.study.fits):
            fit = _Fit(self, trial, values, index=index, number=number, next_step=fits[-1].next_step if fits else 0)
            fits.append(fit)
            try:
                trainer = fit.run(others_learn)
            finally:
                torch.set_num_threads(self._threads)  # for a fit after the study
                if trial is not None:
                    _store(trial, fits)
            if self.study.pruner == "wilcoxon":
                _compare_fits(trial, fit, trainer)
        return [statistics.fmean(fit.objective(name) for fit in fits) for name in self.study.metrics]

    def run_folder(self, number: int, index: int) -> Path:
        """The TensorBoard run of one of a trial's fits."""
        run = f"trial_{number:03d}"
        return self.folder / (run if self.study.fits == 1 else f"{run}_fit_{index}")

    def steps_a_fit(self) -> int:
        """Steps that a fit reports, at least; the reports of all trials' second fits then stand side by side."""
        return max(self.cli.trainer.max_epochs or 0, 0)


class _Fit:
    """One fit of a trial."""

    def __init__(
        self, trials: Trials, trial: Any, values: Mapping[str, Any], *, index: int, number: int, next_step: int
    ) -> None:
        study = trials.study
        self.trials, self.values, self.index = trials, values, index
        params = {trials.shown[name]: value for name, value in values.items()}
        self.watch = TrialWatch(
            study.metrics[0], high=study.directions[0] == "maximize", params=params, metrics=study.metrics
        )
        self.monitor = TrialMonitor()
        self._first_step = max(index * trials.steps_a_fit(), next_step)
        self._pruning = TrialPruning(trial, study.metrics[0], first_step=self._first_step)
        self._folder = trials.run_folder(number, index)

    @property
    def next_step(self) -> int:
        """Where the next fit of the trial goes on reporting."""
        return self._pruning.next_step

    def run(self, others_learn: Callable[[], bool]) -> Trainer:
        """Train."""
        study, cli = self.trials.study, self.trials.cli
        callbacks: list[Any] = [self.watch, self.monitor]
        # With wilcoxon whole fits are compared, not their epochs.
        callbacks += [self._pruning] if study.pruner != "wilcoxon" else []
        callbacks += [HopelessTrial(self.monitor, others_learn)] if study.prune_hopeless else []
        torch.set_num_threads(self.trials._threads)  # as many as a fit of its own would begin with
        seed, held_out = divmod(self.index, max(study.folds, 1))
        one = cli.variant(
            self.values,
            cli.base_seed + seed,
            folder=self._folder,
            callbacks=callbacks,
            held_out=held_out if study.folds else None,
        )
        limit_threads(one.trainer, one.model, getattr(one.datamodule, "resolved_batch_size", None))
        one.trainer.fit(one.model, datamodule=one.datamodule)
        self._check_metrics(one.trainer)
        return one.trainer

    def objective(self, name: str) -> float:
        """An objective in the best epoch; NaN if there was none."""
        return self.watch.best.get(name, float("nan"))

    def verdict(self) -> tuple[str, ...]:
        """Verdict, cause and reason; nothing if the fit ended before there were any."""
        lost, found = self.watch.lost, self.monitor.diagnosis
        if lost is not None and found is not None and found.fit is Fit.UNKNOWN:  # too short for its curves to tell
            return Fit.DIVERGED.value, "exploded", f"{self.watch.metric} is {lost}."
        return () if found is None else (found.fit.value, found.cause, found.reason)

    def _check_metrics(self, trainer: Trainer) -> None:
        there = trainer.callback_metrics
        for name in self.trials.study.metrics:
            if name not in there:
                listed = ", ".join(sorted(there)) or "nothing"
                raise SearchError(f"--study.metric={name} is never logged; logged are: {listed}.")


def _store(trial: "Trial", fits: list[_Fit]) -> None:
    """Write what is known of a trial so far: of several fits the last one's diagnosis and the mean metrics."""
    # `reason` is why a trial failed or was pruned
    for name, value in zip(("verdict", "cause", "why"), fits[-1].verdict(), strict=False):
        trial.set_user_attr(name, value)
    whole = [fit.watch for fit in fits if fit.watch.best_epoch is not None]
    trial.set_user_attr("epochs", sum(fit.watch.epochs for fit in fits))
    if whole:
        names = [name for name in whole[0].best if all(name in watch.best for watch in whole)]
        means = {name: statistics.fmean(watch.best[name] for watch in whole) for name in names}
        trial.set_user_attr("best_epoch", whole[-1].best_epoch)
        trial.set_user_attr("metrics", means)


def _compare_fits(trial: Any, fit: _Fit, trainer: Trainer) -> None:
    from optuna import TrialPruned

    worse = False
    if trial is not None:
        trial.report(fit.objective(fit.trials.study.metrics[0]), fit.index)
        worse = trial.should_prune()
    if trainer.strategy.broadcast(worse, src=0):
        raise TrialPruned(f"WilcoxonPruner: worse than the best trial over {fit.index + 1} fits")


def forget_attempts(study: "Study", number: int, attrs: Mapping[str, Any], folder: Path) -> None:
    """Remove the TensorBoard runs of attempts at a trial that were killed: one run a trial."""
    if "origin" not in attrs:
        return
    place = attrs.get("place")
    for other in study.get_trials(deepcopy=False):
        if other.number != number and other.user_attrs.get("place") == place:
            run = f"trial_{other.number:03d}"
            for path in (folder / run, *folder.glob(f"{run}_fit_*")):
                with suppress(OSError):
                    shutil.rmtree(path)
