"""`GroupedTrials`: the trials before a fit, trained together where the module offers that."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

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
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from callbacks.search.plan import SearchError
from callbacks.search.waves import Ended, Member
from callbacks.tuning.hyperparameters import (
    batch_size_of,
    drives,
    moved_to,
    parts,
    put,
    set_rate,
)
from callbacks.tuning.observer import TrialWatch
from callbacks.tuning.pruning import TrialPruning
from callbacks.tuning.ranks import same_random_numbers

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
        """Return copies of the module and the data module, on which a trial can be trained."""
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


_MOST, _GENERATIONS = 16, 4  # trials at once; times at least that a study is asked, as each learns from those before
_USUAL = ("val_accuracy", "val_r2")


class Fits(Protocol):
    """Fits that are trained in step, named by their places. `curves` hold one number an epoch by name."""

    curves: Sequence[Mapping[str, Sequence[float]]]

    def run(self, epochs: int) -> None:
        """Train until so many epochs are done."""

    def keep(self, trials: Sequence[int]) -> None:
        """Go on with these alone."""


@runtime_checkable
class GroupsFits(Protocol):
    """A module that can train many fits of itself at once, each to the numbers it would come to alone."""

    def trials_at_once(self, rows: int) -> int:
        """How many, with mini-batches of so many rows; 0 if each is better trained alone."""

    def trial_group(self, rates: Sequence[Mapping[str, float]], **how: Any) -> Fits | None:
        """The fits from the weights as they are; None if the module cannot.

        Args:
            rates: For each fit the learning rate by the name `lr`.
            **how: `seed` of the run, `train` and `val` loaders, `monitor` and whether it is good when `high`, and
                further `curves` that are wanted.
        """


class GroupedTrials:
    """Trains the trials of a search: together where each comes out as it would alone, else one by one.

    Args:
        trials: How one is trained alone.
    """

    def __init__(self, trials: Trials) -> None:
        self._trials, self._recipe = trials, trials.recipe
        self._plain = _is_plain(trials)

    def __call__(self, trial: "Trial", values: Mapping[str, Any]) -> float:
        """Train one."""
        return self._trials(trial, values)

    def together(self, n_trials: int) -> int:
        """How many trials to ask for at once."""
        return max(2, min(_MOST, n_trials // _GENERATIONS)) if self._plain else 1

    def alike(self) -> list[str]:
        """What the trials of a group have in common."""
        return [self._recipe.batch_size_name]

    def epochs(self) -> int:
        """Epochs of a trial."""
        return self._recipe.max_epochs

    def groups(self, members: Sequence[Member], study: "Study") -> list["FitGroup"]:
        """Groups of those with one batch size."""
        alike: dict[Any, list[Member]] = {}
        for member in members:
            alike.setdefault(member.values.get(self._recipe.batch_size_name), []).append(member)
        with same_random_numbers(), quiet():
            return [group for rows, some in alike.items() for group in self._groups_of(rows, some, study)]

    def _groups_of(self, rows: int | None, members: Sequence[Member], study: "Study") -> list["FitGroup"]:
        try:
            module, data = self._trials.copies()
            if rows is not None:
                put(self._recipe.batch_size_name, rows, (module, data))
            assert data is not None
            assert isinstance(module, GroupsFits)
            train, val = data.train_dataloader(), data.val_dataloader()
            if not _is_ordered(train) or not val or (rows is not None and train.batch_size != rows):
                return []
            size = module.trials_at_once(train.batch_size)
            if not size:
                return []
            made = []
            for at in range(0, len(members), size):
                some = members[at : at + size]
                fits = module.trial_group(
                    [_rates(member, self._recipe.lr_name) for member in some],
                    seed=torch.initial_seed(),
                    train=train,
                    val=val,
                    monitor=self._recipe.monitor,
                    high=self._recipe.mode == "max",
                    curves=_USUAL,
                )
                if fits is None:
                    return []
                made.append(FitGroup(self._trials, some, study, fits, module))
        except Exception:  # noqa: BLE001  # each of them will meet it alone, and say so
            return []
        return made


def _rates(member: Member, name: str) -> dict[str, float]:
    return {"lr": member.values[name]} if name else {}


def _is_ordered(loader: object) -> bool:
    """Whether the order of rows is a function of the epoch, so that all trials see the same."""
    return isinstance(loader, DataLoader) and isinstance(loader.sampler, DistributedSampler) and not loader.num_workers


def _is_plain(trials: Trials) -> bool:
    """Whether the trials are fits with nothing but epochs, on one CPU."""
    fit, recipe = trials.trainer, trials.recipe
    usual = (
        fit.precision == "32-true"
        and (fit.max_steps, fit.limit_train_batches, fit.limit_val_batches) == (-1, 1.0, 1.0)
        and (fit.val_check_interval, fit.check_val_every_n_epoch, fit.accumulate_grad_batches) == (1.0, 1, 1)
        and not fit.gradient_clip_val
        and not fit.overfit_batches  # type: ignore[attr-defined]  # a connector's
    )
    alone = fit.world_size == 1 and fit.strategy.root_device.type == "cpu" and recipe.max_epochs > 0
    shaped = any(isinstance(each, TRAINING) for each in callbacks_of(fit))
    offers = isinstance(trials.module, GroupsFits) and recipe.lr_name in ("", "lr")
    data = getattr(fit, "datamodule", None)
    return usual and alone and not shaped and offers and data is not None


class FitGroup:
    """Trials that are trained in step.

    Args:
        trials: How the search trains.
        members: The trials.
        study: The study.
        fits: Their fits, in the same order.
        module: What they are fits of.
    """

    def __init__(
        self, trials: Trials, members: Sequence[Member], study: "Study", fits: Fits, module: LightningModule
    ) -> None:
        self.members = members
        self._trials, self._fits = trials, fits
        mode = trials.recipe.mode
        self._places = {member.number: place for place, member in enumerate(members)}
        self._left = list(self._places)
        self._watches = {
            number: TrialWatch(
                trials.recipe.monitor,
                mode,
                baseline=baseline_of(module),
                is_beaten=lambda value: is_beaten(study, mode, value),
                pulse=trials.pulse,
            )
            for number in self._places
        }

    def run(self, epochs: int) -> None:
        """Train those that are left until so many epochs are done."""
        self._fits.run(epochs)
        self._trials.pulse()
        for number in self._left:
            self._watches[number].take(self._fits.curves[self._places[number]])

    def reports(self, number: int) -> list[float]:
        """The metric after each epoch."""
        return self._watches[number].values

    def hopeless(self, number: int) -> str:
        """Why a trial is ended at once; empty if it is not."""
        watch = self._watches[number]
        lost = watch.values[-1]
        if lost - lost != 0:  # no finite number
            return f"{watch.monitor} is {lost} at step {len(watch.values) - 1}"
        return watch.hopeless()

    def keep(self, numbers: Sequence[int]) -> None:
        """Go on with these alone."""
        self._left = list(numbers)
        self._fits.keep([self._places[number] for number in numbers])

    def end(self, number: int, reason: str) -> Ended:
        """What became of a trial."""
        watch, member = self._watches[number], self.members[self._places[number]]
        result = watch.best() if self._trials.recipe.keeps_best else watch.last()
        verdict, cause = watch.fate()
        self._trials.tell(member, member.values, watch, None if reason else result, None)
        return Ended([result], {"verdict": verdict, "cause": cause, "epochs": watch.epochs})
