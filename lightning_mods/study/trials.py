"""Trains the trials of a study: each one fit, or one for each seed and fold, as the command line would make it."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from callbacks.diagnosis.names import is_validation, logged_as
from callbacks.host.lightning import TensorBoardLogger
from callbacks.host.packages import Trainer
from callbacks.search.plan import SearchError
from callbacks.tuning.ensembles import KeptFit, KeptFits
from callbacks.tuning.observer import TrialObserver
from callbacks.tuning.study import plain, write_events
from callbacks.tuning.trials import GroupedTrialRunner, TrialEnd, TrialFit, TrialRunner, TrialSettings, TrialTemplate
from datamodules import TabularDataModule
from lightning_mods.cli.verbs import limit_threads
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.fused.group import RATES
from lightning_mods.models.fused.group_updates import is_known_beside_others
from lightning_mods.models.regressor import MLPRegressor
from lightning_mods.study.trial_cli import StudyCLI, short_names

if TYPE_CHECKING:
    from optuna import Study


class StudyFits:
    """Makes the fits of a study's trials, and their runners; a TensorBoard run is `trial_NUMBER` in the folder."""

    def __init__(self, cli: StudyCLI, space: Iterable[str], folder: Path) -> None:
        self._cli, self._flags, self._folder = cli, cli.study, folder
        self._space = list(space)
        self._shown = short_names(self._space)
        self._threads = torch.get_num_threads()
        self._templates: dict[tuple[str, int], StudyCLI] = {}
        high = self._flags.directions[0] == "maximize"
        self._kept = KeptFits(folder, high=high) if cli.config.ensemble else None

    def runner(self, *, ended: bool = True) -> TrialRunner:
        """Make the runner of one trial after the other; `ended` looks after them, not in a rank, which has no study."""
        flags = self._flags
        settings = TrialSettings(
            flags.metrics,
            flags.directions[0] == "maximize",
            self._cli.trainer.max_epochs or 0,
            fits=flags.fits,
            prunes_hopeless=flags.prune_hopeless,
            compares_fits=flags.pruner == "wilcoxon",
            keeps_weights=self._kept is not None,
        )
        return TrialRunner(settings, self.fit, self._end if ended else None)

    def grouped(self) -> GroupedTrialRunner:
        """Make the runner that trains many trials at once where they are MLPs that differ in numbers alone."""
        at_once = self._flags.fused is not False and not obstacle(self._cli, self._space)
        workers = self._flags.workers
        return GroupedTrialRunner(
            self.runner(), self.template, names=self._space, rates=self._rates, at_once=at_once, workers=workers
        )

    @property
    def _rates(self) -> dict[str, str]:
        # The flags in which trials of a group may differ.
        own = "model" if self._cli.config.get("optimizer") is None else "optimizer"
        return {rate: f"{'model' if rate == 'dropout' else own}.{rate}" for rate in RATES}

    def fit(self, fit: TrialFit) -> Trainer:
        """Train a fit as a command of its own would, and return its trainer."""
        torch.set_num_threads(self._threads)  # as many as a fit of its own would begin with
        fit.observer.improved = _HParamsRow(fit.observer, self._params(fit.values), self._flags.metrics)
        seed, held_out = self._seed_and_fold(fit.index)
        folder = self._run_folder(fit.number, fit.index)
        try:
            one = self._cli.variant(fit.values, seed, folder=folder, callbacks=fit.callbacks, held_out=held_out)
            limit_threads(one.trainer, one.model, one.datamodule)
            one.trainer.fit(one.model, datamodule=one.datamodule)
        finally:
            torch.set_num_threads(self._threads)  # for a fit after the study
        there = one.trainer.callback_metrics
        for name in self._flags.metrics:
            if logged_as(name, there) not in there:
                listed = ", ".join(sorted(there)) or "nothing"
                raise SearchError(f"--study.metric={name} is never logged; logged are: {listed}.")
        return one.trainer

    def template(self, values: Mapping[str, Any], index: int) -> TrialTemplate:
        """Return what trials that differ in their rates alone have in common in one of their fits."""
        others = {name: value for name, value in values.items() if name not in self._rates.values()}
        key = json.dumps(others, sort_keys=True), index
        seed, held_out = self._seed_and_fold(index)
        if key not in self._templates:
            one = self._cli.variant(values, seed, held_out=held_out)
            one.datamodule.prepare_data()
            one.datamodule.setup("fit")
            self._templates[key] = one
        one, data = self._templates[key], self._templates[key].datamodule
        trainer, rows = one.trainer, data.resolved_batch_size
        clipping = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        optimizer = None if self._cli.config.get("optimizer") is None else self._cli.optimizer_for
        return TrialTemplate(
            one.model, data.train_dataloader(), data.val_dataloader(), rows, seed, *clipping, optimizer
        )

    def _seed_and_fold(self, index: int) -> tuple[int, int | None]:
        seed, held_out = divmod(index, max(self._flags.folds, 1))
        return self._cli.base_seed + seed, held_out if self._flags.folds else None

    def _run_folder(self, number: int, index: int) -> Path:
        run = f"trial_{number:03d}"
        return self._folder / (run if self._flags.fits == 1 else f"{run}_fit_{index}")

    def _params(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {self._shown[name]: value for name, value in values.items()}

    def _end(self, end: TrialEnd) -> None:
        """Keep one TensorBoard run a trial; write that of a fit that no trainer ran as its own loggers would.

        Keep its weights, where they are wanted: those of the best epoch, also of a trial that did not come to its end.
        """
        forget_attempts(end.study, end.number, end.attrs, self._folder)
        if self._kept is not None:
            for index, fit in enumerate(end.fits):
                value = fit.best.get(self._flags.metrics[0], float("nan"))
                self._kept.keep(KeptFit(end.number, index, value, end.values, fit.weights))
        if self._cli.config.trainer.logger is False:
            return
        for index, fit in enumerate(end.fits):
            if not fit.curves:
                continue
            row = _hparams_row(fit.best, self._flags.metrics)
            scalars = [
                {**{name: curve[epoch] for name, curve in fit.curves.items()}, "epoch": float(epoch)}
                for epoch in range(fit.epochs)
            ]
            if fit.best_epoch is not None:
                scalars[fit.best_epoch] |= {**fit.best, **row}
            write_events(self._run_folder(end.number, index), self._params(end.values), row, scalars)


def _hparams_row(found: Mapping[str, float], metrics: Sequence[str]) -> dict[str, float]:
    """The results of a fit for TensorBoard's HParams tab."""
    names = dict.fromkeys([*metrics, *filter(is_validation, sorted(found))])
    return {f"hp/{name}": found[name] for name in names if name in found}


class _HParamsRow:
    """Writes the best epoch's metrics of a fit into the HParams tab of its TensorBoard run."""

    def __init__(self, observer: TrialObserver, params: Mapping[str, Any], metrics: Sequence[str]) -> None:
        self._observer, self._metrics = observer, metrics
        self._params = {name: plain(value) for name, value in params.items()}
        self._is_described = False

    def __call__(self, trainer: Trainer) -> None:
        row = _hparams_row(self._observer.best, self._metrics)
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger) or not row:
                continue
            if self._is_described:
                logger.log_metrics(row, step=trainer.current_epoch)
            else:
                logger.log_hyperparams(self._params, row)
        self._is_described = self._is_described or bool(row)


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


