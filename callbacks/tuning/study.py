"""Searches before a fit: finds what there is to search, names the study, trains its trials, tells what they came to."""

import hashlib
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.model_helpers import is_overridden

from callbacks.host import Guard, say
from callbacks.loggers.tensorboard import tensorboard_loggers
from callbacks.search.engine import search
from callbacks.search.plan import Plan, SearchError
from callbacks.search.results import Progress, ProgressLine, TrialRow, best, closing, importances, row_of
from callbacks.search.space import Space, batch_sizes, parse_space
from callbacks.tuning import hyperparameters as settings
from callbacks.tuning.copies import CopiedFits, RankedSearch
from callbacks.tuning.trials import GroupedTrialRunner, TrialEnd, TrialRunner, TrialSettings, same_random_numbers

if TYPE_CHECKING:
    from optuna import Study


AUTO = "auto"
CURVES = "curves"  # by name, one value an epoch: what this process knows of a trial beside what the study keeps
_FEWEST = 8  # trials below which nothing is said of what mattered
_DRIVEN = "driven"  # attribute of the study: whether the module's rate reaches its optimizer
_UNKNOWN_ROWS = 512  # training rows taken for granted where the loader does not tell: batches of 8 to 256
_UNLIMITED = 1000  # epochs of a fit that was given none: Lightning's own default


@dataclass(frozen=True)
class SearchRequest:
    """Holds what a user asks of a search before a fit, see `OptunaSearch`; a plan without a name gets one."""

    monitor: str
    mode: str
    max_epochs: int | None
    lr: Any
    batch_size: Any
    lr_name: str
    batch_size_name: str
    storage: str | None
    plan: Plan


