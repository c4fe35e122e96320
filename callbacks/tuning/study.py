"""What a fit offers to a search: its learning rate and batch size, how its trials train, the name of its study."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.model_helpers import is_overridden

from callbacks.host import Guard, say
from callbacks.loggers.tensorboard import tensorboard_loggers
from callbacks.search.engine import search
from callbacks.search.plan import Plan, SearchError
from callbacks.search.results import (
    Progress,
    ProgressLine,
    TrialRow,
    best,
    closing,
    importances,
    row_of,
)
from callbacks.search.space import Space, batch_sizes, parse_space
from callbacks.search.waves import Member
from callbacks.tuning import hyperparameters as settings
from callbacks.tuning import report as show
from callbacks.tuning.observer import TrialWatch
from callbacks.tuning.ranks import RankZeroRunner, same_random_numbers
from callbacks.tuning.trials import GroupedTrials, Recipe, Trials

if TYPE_CHECKING:
    from optuna import Study, Trial


FEWEST = 8  # trials below which nothing is said of what mattered
DRIVEN = "driven"  # attribute of the study: whether the module's rate reaches its optimizer


@dataclass(frozen=True)
class StudyBeforeFit:
    """The study of one fit.

    Args:
        trainer: The trainer of the fit.
        module: Its module.
        space: What is searched.
        recipe: How the trials train.
        plan: How to search.
        storage: What the study is kept in; None for memory.
        runs: The folder of the runs, where the trials' TensorBoard runs go; None if it is not local.
    """

    trainer: Trainer
    module: LightningModule
    space: Space
    recipe: Recipe
    plan: Plan
    storage: str | None
    runs: Path | None
    _curves: dict[int, Mapping[str, Any]] = field(default_factory=dict, init=False)

    @property
    def where(self) -> str:
        """Name and place, for a person."""
        return f"{self.plan.name} in {self.storage or 'memory'}"

    def run(self, group: RankZeroRunner, guard: Guard) -> dict[str, Any]:
        """Search.

        Returns:
            `found`, the values by name; `by_hand`, whether the rate must be put into the optimizer; `rows`, the trials.

        Raises:
            SearchError: What makes every trial fail, or that none came to a value.
        """
        trials = Trials(self.trainer, self.module, self.recipe, group.pulse, self._teller(guard))
        line = ProgressLine(self.recipe.monitor)

        def report(at: Progress) -> None:
            group.pulse()
            line.show(at)

        epochs = f"up to {self.recipe.max_epochs} epochs" if self.recipe.max_epochs > 0 else "the fit's length"
        say(self.trainer, f"search: {self.plan.n_trials} trials of {epochs}; the study is {self.where}.")
        try:
            study = search(GroupedTrials(trials), self.space, self.plan, storage=self.storage, report=report)
        except BaseException as error:
            line.end()
            if not isinstance(error, SearchError):
                say(self.trainer, f"search: stopped; the same command goes on with the study {self.where}.")
            raise
        line.end()
        return self._conclude(study, guard)

    def _conclude(self, study: Study, guard: Guard) -> dict[str, Any]:
        rows = [self._with_curves(row) for row in rows_of(study, self.space)]
        top = best(study, self.space)
        if top is None:
            why = next((f"; the last one: {row.reason}" for row in reversed(rows) if row.reason), "")
            raise SearchError(f"none of the {len(rows)} trials came to a value{why}. The study is {self.where}.")
        shares: Mapping[str, float] = {}
        if len(self.space) > 1 and len(rows) >= FEWEST:  # Optuna's evaluator takes a second to load
            with guard(self.trainer, "telling what mattered"):
                shares = importances(study, self.space, least=FEWEST)
        lines = closing(top, rows, monitor=self.recipe.monitor, shares=shares, where=self.where)
        say(self.trainer, "\n".join(lines))
        by_hand = bool(self.recipe.lr_name) and study.user_attrs.get(DRIVEN) is False
        return {"found": dict(top.params), "by_hand": by_hand, "rows": rows}

    def _with_curves(self, row: TrialRow) -> TrialRow:
        known = self._curves.get(row.number)
        return row if known is None else replace(row, attrs={**row.attrs, show.CURVES: known})

    def _teller(self, guard: Guard) -> Any:
        """Keeps what was learned from a trial, and writes a TensorBoard run of it where the fit writes one."""
        kept: set[bool] = set()

        def tell(
            trial: Trial | Member,
            values: Mapping[str, Any],
            watch: TrialWatch,
            result: float | None,
            driven: bool | None,
        ) -> None:
            if driven is not None and not kept and not isinstance(trial, Member):
                trial.study.set_user_attr(DRIVEN, driven)
                kept.add(driven)
            self._curves[trial.number] = watch.curves()
            if self.runs is None or not tensorboard_loggers(self.trainer):
                return
            with guard(self.trainer, "writing a trial's TensorBoard run"):
                show.write_trial(
                    self.runs,
                    self.plan.name,
                    trial.number,
                    values=values,
                    verdict=watch.fate()[0],
                    curves=watch.curves(),
                    result=(self.recipe.monitor, result),
                )

        return tell


def rows_of(study: Study, space: Space) -> list[TrialRow]:
    """The trials that ended by themselves, by number."""
    rows = [row_of(trial, space) for trial in study.get_trials(deepcopy=False)]
    return [row for row in rows if row.state in ("COMPLETE", "PRUNED") or (row.state == "FAIL" and row.reason)]


_RUN = re.compile(r"version_\d+")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def runs_folder(trainer: Trainer, log_dir: str | None) -> Path | None:
    """The folder in which each run gets one of its own, or the run's where that is named; None if it is not local.

    Args:
        trainer: The trainer of the fit.
        log_dir: Its `log_dir`, which all ranks must ask for.
    """
    folder = str(log_dir or trainer.default_root_dir)
    if "://" in folder:
        return None
    path = Path(folder)
    # A run that is started again gets the next number, and its search must be found.
    return path.parent if _RUN.fullmatch(path.name) else path


def study_name(module: LightningModule, settings: Mapping[str, Any], facts: Iterable[object]) -> str:
    """A name that is the same for the same fit, and another for another module, data or plan.

    Args:
        module: Its class and the shapes of its parameters count, not their values.
        settings: The hyperparameters.
        facts: Whatever else makes it another search.
    """
    shapes = [(name, tuple(parameter.shape)) for name, parameter in module.named_parameters()]
    told = [f"{name}={value!r}" for name, value in sorted(settings.items())]
    text = repr((type(module).__qualname__, shapes, told, [str(fact) for fact in facts]))
    return f"search-{hashlib.sha256(_ADDRESS.sub('', text).encode()).hexdigest()[:8]}"


AUTO = "auto"
UNKNOWN_ROWS = 512  # training rows taken for granted where the loader does not tell: batches of 8 to 256
UNLIMITED = 1000  # epochs of a fit that was given none: Lightning's own default


@dataclass(frozen=True)
class SearchRequest:
    """What a user asks of a search before a fit; see `OptunaSearch`."""

    monitor: str
    mode: str
    max_epochs: int | None
    lr: Any
    batch_size: Any
    lr_name: str
    batch_size_name: str


def holders(trainer: Trainer, module: LightningModule) -> tuple[Any, Any]:
    """The module, and the data module or None."""
    return module, getattr(trainer, "datamodule", None)


def space_of(wish: SearchRequest, trainer: Trainer, module: LightningModule) -> Space:
    """What is searched: of the rate and the batch size, those that are wished for and there.

    Raises:
        SearchError: Neither is there, or the fit was given loaders of which no trial can have its own.
    """
    data = getattr(trainer, "datamodule", None)
    if data is None and not is_overridden("train_dataloader", module):
        raise SearchError("the trials need loaders of their own; give `fit` a data module instead of loaders.")
    space: dict[str, Any] = {}
    missing = []
    if wish.lr is not None:
        if settings.holds(module, wish.lr_name):
            space[wish.lr_name] = parse_space(wish.lr, floats=True)
        else:
            missing.append(f"{type(module).__name__} has no `{wish.lr_name}` (lr_name names another)")
    if wish.batch_size is not None:
        owners = [owner for owner in (data, module) if owner is not None]
        if any(settings.holds(owner, wish.batch_size_name) for owner in owners):
            space[wish.batch_size_name] = _sizes(wish, trainer, owners[0])
        else:
            what = " and ".join(type(owner).__name__ for owner in owners)
            missing.append(f"{what} has no `{wish.batch_size_name}` (batch_size_name names another)")
    if not space:
        raise SearchError(f"there is nothing to search: {'; '.join(missing)}.")
    if missing:
        say(trainer, f"search: {missing[0]}; only {', '.join(space)} is searched.")
    return space


def _sizes(wish: SearchRequest, trainer: Trainer, owner: Any) -> Any:
    if wish.batch_size != AUTO:
        return parse_space(wish.batch_size)
    with same_random_numbers():
        rows = settings.rows_in(owner.train_dataloader()) or UNKNOWN_ROWS
    return batch_sizes(rows // trainer.world_size)


def recipe_of(wish: SearchRequest, trainer: Trainer, space: Space) -> Recipe:
    """How the trials train.

    Raises:
        SearchError: Neither the fit nor the wish says for how long.
    """
    epochs = wish.max_epochs or trainer.max_epochs or UNLIMITED
    if epochs < 0 and trainer.max_steps < 0:
        raise SearchError("the fit has no limit of epochs or steps; max_epochs says how many a trial has.")
    keeps = [c.monitor for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    return Recipe(
        monitor=wish.monitor,
        mode=wish.mode,
        max_epochs=epochs,
        keeps_best=any(monitor is not None for monitor in keeps),
        lr_name=wish.lr_name if wish.lr_name in space else "",
        batch_size_name=wish.batch_size_name if wish.batch_size_name in space else "",
    )


def name_of(trainer: Trainer, module: LightningModule, space: Space, recipe: Recipe, engines: Sequence[object]) -> str:
    """The study's name: the same for the same fit, so that the same command goes on with it."""
    ranges = [f"{name} in {dimension}" for name, dimension in space.items()]
    limits = (trainer.max_steps, trainer.limit_train_batches, trainer.limit_val_batches, trainer.world_size)
    kept = settings.plain(holders(trainer, module))
    others = {name: value for name, value in kept.items() if name not in space}
    return study_name(module, others, [recipe, ranges, limits, *engines, torch.initial_seed()])
