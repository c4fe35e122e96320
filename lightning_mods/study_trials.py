"""A trial of a study: one fit, or one for each seed and fold, through the command line's own machinery."""

import shutil
import statistics
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Trainer

from callbacks import TrialPruning
from callbacks.diagnosis import Fit
from callbacks.search import SearchError
from lightning_mods.study_cli import StudyCLI
from lightning_mods.study_names import short_names
from lightning_mods.study_watch import HopelessTrial, TrialMonitor, TrialWatch, others_learn
from lightning_mods.threads import limit_threads

if TYPE_CHECKING:
    from optuna import Study, Trial


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
