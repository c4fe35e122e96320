"""Runs the trials of a search: alone, on every rank of a fit, or many at once. How a fit is made is its caller's."""

import json
import logging
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from callbacks.diagnosis.names import logged_as
from callbacks.fit.reader import baseline_of
from callbacks.host.packages import PACKAGES, Callback, Trainer, isolated_random_numbers
from callbacks.search.waves import SampledTrial, TrialOutcome
from callbacks.tuning.observer import TrialObserver, TrialPruning

if TYPE_CHECKING:
    from optuna import Study, Trial


ATTRS = ("verdict", "cause", "why", "epochs", "best_epoch", "metrics")  # user attributes that a trial may get


@dataclass(frozen=True)
class TrialSettings:
    """Says what a trial is, and what counts of it."""

    metrics: Sequence[str]  # names of the objectives; the best epoch is by the first
    high: bool  # whether the first is good when it is high
    max_epochs: int  # of a fit; below 0 if other limits end it
    val_loss: str = "val_loss"
    keeps_best: bool = True  # whether the best epoch's values count, else the last one's
    fits: int = 1  # of a trial, whose mean counts
    prunes_hopeless: bool = True  # whether to end a trial that has diverged, or learns nothing
    compares_fits: bool = False  # whether Optuna's pruner is told of whole fits, not of their epochs
    attrs: Sequence[str] = ATTRS  # those to keep of a trial
    keeps_weights: bool = False  # whether those of a fit's best epoch are wanted when its trial ends

    def observer(self, others_learn: Callable[[], bool]) -> TrialObserver:
        """Make the observer of a fit."""
        return TrialObserver(
            self.metrics[0],
            high=self.high,
            val_loss=self.val_loss,
            prunes=self.prunes_hopeless,
            others_learn=others_learn,
            keeps_weights=self.keeps_weights,
        )

    def objectives(self, fits: Sequence[TrialObserver]) -> list[float]:
        """Return what a trial came to, the mean over its fits; NaN where there is nothing."""
        if not self.keeps_best:
            return [statistics.fmean(fit.values[-1] if fit.values else float("nan") for fit in fits)]
        return [statistics.fmean(_of(fit.best, name) for fit in fits) for name in self.metrics]

    def found(self, fits: Sequence[TrialObserver]) -> dict[str, Any]:
        """Return a trial's user attributes so far: the last fit's verdict, and means over all of them."""
        verdict, cause, why = fits[-1].verdict()
        attrs = {"verdict": verdict, "cause": cause, "why": why, "epochs": sum(fit.epochs for fit in fits)}
        whole = [fit for fit in fits if fit.best_epoch is not None]
        if whole:
            names = [name for name in whole[0].best if all(name in fit.best for fit in whole)]
            attrs["best_epoch"] = whole[-1].best_epoch
            attrs["metrics"] = {name: statistics.fmean(fit.best[name] for fit in whole) for name in names}
        return {name: value for name, value in attrs.items() if name in self.attrs}


def _of(best: Mapping[str, float], name: str) -> float:
    return best.get(logged_as(name, best), float("nan"))


@dataclass(frozen=True)
class TrialFit:
    """Describes a fit to be trained."""

    number: int  # the trial's
    index: int  # which of the trial's fits, from 0
    values: Mapping[str, Any]  # what the trial tries, by name
    observer: TrialObserver
    callbacks: Sequence[Callback]  # for its trainer, the observer first


@dataclass(frozen=True)
class TrialEnd:
    """Tells of a trial that has ended."""

    study: "Study"
    number: int
    attrs: Mapping[str, Any]  # the user attributes it was started with
    values: Mapping[str, Any]  # what it tried, by name
    fits: Sequence[TrialObserver]
    result: Sequence[float] | None  # None if it was pruned or failed


class TrialRunner:
    """Trains the trials of one study, one after the other."""

    def __init__(
        self,
        settings: TrialSettings,
        fit: Callable[[TrialFit], Trainer],  # trains one fit of a trial, and returns its trainer
        ended: Callable[[TrialEnd], object] | None = None,  # called when a trial has ended, however it did
    ) -> None:
        self.settings, self.ended, self._fit = settings, ended, fit
        self._others_learn = False  # who has learned something once stays in the study

    def __call__(self, trial: "Trial", values: Mapping[str, Any]) -> list[float]:
        """Train a trial and return its objectives; a `SearchError` is what every trial would meet."""
        return self.train(trial, values, number=trial.number, others_learn=lambda: self.others_learn(trial.study))

    def train(
        self, trial: Any, values: Mapping[str, Any], *, number: int, others_learn: Callable[[], bool]
    ) -> list[float]:
        """Train a trial as one of the ranks that do.

        `trial` is None on all ranks but the first, where other things may stand for it too and `others_learn` is asked.
        """
        settings, fits, next_step, result = self.settings, list[TrialObserver](), 0, None
        try:
            for index in range(settings.fits):
                fits.append(settings.observer(others_learn))
                # The reports of all trials' second fits stand side by side.
                first = max(index * max(settings.max_epochs, 0), next_step)
                pruning = TrialPruning(trial, settings.metrics[0], first_step=first)
                callbacks = [fits[-1]] if settings.compares_fits else [fits[-1], pruning]
                try:
                    trainer = self._fit(TrialFit(number, index, values, fits[-1], callbacks))
                finally:
                    if trial is not None:
                        for name, value in settings.found(fits).items():
                            trial.set_user_attr(name, value)
                next_step = pruning.next_step
                if settings.compares_fits:
                    _compare_fits(trial, settings.objectives(fits[-1:])[0], index, trainer)
            result = settings.objectives(fits)
            return result
        finally:
            if self.ended is not None and trial is not None and fits:
                self.ended(TrialEnd(trial.study, number, trial.user_attrs, values, fits, result))

    def others_learn(self, study: "Study") -> bool:
        """Return whether a whole trial of the study learned something."""
        self._others_learn = self._others_learn or others_learn(study)
        return self._others_learn