class SearchBeforeFit:
    """Searches before one fit.

    Args:
        request: What is asked.
        trainer: The trainer of the fit.
        module: Its module.
        runs: The folder of the runs, where the trials' TensorBoard runs go; None if it is not local.
        guard: Lets the search go on when writing fails.

    Raises:
        SearchError: There is nothing to search, no trial can be had, or nothing says for how long to train.
    """

    def __init__(
        self, request: SearchRequest, trainer: Trainer, module: LightningModule, runs: Path | None, guard: Guard
    ) -> None:
        self._trainer, self._runs, self._guard, self._monitor = trainer, runs, guard, request.monitor
        self._space = _space(request, trainer, module)
        lr_name, batch_size_name = (
            name if name in self._space else "" for name in (request.lr_name, request.batch_size_name)
        )
        self._max_epochs = request.max_epochs or trainer.max_epochs or _UNLIMITED
        if self._max_epochs < 0 and trainer.max_steps < 0:
            raise SearchError("the fit has no limit of epochs or steps; max_epochs says how many a trial has.")
        kept = [each.monitor for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
        keeps_best = any(monitor is not None for monitor in kept)
        self._fits = CopiedFits(
            trainer, module, max_epochs=self._max_epochs, lr_name=lr_name, batch_size_name=batch_size_name
        )
        low = request.mode == "min"
        trial = TrialSettings(
            [request.monitor],
            not low,
            self._max_epochs,
            val_loss=request.monitor if low else "val_loss",
            keeps_best=keeps_best,
            attrs=("verdict", "cause", "epochs"),
        )
        self._runner = TrialRunner(trial, self._fits.fit, self._note)
        # As it has always been written, so that a study of before is found again.
        facts = (
            f"Recipe(monitor={request.monitor!r}, mode={request.mode!r}, max_epochs={self._max_epochs!r}, "
            f"keeps_best={keeps_best!r}, lr_name={lr_name!r}, batch_size_name={batch_size_name!r})"
        )
        plan = request.plan
        name = plan.name or study_name(trainer, module, self._space, [facts], (plan.sampler, plan.pruner, plan.seed))
        self._plan = replace(plan, name=name)
        self._storage = request.storage or (None if runs is None else str(runs / "search.journal"))
        self._where = f"{name} in {self._storage or 'memory'}"
        self._lr_name = lr_name
        self._curves: dict[int, Mapping[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        """Search; every rank of the fit must call this.

        Returns:
            `found`, the values by name; `by_hand`, whether the rate must be put into the optimizer; `rows`, the trials.

        Raises:
            SearchError: What makes every trial fail, or that none came to a value.
        """
        ranks = RankedSearch(self._trainer, self._runner)
        # The fit's random numbers must go on as if there had been no search.
        with same_random_numbers():
            return ranks.run(lambda: self._search(ranks))

    def _search(self, ranks: RankedSearch) -> dict[str, Any]:
        line = ProgressLine(self._monitor)

        def report(at: Progress) -> None:
            ranks.pulse()
            line.show(at)

        epochs = f"up to {self._max_epochs} epochs" if self._max_epochs > 0 else "the fit's length"
        say(self._trainer, f"search: {self._plan.n_trials} trials of {epochs}; the study is {self._where}.")
        rates = {"lr": self._lr_name} if self._lr_name else {}
        grouped = GroupedTrialRunner(
            self._runner, self._fits.template, names=list(self._space), rates=rates, at_once=self._fits.is_plain()
        )
        train: Any = grouped if self._trainer.world_size == 1 else ranks
        try:
            study = search(train, self._space, self._plan, storage=self._storage, report=report)
        except BaseException as error:
            line.end()
            if not isinstance(error, SearchError):
                say(self._trainer, f"search: stopped; the same command goes on with the study {self._where}.")
            raise
        line.end()
        return self._conclude(study)

    def _conclude(self, study: "Study") -> dict[str, Any]:
        rows = [self._with_curves(row) for row in rows_of(study, self._space)]
        top = best(study, self._space)
        if top is None:
            why = next((f"; the last one: {row.reason}" for row in reversed(rows) if row.reason), "")
            raise SearchError(f"none of the {len(rows)} trials came to a value{why}. The study is {self._where}.")
        shares: Mapping[str, float] = {}
        if len(self._space) > 1 and len(rows) >= _FEWEST:  # Optuna's evaluator takes a second to load
            with self._guard(self._trainer, "telling what mattered"):
                shares = importances(study, self._space, least=_FEWEST)
        say(self._trainer, "\n".join(closing(top, rows, monitor=self._monitor, shares=shares, where=self._where)))
        by_hand = bool(self._lr_name) and study.user_attrs.get(_DRIVEN) is False
        return {"found": dict(top.params), "by_hand": by_hand, "rows": rows}

    def _with_curves(self, row: TrialRow) -> TrialRow:
        known = self._curves.get(row.number)
        return row if known is None else replace(row, attrs={**row.attrs, CURVES: known})

    def _note(self, end: TrialEnd) -> None:
        """Keep what was learned from a trial, and write a TensorBoard run of it where the fit writes one."""
        if self._fits.driven is not None and _DRIVEN not in end.study.user_attrs:
            end.study.set_user_attr(_DRIVEN, self._fits.driven)
        observer = end.fits[-1]
        losses = self._curves[end.number] = observer.losses()
        if self._runs is None or not tensorboard_loggers(self._trainer):
            return
        with self._guard(self._trainer, "writing a trial's TensorBoard run"):
            folder, column = self._runs / self._plan.name / f"trial_{end.number:03d}", f"hp/{self._monitor}"
            scalars: list[dict[str, float]] = [{} for _ in range(max(map(len, losses.values()), default=0) or 1)]
            for name, curve in losses.items():
                for epoch, value in enumerate(curve):
                    scalars[epoch] |= {} if value is None else {name: value}
            scalars[0] |= {} if end.result is None else {column: end.result[0]}
            params = {**end.values, "verdict": observer.verdict()[0]}
            write_events(folder, params, {column: 0.0}, scalars)
            (folder / "hparams.yaml").write_text(yaml.safe_dump(dict(end.values)), encoding="utf-8")


def rows_of(study: "Study", space: Space) -> list[TrialRow]:
    """Return the trials that ended by themselves, by number."""
    rows = [row_of(trial, space) for trial in study.get_trials(deepcopy=False)]
    return [row for row in rows if row.state in ("COMPLETE", "PRUNED") or (row.state == "FAIL" and row.reason)]


_RUN = re.compile(r"version_\d+")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def runs_folder(trainer: Trainer, log_dir: str | None) -> Path | None:
    """Return the folder in which each run gets one, or the run's where that is named; None if it is not local.

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


def study_name(
    trainer: Trainer, module: LightningModule, space: Space, facts: Sequence[str], engines: Sequence[object]
) -> str:
    """Return a name that is the same for the same fit, so that the same command goes on with its study.

    Of the module its class, hyperparameters and the shapes of its parameters count, not their values.

    Args:
        trainer: The trainer of the fit.
        module: Its module.
        space: What is searched.
        facts: How the trials train.
        engines: What chooses and prunes them.
    """
    limits = (trainer.max_steps, trainer.limit_train_batches, trainer.limit_val_batches, trainer.world_size)
    ranges = [f"{name} in {dimension}" for name, dimension in space.items()]
    kept = settings.plain(holders(trainer, module))
    shapes = [(name, tuple(parameter.shape)) for name, parameter in module.named_parameters()]
    told = [f"{name}={value!r}" for name, value in sorted(kept.items()) if name not in space]
    others = [str(fact) for fact in (*facts, ranges, limits, *engines, torch.initial_seed())]
    text = repr((type(module).__qualname__, shapes, told, others))
    return f"search-{hashlib.sha256(_ADDRESS.sub('', text).encode()).hexdigest()[:8]}"


def holders(trainer: Trainer, module: LightningModule) -> tuple[Any, Any]:
    """Return the module, and the data module or None."""
    return module, getattr(trainer, "datamodule", None)


def _space(request: SearchRequest, trainer: Trainer, module: LightningModule) -> Space:
    """What is searched: of the rate and the batch size, those that are asked for and there."""
    data = getattr(trainer, "datamodule", None)
    if data is None and not is_overridden("train_dataloader", module):
        raise SearchError("the trials need loaders of their own; give `fit` a data module instead of loaders.")
    space: dict[str, Any] = {}
    missing = []
    if request.lr is not None:
        if settings.holds(module, request.lr_name):
            space[request.lr_name] = parse_space(request.lr, floats=True)
        else:
            missing.append(f"{type(module).__name__} has no `{request.lr_name}` (lr_name names another)")
    if request.batch_size is not None:
        owners = [owner for owner in (data, module) if owner is not None]
        if any(settings.holds(owner, request.batch_size_name) for owner in owners):
            space[request.batch_size_name] = _sizes(request, trainer, owners[0])
        else:
            what = " and ".join(type(owner).__name__ for owner in owners)
            missing.append(f"{what} has no `{request.batch_size_name}` (batch_size_name names another)")
    if not space:
        raise SearchError(f"there is nothing to search: {'; '.join(missing)}.")
    if missing:
        say(trainer, f"search: {missing[0]}; only {', '.join(space)} is searched.")
    return space


def _sizes(request: SearchRequest, trainer: Trainer, owner: Any) -> Any:
    if request.batch_size != AUTO:
        return parse_space(request.batch_size)
    with same_random_numbers():
        rows = settings.rows_in(owner.train_dataloader()) or _UNKNOWN_ROWS
    return batch_sizes(rows // trainer.world_size)


_FILES = count()  # files of one second must not have one name


def write_events(
    folder: Path, params: Mapping[str, Any], results: Mapping[str, float], scalars: Sequence[Mapping[str, float]]
) -> None:
    """Write a trial's TensorBoard run in one go: the writer of a logger starts a thread, which takes longer.

    Args:
        folder: The run.
        params: What the trial tried, by name, for the HParams tab.
        results: The tab's other columns; a run without any has no row there.
        scalars: Tags to values, by epoch.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter
    from torch.utils.tensorboard.summary import hparams

    row = hparams({name: plain(value) for name, value in params.items()}, dict(results))  # type: ignore[no-untyped-call]
    summaries = [(each, 0) for each in row] if results else []
    for epoch, values in enumerate(scalars):
        tags = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        summaries.append((Summary(value=tags), epoch))
    now = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{int(now):010d}.{platform.node()}.{os.getpid()}.{next(_FILES)}"
    with (folder / name).open("wb") as file:
        records = RecordWriter(file)
        records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for summary, step in summaries:
            records.write(Event(wall_time=now, step=step, summary=summary).SerializeToString())


def plain(value: Any) -> Any:
    """Return a value as the HParams tab takes it."""
    return value if isinstance(value, bool | int | float | str) else str(value)
