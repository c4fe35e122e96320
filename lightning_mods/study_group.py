"""`StudyGroup`: trials of a study that differ in their rates alone, trained as one batched model."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from callbacks.diagnosis import Diagnosis, Fit, diagnose
from callbacks.search import Ended, Member
from lightning_mods.study_cli import StudyCLI
from lightning_mods.study_run import write_run
from lightning_mods.study_trials import Trials, forget_attempts
from lightning_mods.trial_group import TrialGroup
from lightning_mods.trial_group_network import RATES

if TYPE_CHECKING:
    from optuna import Study

_JUDGED = ("val_accuracy", "val_r2")  # what a `FitMonitor` takes for the metric of our models
_NEAR = 0.9  # of the trivial loss: who is below has learned something, and has not diverged


class StudyGroup:
    """Trials that are trained in step; what is found of each is what its own fit would find.

    Args:
        trials: How the study trains.
        members: The trials; all but their rates are alike.
        study: The study.
        template: Makes the model and the data of one of the fits, by its number.
    """

    def __init__(
        self, trials: Trials, members: Sequence[Member], study: "Study", template: Callable[[int], StudyCLI]
    ) -> None:
        self.members = members
        self._template = template
        self._trials, self._study = trials, study
        self._cli, self._flags = trials.cli, trials.study
        self._monitor, self._high = self._flags.metrics[0], self._flags.directions[0] == "maximize"
        self._places = {member.number: place for place, member in enumerate(members)}
        self._there = list(self._places)
        self._fits: list[TrialGroup] = []
        self._epochs = int(trials.cli.trainer.max_epochs or 0)
        self._others_learn = False
        self._baseline: float | None = None

    def run(self, epochs: int) -> None:
        """Train those that are left until so many epochs are done, over all fits."""
        for epoch in range(sum(fit.epochs for fit in self._fits), epochs):
            index, within = divmod(epoch, self._epochs)
            if index == len(self._fits):
                self._fits.append(self._fit(index))
            self._fits[index].run(within + 1)

    def _fit(self, index: int) -> TrialGroup:
        one = self._template(index)
        self._baseline = one.model.baseline_loss
        names = {name: f"model.{name}" for name in RATES}
        fit: TrialGroup = one.model.trial_group(
            [{rate: each.values[name] for rate, name in names.items() if name in each.values} for each in self.members],
            seed=self._cli.base_seed + index // max(self._flags.folds, 1),
            train=one.datamodule.train_dataloader(),
            val=one.datamodule.val_dataloader(),
            monitor=self._monitor,
            high=self._high,
            curves=[*self._flags.metrics, *_JUDGED],
        )
        fit.keep([self._places[number] for number in self._there])
        return fit

    def keep(self, numbers: Sequence[int]) -> None:
        """Go on with these alone."""
        self._there = list(numbers)
        if self._fits:
            self._fits[-1].keep([self._places[number] for number in numbers])

    def reports(self, number: int) -> list[float]:
        """The metric after each epoch, over all fits."""
        place = self._places[number]
        return [value for fit in self._fits for value in fit.curves[place].get(self._monitor, [])]

    # ------------------------------------------------------------------ judging

    def hopeless(self, number: int) -> str:
        """Why a trial is pruned at once; empty if it is not."""
        values = self.reports(number)
        if not isfinite(values[-1]):
            return f"{self._monitor} is {values[-1]} at step {len(values) - 1}"
        if not self._flags.prune_hopeless or self._has_learned(number):
            return ""
        found = self._diagnosis(number)
        if found.fit is Fit.DIVERGED or (found.cause == "not_learning" and self._is_late() and self._do_others_learn()):
            return f"{found.fit}, {found.cause.replace('_', ' ')}: {found.reason}"
        return ""

    def _has_learned(self, number: int) -> bool:
        """Whether a look at the last loss shows it already: a diagnosis after every epoch costs more than the epoch."""
        last = self._fits[-1].curves[self._places[number]]["val_loss"][-1]
        return self._baseline is not None and last < _NEAR * self._baseline

    def _is_late(self) -> bool:
        return 4 * self._fits[-1].epochs >= self._epochs  # a slow start is no failure

    def _do_others_learn(self) -> bool:
        if not self._others_learn:
            whole = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
            self._others_learn = any(trial.user_attrs.get("cause", "not_learning") != "not_learning" for trial in whole)
        return self._others_learn

    def _diagnosis(self, number: int) -> Diagnosis:
        curves = self._fits[-1].curves[self._places[number]]
        metric = next((curves[name] for name in _JUDGED if name in curves), None)
        return diagnose(curves["train_loss"], curves["val_loss"], val_metric=metric, baseline_loss=self._baseline)

    # ------------------------------------------------------------------ the end

    def end(self, number: int, reason: str) -> Ended:
        """What became of a trial, and its TensorBoard run."""
        place = self._places[number]
        found = [fit.best_metrics(place) for fit in self._fits]
        attrs = {**self._verdict(number), "epochs": len(self.reports(number))}
        whole = [(fit.best_epochs[place], best) for fit, best in zip(self._fits, found, strict=True) if best]
        if whole:
            names = [name for name in whole[0][1] if all(name in best for _, best in whole)]
            attrs["best_epoch"] = whole[-1][0]
            attrs["metrics"] = {name: statistics.fmean(best[name] for _, best in whole) for name in names}
        self._write(number, found)
        nothing = float("nan")
        return Ended([statistics.fmean(best.get(n, nothing) for best in found) for n in self._flags.metrics], attrs)

    def _verdict(self, number: int) -> dict[str, str]:
        found, last = self._diagnosis(number), self.reports(number)[-1]
        verdict = (found.fit.value, found.cause, found.reason)
        if not isfinite(last) and found.fit is Fit.UNKNOWN:  # too short for its curves to tell
            verdict = (Fit.DIVERGED.value, "exploded", f"{self._monitor} is {last}.")
        return dict(zip(("verdict", "cause", "why"), verdict, strict=True))

    def _write(self, number: int, best: Sequence[Mapping[str, float]]) -> None:
        place = self._places[number]
        member = self.members[place]
        forget_attempts(self._study, number, member.attrs, self._trials.folder)
        if self._cli.config.trainer.logger is False:
            return
        params: dict[str, Any] = {self._trials.shown[name]: value for name, value in member.values.items()}
        for index, fit in enumerate(self._fits):
            write_run(
                self._trials.run_folder(number, index),
                params,
                fit.curves[place],
                lr=fit.rates[place].lr,
                best=(fit.best_epochs[place], best[index]),
                metrics=self._flags.metrics,
            )
