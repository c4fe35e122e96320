"""Runs the study of a fit on one process, and says what it came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning import LightningModule, Trainer

from callbacks import _search_show as show
from callbacks._search_error import SearchError
from callbacks._search_fit_groups import GroupedTrials
from callbacks._search_group import Member
from callbacks._search_ranks import Alone
from callbacks._search_results import Progress, TrialRow, best, importances, row_of
from callbacks._search_space import Space
from callbacks._search_trainer import Recipe, Trials
from callbacks._search_watch import TrialWatch
from callbacks._search_words import ProgressLine, closing
from callbacks._tensorboard import tensorboard_loggers
from callbacks._terminal import Guard, say
from callbacks.search import Plan, search

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

    def run(self, group: Alone, guard: Guard) -> dict[str, Any]:
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