def others_learn(study: "Study") -> bool:
    """Return whether a whole trial of the study learned something."""
    whole = [each for each in study.get_trials(deepcopy=False) if each.state.name == "COMPLETE"]
    return any(each.user_attrs.get("cause", "not_learning") != "not_learning" for each in whole)


def _compare_fits(trial: Any, value: float, index: int, trainer: Trainer) -> None:
    from optuna import TrialPruned

    worse = False
    if trial is not None:
        trial.report(value, index)
        worse = trial.should_prune()
    if trainer.strategy.broadcast(worse, src=0):
        raise TrialPruned(f"WilcoxonPruner: worse than the best trial over {index + 1} fits")


MOST = 16  # trials at once: by then there is nothing left of the costs that they share
GENERATIONS = 4  # times at least that a study is asked, as each trial learns from those before
CURVES = ("val_accuracy", "val_r2")  # what of our own models' metrics a verdict goes by


class BatchedFits(Protocol):
    """Trains fits in step, which are named by their places."""

    curves: Sequence[Mapping[str, Sequence[float]]]  # of each fit: one number an epoch by name

    def run(self, epochs: int) -> None:
        """Train until so many epochs are done."""

    def keep(self, trials: Sequence[int]) -> None:
        """Go on with these alone."""

    def best_metrics(self, trial: int) -> dict[str, float]:
        """Return all metrics of a fit's best epoch by name; nothing if there is none."""

    def best_weights(self, trial: int) -> Mapping[str, Any]:
        """Return the module's state in a fit's best epoch; nothing if there is none."""


@runtime_checkable
class BatchesTrials(Protocol):
    """Names a module that can train many fits of itself at once, each to the numbers it would come to alone."""

    def trials_at_once(self, rows: int) -> int:
        """Return how many, with mini-batches of so many rows; 0 if each is better trained alone."""

    def trial_group(self, rates: Sequence[Mapping[str, float]], **how: Any) -> BatchedFits | None:
        """Make the fits from the weights as they are; None if the module cannot.

        Of each fit `rates` says what differs from the module's own, such as `lr`. The rest is the `seed` of the run,
        `train` and `val` loaders, `monitor` and whether it is good when `high`, further `curves` that are wanted, of
        the fits' trainer `max_epochs`, `gradient_clip_val` and `gradient_clip_algorithm`, and where they are not the
        module's own, each fit's `optimizers` with its schedule.
        """


@dataclass(frozen=True)
class TrialTemplate:
    """Holds what the fits of trials have in common that are trained at once."""

    module: Any  # not to be changed
    train: Any  # loader
    val: Any  # loader
    rows: int  # of a batch
    seed: int
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    optimizer: Callable[[Mapping[str, Any]], Any] | None = None  # of a trial's values, where it is not the module's


