"""Trains one trial after another on copies of a module and its data module, beside a fit that has yet to begin."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    EarlyStopping,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
)
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities.compile import to_uncompiled

from callbacks._search_error import SearchError
from callbacks._search_group import Member
from callbacks._search_random import same_random_numbers
from callbacks._search_rate import drives, moved_to, parts, set_rate
from callbacks._search_settings import batch_size_of, put
from callbacks._search_watch import TrialWatch
from callbacks.trial_pruning import TrialPruning

if TYPE_CHECKING:
    from optuna import Study, Trial

# They shape the training itself, so that a trial without them would be another fit.
TRAINING = (BaseFinetuning, EarlyStopping, GradientAccumulationScheduler, StochasticWeightAveraging)


@dataclass(frozen=True)
class Recipe:
    """How the trials train.

    Args:
        monitor: Name of the metric.
        mode: `min` or `max`.
        max_epochs: Epochs of a trial.
        keeps_best: Whether the fit keeps the weights of its best epoch: then that epoch's value counts, else the last.
        lr_name: The module's learning rate, empty if it is not searched.
        batch_size_name: The batch size, empty if it is not searched.
    """

    monitor: str
    mode: str
    max_epochs: int
    keeps_best: bool
    lr_name: str
    batch_size_name: str


@dataclass
class Trials:
    """What a search calls with each trial.

    Every trial starts from the module's weights and from the random numbers as they are now, and leaves both. The data
    module's copy is not set up again: it shares what the fit has prepared, so all trials see the same split.

    Args:
        trainer: The trainer of the fit; its precision, clipping, accumulation and limits are taken.
        module: The module of the fit.
        recipe: How to train.
        pulse: Called now and then.
        tell: Called after each trial with its values, what watched it, its result (None if it has none) and whether
            the module's rate drives the optimizer (None if that is not known).
    """

    trainer: Trainer
    module: LightningModule
    recipe: Recipe
    pulse: Callable[[], None]
    tell: Callable[["Trial | Member", Mapping[str, Any], TrialWatch, float | None, bool | None], None]
    driven: bool | None = None  # whether the module's rate reaches the optimizer; known after the first trial
    _sizes: dict[int, int] = field(default_factory=dict)
    _learned: bool = False

    def __call__(self, trial: "Trial", values: Mapping[str, Any]) -> float:
        """Train a trial, and return its value.

        Raises:
            SearchError: What every trial would meet: a rate or batch size without effect, a copy that trains nothing.
            optuna.TrialPruned: It is hopeless.
        """
        watch = TrialWatch(
            self.recipe.monitor,
            self.recipe.mode,
            baseline=baseline_of(self.module),
            is_beaten=lambda value: is_beaten(trial.study, self.recipe.mode, value),
            pulse=self.pulse,
        )
        result = None
        try:
            with same_random_numbers(), quiet():
                self._fit(trial, values, watch)
            result = watch.best() if self.recipe.keeps_best else watch.last()
        finally:
            verdict, cause = watch.fate()
            for name, value in (("verdict", verdict), ("cause", cause), ("epochs", watch.epochs)):
                trial.set_user_attr(name, value)
            self.tell(trial, values, watch, result, self.driven)
        return result

    def _fit(self, trial: "Trial", values: Mapping[str, Any], watch: TrialWatch) -> None:
        module, data = self.copies()
        rate, rows = values.get(self.recipe.lr_name), values.get(self.recipe.batch_size_name)
        if rate is not None:
            put(self.recipe.lr_name, rate, (module, data))
            self._hand_on(module, rate)
        if rows is not None:
            # So many rows make a step of the fit, over all its processes.
            put(self.recipe.batch_size_name, rows * self.trainer.world_size, (module, data))
        shaping = [copy.deepcopy(c) for c in callbacks_of(self.trainer) if isinstance(c, TRAINING)]
        trainer = self._trainer([watch, TrialPruning(trial, self.recipe.monitor), *shaping])
        try:
            trainer.fit(module, datamodule=data)
        except SystemExit as error:
            # Lightning exits on Ctrl-C; the fit around this one shall end as an interrupted fit does.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        self._check(module, rows, trainer)

    def copies(self) -> tuple[LightningModule, LightningDataModule | None]:
        try:
            module = copy.deepcopy(self.module)
        except Exception as error:  # whatever a stranger's attribute raises
            raise SearchError(f"OptunaSearch trains copies of the module, and it cannot be copied: {error}") from error
        with suppress(ValueError):  # it was not compiled
            module = to_uncompiled(module)
        # Those of the module are among the trainer's already, and are copied from there.
        module.configure_callbacks = lambda: []  # type: ignore[method-assign]
        data: LightningDataModule | None = getattr(self.trainer, "datamodule", None)
        if data is not None:
            data = copy.copy(data)
            data.trainer = None
            for hook in ("prepare_data", "setup", "teardown"):
                setattr(data, hook, lambda *args, **kwargs: None)
        return module, data

    def _hand_on(self, module: LightningModule, rate: float) -> None:
        """See that the rate reaches the optimizer of the copy, and that this optimizer trains the copy."""
        configure = module.configure_optimizers

        def configured() -> Any:
            if self.driven is None:
                self.driven = drives(configure, lambda value: put(self.recipe.lr_name, value, (module,)), rate)
            made = moved_to(configure(), self.module, module)
            if not self.driven:
                set_rate(*parts(made), rate)
            return made

        module.configure_optimizers = configured  # type: ignore[method-assign]

    def _trainer(self, callbacks: list[Callback]) -> Trainer:
        fit = self.trainer
        device = fit.strategy.root_device
        few: float = fit.overfit_batches  # type: ignore[attr-defined]  # a connector's, as below
        limits: dict[str, Any] = {"overfit_batches": few} if few else {}
        return Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=1 if device.index is None or device.type == "cpu" else [device.index],
            plugins=[LightningEnvironment()],  # whatever launched the fit, a trial is one process
            precision=fit.precision,
            max_epochs=self.recipe.max_epochs,
            max_steps=fit.max_steps,
            limit_train_batches=fit.limit_train_batches,
            limit_val_batches=fit.limit_val_batches,
            val_check_interval=fit.val_check_interval,
            check_val_every_n_epoch=fit.check_val_every_n_epoch,
            accumulate_grad_batches=fit.accumulate_grad_batches,
            gradient_clip_val=fit.gradient_clip_val,
            gradient_clip_algorithm=fit.gradient_clip_algorithm,
            reload_dataloaders_every_n_epochs=fit.reload_dataloaders_every_n_epochs,  # type: ignore[attr-defined]
            num_sanity_val_steps=0,
            logger=DummyLogger(),  # modules may ask for `self.logger.experiment`
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=fit.default_root_dir,
            **limits,
        )

    def _check(self, module: LightningModule, rows: int | None, trainer: Trainer) -> None:
        """See once that the copy was trained, and that its batches were of the size asked for."""
        if not self._learned:
            pairs = zip(module.parameters(), self.module.parameters(), strict=True)
            if trainer.global_step and all(torch.equal(p.detach().cpu(), q.detach().cpu()) for p, q in pairs):
                raise SearchError(
                    "A trial trained nothing: the optimizer or the loss of the module's copy belongs to the original."
                )
            self._learned = True
        size = batch_size_of(trainer.train_dataloader) if rows is not None else None
        if rows is not None and size is not None:
            self._sizes[rows] = size
            if len(self._sizes) > 2 and len(set(self._sizes.values())) == 1:
                raise SearchError(
                    f"The batch size has no effect: with {sorted(self._sizes)} the loader gave batches of {size}; make "
                    f"the loaders in `train_dataloader`, with `{self.recipe.batch_size_name}` as it is then."
                )


def is_beaten(study: "Study", mode: str, value: float) -> bool:
    """Whether a study holds a better value than this one."""
    from optuna.trial import TrialState

    sign = 1.0 if mode == "min" else -1.0
    whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return any(sign * (other.value or 0.0) < sign * value for other in whole)


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """All callbacks of a trainer."""
    found: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    return found


def baseline_of(module: LightningModule) -> float | None:
    """The module's loss of the trivial prediction, if it knows it."""
    value = getattr(module, "baseline_loss", None)
    return float(value) if isinstance(value, int | float) else None


@contextmanager
def quiet() -> Iterator[None]:
    """What a trial warns of, the fit will; what Lightning tells of each of its trainers is one too many."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
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