# Flags of the trainer that say where, how long and how loud; with any other, trials are trained by a Trainer.
_HARMLESS = {
    "max_epochs", "default_root_dir", "logger", "accelerator", "devices", "log_every_n_steps", "num_sanity_val_steps",
    "enable_progress_bar", "enable_checkpointing", "enable_model_summary",
    "gradient_clip_val", "gradient_clip_algorithm",
}  # fmt: skip


def obstacle(cli: StudyCLI, space: Iterable[str]) -> str:
    """Return why the trials of a study cannot be trained at once, in a few words; empty if they can."""
    ours = type(cli.model) in (MLPClassifier, MLPRegressor) and type(cli.datamodule) is TabularDataModule
    if not ours or cli.model.chain_rule() is None:
        return "the model or the data is not ours"
    if cli.datamodule.weight is not None:
        return "rows have weights"
    if cli.config.get("lr_scheduler") is not None and cli.config.get("optimizer") is None:
        return "a schedule of their own"
    if cli.config.get("optimizer") is not None and not is_known_beside_others(*cli.optimizer_for({})):
        return "an optimizer or a schedule that is not known"
    searched = ("model.", "optimizer.", "lr_scheduler.")
    if others := [name for name in space if not name.startswith(searched) and name != "data.batch_size"]:
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