class GroupedTrialRunner:
    """Trains the trials of one study: at once where each comes out as it would alone, else one by one."""

    def __init__(
        self,
        runner: TrialRunner,
        # Makes what trials with these values have in common in their fit of that index; None: to be trained alone.
        template: Callable[[Mapping[str, Any], int], TrialTemplate | None],
        *,
        names: Sequence[str],  # of what is searched
        rates: Mapping[str, str],  # the module's word for what trials of a group may differ in, to the searched name
        at_once: bool,  # whether any trials can be trained at once
        workers: int = 1,  # processes that train the study's trials
    ) -> None:
        self.runner, self.rates = runner, rates
        self._template, self._names, self._at_once, self._workers = template, names, at_once, workers

    def __call__(self, trial: "Trial", values: Mapping[str, Any]) -> list[float]:
        """Train one."""
        return self.runner(trial, values)

    def together(self, n_trials: int) -> int:
        """Return how many trials of so many to ask for at once."""
        return max(2, min(MOST, n_trials // (GENERATIONS * self._workers))) if self._at_once else 1

    def alike(self) -> list[str]:
        """Return the names whose values the trials of a group have in common."""
        return [name for name in self._names if name not in self.rates.values()]

    def epochs(self) -> int:
        """Return the epochs of a trial, over all its fits."""
        return self.runner.settings.fits * self.runner.settings.max_epochs

    def groups(self, members: Sequence[SampledTrial], study: "Study") -> list["GroupedTrials"]:
        """Return groups of those that differ in their rates alone."""
        alike: dict[str, list[SampledTrial]] = {}
        for member in members:
            others = {name: value for name, value in member.values.items() if name not in self.rates.values()}
            alike.setdefault(json.dumps(others, sort_keys=True), []).append(member)
        return [group for some in alike.values() for group in self._groups_of(some, study)]

    def _groups_of(self, members: Sequence[SampledTrial], study: "Study") -> list["GroupedTrials"]:
        try:
            one = self.template(members[0], 0)
            size = one.module.trials_at_once(one.rows) if one is not None else 0
            parts = [members[at : at + size] for at in range(0, len(members), size)] if size else []
            return [GroupedTrials(self, part, study) for part in parts]
        except Exception:  # noqa: BLE001  # each of them will meet it alone, and say so
            return []

    def template(self, member: SampledTrial, index: int) -> TrialTemplate | None:
        """Return what the trials of a member's group have in common in one of their fits."""
        with isolated_random_numbers(), quiet():
            return self._template(member.values, index)


class GroupedTrials:
    """Trains trials in step, or raises a ValueError; what is found of each is what its own fit would find."""

    def __init__(self, grouped: GroupedTrialRunner, members: Sequence[SampledTrial], study: "Study") -> None:
        self.members, self._study = members, study
        self._grouped, self._runner, self._settings = grouped, grouped.runner, grouped.runner.settings
        self._places = {member.number: place for place, member in enumerate(members)}
        self._left = list(self._places)
        self._observers: dict[int, list[TrialObserver]] = {number: [] for number in self._places}
        self._fits: list[BatchedFits] = []
        self._done = 0
        self._open()

    def _open(self) -> None:
        """Begin the next fit of the trials that are left."""
        index, metrics, names = len(self._fits), self._settings.metrics, self._grouped.rates.items()
        one = self._grouped.template(self.members[0], index)
        rates = [{rate: each.values[name] for rate, name in names if name in each.values} for each in self.members]
        wanted = {"monitor": metrics[0], "high": self._settings.high, "curves": [*metrics, *CURVES]}
        fits: BatchedFits | None = None
        if one is not None:
            limits = {name: getattr(one, name) for name in ("gradient_clip_val", "gradient_clip_algorithm")}
            limits["max_epochs"] = self._settings.max_epochs
            if one.optimizer is not None:
                limits["optimizers"] = [one.optimizer(each.values) for each in self.members]
            fits = one.module.trial_group(rates, seed=one.seed, train=one.train, val=one.val, **wanted, **limits)
        if one is None or fits is None:
            raise ValueError(f"fit {index} of these trials cannot be trained in step.")
        fits.keep([self._places[number] for number in self._left])
        self._fits.append(fits)
        for number in self._left:
            observer = self._settings.observer(lambda: self._runner.others_learn(self._study))
            observer.baseline = baseline_of(one.module)
            self._observers[number].append(observer)

    def run(self, epochs: int) -> None:
        """Train those that are left until so many epochs are done, over all fits."""
        for epoch in range(self._done, epochs):
            index, within = divmod(epoch, self._settings.max_epochs)
            if index == len(self._fits):
                self._open()
            self._fits[index].run(within + 1)
            for number in self._left:
                self._observers[number][index].take(self._fits[index].curves[self._places[number]])
        self._done = max(self._done, epochs)

    def reports(self, number: int) -> list[float]:
        """Return the metric after each epoch, over all fits."""
        return [value for observer in self._observers[number] for value in observer.values]

    def hopeless(self, number: int) -> str:
        """Return why a trial is ended at once; empty if it is not."""
        values, observer = self.reports(number), self._observers[number][-1]
        if values[-1] - values[-1] != 0:  # no finite number
            return f"{observer.metric} is {values[-1]} at step {len(values) - 1}"
        return observer.hopeless(self._settings.max_epochs) if self._settings.prunes_hopeless else ""

    def keep(self, numbers: Sequence[int]) -> None:
        """Go on with these alone."""
        self._left = list(numbers)
        self._fits[-1].keep([self._places[number] for number in numbers])

    def end(self, number: int, reason: str) -> TrialOutcome:
        """Return what became of a trial."""
        place, fits = self._places[number], self._observers[number]
        if "metrics" in self._settings.attrs:
            for observer, batch in zip(fits, self._fits, strict=True):
                observer.best = batch.best_metrics(place)
        if self._settings.keeps_weights:
            for observer, batch in zip(fits, self._fits, strict=True):
                observer.weights = batch.best_weights(place)
        member, result = self.members[place], self._settings.objectives(fits)
        if self._runner.ended is not None:
            end = TrialEnd(self._study, number, member.attrs, member.values, fits, None if reason else result)
            self._runner.ended(end)
        return TrialOutcome(result, self._settings.found(fits))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, which the fit will give too, and what Lightning tells of each of its trainers."""
    loggers = [logging.getLogger(name) for pair in PACKAGES.items() for name in pair]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
