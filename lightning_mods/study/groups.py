"""`GroupedTrials`: the trials of a study, trained together where they are MLPs that differ in numbers alone."""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from callbacks.diagnosis.verdict import Diagnosis, Fit, diagnose
from callbacks.search.waves import Ended, Member
from datamodules import TabularDataModule
from lightning_mods.fused.group import MOST, RATES, TrialGroup
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.regressor import MLPRegressor
from lightning_mods.study.trial_cli import StudyCLI
from lightning_mods.study.trials import Trials, forget_attempts, write_run

if TYPE_CHECKING:
    from optuna import Study, Trial


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


_GENERATIONS = 4  # of trials that a study is asked for at least: each learns from those before
# Flags of the trainer that say where, how long and how loud; with any other, trials are trained by a Trainer.
_HARMLESS = {
    "max_epochs", "default_root_dir", "logger", "accelerator", "devices", "log_every_n_steps", "num_sanity_val_steps",
    "enable_progress_bar", "enable_checkpointing", "enable_model_summary",
}  # fmt: skip


class GroupedTrials:
    """Trains the trials of a study: together where each of them comes out as it would alone, else one by one.

    Args:
        trials: How one is trained alone.
    """

    def __init__(self, trials: Trials) -> None:
        self._trials = trials
        self._cli, self._study = trials.cli, trials.study
        self._templates: dict[tuple[str, int], StudyCLI] = {}
        self._obstacle = obstacle(trials.cli, trials.space)

    def __call__(self, trial: "Trial", values: Mapping[str, Any]) -> list[float]:
        """Train one."""
        return self._trials.train(trial, values)

    def together(self, n_trials: int) -> int:
        """How many trials to ask for at once."""
        if self._study.fused is False or self._obstacle:
            return 1
        return max(2, min(MOST, n_trials // (_GENERATIONS * self._study.workers)))

    def alike(self) -> list[str]:
        """What the trials of a group have in common: all but the rates."""
        return [name for name in self._trials.space if not _is_rate(name)]

    def epochs(self) -> int:
        """Epochs of a trial, over all its fits."""
        return self._study.fits * int(self._cli.trainer.max_epochs or 0)

    def groups(self, members: Sequence[Member], study: "Study") -> list[StudyGroup]:
        """Groups of those that differ in their rates alone."""
        alike: dict[str, list[Member]] = {}
        for member in members:
            alike.setdefault(_others(member.values), []).append(member)
        return [group for some in alike.values() for group in self._groups_of(some, study)]

    def _groups_of(self, members: Sequence[Member], study: "Study") -> list[StudyGroup]:
        others = _others(members[0].values)
        try:
            one = self._template(others, members[0].values, 0)
            rows = one.datamodule.resolved_batch_size
        except Exception:  # noqa: BLE001  # each of them will meet it alone, and say so
            return []
        size = one.model.trials_at_once(rows)
        if not size:
            return []
        parts = [members[at : at + size] for at in range(0, len(members), size)]
        return [
            StudyGroup(self._trials, part, study, lambda index: self._template(others, members[0].values, index))
            for part in parts
        ]

    def _template(self, others: str, values: Mapping[str, Any], index: int) -> StudyCLI:
        """The model, not to be changed, and the data of one of the fits of all trials that differ in rates alone."""
        if (others, index) not in self._templates:
            seed, held_out = divmod(index, max(self._study.folds, 1))
            held = held_out if self._study.folds else None
            one = self._cli.variant(values, self._cli.base_seed + seed, held_out=held)
            one.datamodule.prepare_data()
            one.datamodule.setup("fit")
            self._templates[others, index] = one
        return self._templates[others, index]


def _others(values: Mapping[str, Any]) -> str:
    """All values but the rates, as a key."""
    return json.dumps({name: value for name, value in values.items() if not _is_rate(name)}, sort_keys=True)


def _is_rate(name: str) -> bool:
    section, _, rate = name.partition(".")
    return section == "model" and rate in RATES


def obstacle(cli: StudyCLI, space: Iterable[str]) -> str:
    """Why the trials of a study cannot be trained together, in a few words; empty if they can."""
    ours = type(cli.model) in (MLPClassifier, MLPRegressor) and type(cli.datamodule) is TabularDataModule
    if not ours or cli.model.chain_rule() is None:
        return "the model or the data is not ours"
    if cli.config.get("optimizer") is not None or cli.config.get("lr_scheduler") is not None:
        return "an optimizer or a schedule of their own"
    if others := [name for name in space if not name.startswith("model.") and name != "data.batch_size"]:
        return f"{others[0]} is searched"
    if cli.trainer.strategy.root_device.type != "cpu" or cli.trainer.world_size > 1:
        return "not one CPU"
    given, usual = cli.config.trainer.as_dict(), cli.parser.get_defaults().trainer.as_dict()
    odd = [name for name in given if name not in _HARMLESS and given[name] != usual[name] and given[name] != []]
    if odd or given["logger"] not in (None, True, False) or not (given["max_epochs"] or 0) > 0:
        return f"trainer.{(odd or ['logger or max_epochs'])[0]}"
    known = {"val_loss", *(f"val_{name}" for name in cli.model.metric_names)}
    if not {*cli.study.metrics} <= known or (not cli.datamodule.val_fraction and not cli.datamodule.val_path):
        return "the metric"
    return ""
