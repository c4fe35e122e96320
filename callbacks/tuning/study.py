"""Searches before a fit: finds what there is to search, names the study, trains its trials, tells what they came to."""

import hashlib
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import count, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import distributed

from callbacks.host import Guard, say
from callbacks.host.packages import LightningModule, Trainer, is_overridden, isolated_random_numbers, kinds, sibling
from callbacks.loggers.tensorboard import tensorboard_loggers
from callbacks.search.engine import search
from callbacks.search.plan import SearchError, one_line
from callbacks.search.results import Progress, ProgressLine, TrialRow, best, beyond, closing, importances, row_of
from callbacks.search.space import Space, batch_sizes, parse_space
from callbacks.tuning.copies import CopiedFits, holds
from callbacks.tuning.ensembles import GREEDY, EnsemblesTrials, KeptFit, KeptFits, write_ensemble
from callbacks.tuning.trials import GroupedTrialRunner, TrialEnd, TrialRunner, TrialSettings

if TYPE_CHECKING:
    from optuna import Study, Trial

    from callbacks.tuning.optuna_search import OptunaSearch

AUTO = "auto"
CURVES = "curves"  # by name, one value an epoch: what this process knows of a trial beside what the study keeps
_FEWEST = 8  # trials below which nothing is said of what mattered
_DRIVEN = "driven"  # attribute of the study: whether the module's rate reaches its optimizer
_UNKNOWN_ROWS = 512  # training rows taken for granted where the loader does not tell: batches of 8 to 256
_RUN = re.compile(r"version_\d+")
_UNLIMITED = 1000  # epochs of a fit that was given none: Lightning's own default


class SearchBeforeFit:
    """Searches as a callback asks for before one fit, of which the run's `folder` is None if it is not local.

    A `SearchError` says that there is nothing to search, no trial can be had, or nothing says for how long to train.
    """

    def __init__(
        self, asked: "OptunaSearch", trainer: Trainer, module: LightningModule, folder: Path | None, guard: Guard
    ) -> None:
        self._trainer, self._guard, self._monitor = trainer, guard, asked.monitor
        # A run that is started again gets the next number, and its search must be found.
        self._runs = folder.parent if folder is not None and _RUN.fullmatch(folder.name) else folder
        self._space = _space(asked, trainer, module)
        names = asked.options.lr_name, asked.options.batch_size_name
        lr_name, batch_size_name = (name if name in self._space else "" for name in names)
        epochs = self._max_epochs = asked.max_epochs or trainer.max_epochs or _UNLIMITED
        if epochs < 0 and trainer.max_steps < 0:
            raise SearchError("the fit has no limit of epochs or steps; max_epochs says how many a trial has.")
        kept = [each for each in trainer.checkpoint_callbacks if isinstance(each, kinds(".callbacks.ModelCheckpoint"))]
        keeps_best = any(each.monitor is not None for each in kept)
        self._fits = CopiedFits(trainer, module, max_epochs=epochs, lr_name=lr_name, batch_size_name=batch_size_name)
        metric, high, attrs = asked.monitor, asked.mode != "min", ("verdict", "cause", "epochs")
        val_loss = "val_loss" if high else metric
        wants = asked.options.ensemble is not None
        trial = TrialSettings(
            [metric], high, epochs, val_loss=val_loss, keeps_best=keeps_best, attrs=attrs, keeps_weights=wants
        )
        self._runner = TrialRunner(trial, self._fits.fit, self._note)
        # As it has always been written, so that a study of before is found again.
        facts = (
            f"Recipe(monitor={asked.monitor!r}, mode={asked.mode!r}, max_epochs={epochs!r}, "
            f"keeps_best={keeps_best!r}, lr_name={lr_name!r}, batch_size_name={batch_size_name!r})"
        )
        plan = asked.plan()
        name = plan.name or study_name(trainer, module, self._space, facts, (plan.sampler, plan.pruner, plan.seed))
        self._plan = replace(plan, name=name)
        self._storage = asked.options.storage or (str(self._runs / "search.journal") if self._runs else None)
        self._module: Any = module
        self._kept = KeptFits(_ensembles_folder(trainer, module, self._runs) / name, high=high) if wants else None
        self._has_kept = False
        self._where = f"{name} in {self._storage or 'memory'}"
        self._lr_name = lr_name
        self._curves: dict[int, Mapping[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        """Search; every rank of the fit must call this.

        Returns `found`, the values by name; `by_hand`, whether the rate must be put into the optimizer; `rows`, the
        trials. A `SearchError` says what makes every trial fail, or that none came to a value.
        """
        ranks = RankedSearch(self._trainer, self._runner)
        # The fit's random numbers must go on as if there had been no search.
        with isolated_random_numbers():
            return ranks.run(lambda: self._search(ranks))

    def _search(self, ranks: "RankedSearch") -> dict[str, Any]:
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
        ended = rows_of(study, self._space)
        rows = [replace(row, attrs={**row.attrs, CURVES: self._curves.get(row.number)}) for row in ended]
        top = best(study, self._space)
        if top is None:
            why = next((f"; the last one: {row.reason}" for row in reversed(rows) if row.reason), "")
            raise SearchError(f"none of the {len(rows)} trials came to a value{why}. The study is {self._where}.")
        shares: Mapping[str, float] = {}
        if len(self._space) > 1 and len(rows) >= _FEWEST:  # Optuna's evaluator takes a second to load
            with self._guard(self._trainer, "telling what mattered"):
                shares = importances(study, self._space, least=_FEWEST)
        high = study.direction.name == "MAXIMIZE"
        edge = beyond(top, rows, self._space, high=high, flags=self._wider)
        told = closing(top, rows, monitor=self._monitor, shares=shares, edge=edge, where=self._where)
        say(self._trainer, "\n".join(told))
        if self._kept is not None:
            data: Any = getattr(self._trainer, "datamodule", None)
            words, path = write_ensemble(self._module, data, self._kept)
            say(self._trainer, f"search: ensemble: {words}" + (f"\n  ensemble  {path}" if path else ""))
        by_hand = bool(self._lr_name) and study.user_attrs.get(_DRIVEN) is False
        return {"found": dict(top.params), "by_hand": by_hand, "rows": rows}

    def _wider(self, spaces: Mapping[str, str]) -> str:
        given = (f"{'lr' if name == self._lr_name else 'batch_size'}={text!r}" for name, text in spaces.items())
        return f"OptunaSearch({', '.join(given)})"

    def _note(self, end: TrialEnd) -> None:
        """Keep what was learned from a trial, and write a TensorBoard run of it where the fit writes one."""
        if self._fits.driven is not None and _DRIVEN not in end.study.user_attrs:
            end.study.set_user_attr(_DRIVEN, self._fits.driven)
        if self._kept is not None:
            self._keep(self._kept, end)
        observer = end.fits[-1]
        losses = self._curves[end.number] = observer.losses()
        if self._runs is None or not tensorboard_loggers(self._trainer):
            return
        with self._guard(self._trainer, "writing a trial's TensorBoard run"):
            folder, column = self._runs / self._plan.name / f"trial_{end.number:03d}", f"hp/{self._monitor}"
            told = [dict(zip(losses, epoch, strict=True)) for epoch in zip_longest(*losses.values())] or [{}]
            scalars = [{name: value for name, value in epoch.items() if value is not None} for epoch in told]
            scalars[0] |= {} if end.result is None else {column: end.result[0]}
            params = {**end.values, "verdict": observer.verdict()[0]}
            write_events(folder, params, {column: 0.0}, scalars)
            (folder / "hparams.yaml").write_text(yaml.safe_dump(dict(end.values)), encoding="utf-8")

    def _keep(self, kept: KeptFits, end: TrialEnd) -> None:
        if not self._has_kept and not any(each.state.is_finished() for each in end.study.get_trials(deepcopy=False)):
            kept.forget()  # of a search that was removed
        self._has_kept = True
        for index, fit in enumerate(end.fits):
            value = fit.best.get(self._monitor, float("nan"))
            kept.keep(KeptFit(end.number, index, value, end.values, fit.weights))


def _ensembles_folder(trainer: Trainer, module: LightningModule, runs: Path | None) -> Path:
    """Return the folder for the fits that a search keeps, if an ensemble of them can be had."""
    asked = f"ensemble={GREEDY!r}"
    if not isinstance(module, EnsemblesTrials):
        name = type(module).__name__
        raise SearchError(f"{asked} needs a module with a method `greedy_ensemble`, as ours have; {name} has none.")
    if trainer.world_size > 1 or getattr(trainer, "datamodule", None) is None or runs is None:
        raise SearchError(f"{asked} needs a fit of one process, with a data module and a local folder.")
    return runs


PULSE = 60.0  # seconds between two messages of rank zero's at most, but while a trial is trained
PATIENCE = 300.0  # seconds that a rank waits for one, or for the others to end a trial


class RankedSearch:
    """Searches on rank zero of a fit, and trains the trials on all ranks.

    Rank zero alone has the study. It tells the others the values of each trial, and at last the result.
    """

    def __init__(self, trainer: Trainer, runner: TrialRunner) -> None:
        self._trainer, self._runner = trainer, runner
        self._group: Any = None
        self._last = time.monotonic()

    def run(self, search: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Search; every rank must call this, and gets the result.

        A `SearchError` says that it failed on rank zero, which raises what it was; or that a rank was lost.
        """
        if self._trainer.world_size == 1:
            return search()
        # Apart from the fit's own: it must not be waited for as long, and needs no device.
        self._group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE))
        try:
            return self._lead(search) if self._trainer.is_global_zero else self._follow()
        finally:
            distributed.destroy_process_group(self._group)
            self._group = None

    def _lead(self, search: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            result = search()
        except BaseException as error:
            with suppress(Exception):  # they may be gone already
                self._send({"failed": one_line(error)})
            raise
        self._send({"result": result})
        return result

    def pulse(self) -> None:
        """Give the others a sign of life if it is time; called on rank zero while no trial is trained."""
        if self._group is not None and time.monotonic() - self._last > PULSE:
            self._send({})

    def __call__(self, trial: "Trial", values: Mapping[str, Any]) -> list[float]:
        """Train a trial on all ranks; called on rank zero, as the runner is."""
        if self._group is None:
            return self._runner(trial, values)
        self._send({"values": dict(values), "number": trial.number})
        return self._train(trial, values, trial.number)

    def _follow(self) -> dict[str, Any]:
        while True:
            message = self._send({})
            if "failed" in message:
                raise SearchError(f"The search on rank zero ended: {message['failed']}")
            if "result" in message:
                return dict(message["result"])
            if "values" in message:
                with suppress(_RaisedOnAllRanksError):
                    self._train(None, message["values"], message["number"])

    def _train(self, trial: "Trial | None", values: Mapping[str, Any], number: int) -> list[float]:
        learned = (lambda: self._runner.others_learn(trial.study)) if trial is not None else bool
        mine, result = None, list[float]()
        try:
            result = self._runner.train(trial, values, number=number, others_learn=learned)
        except Exception as error:  # noqa: BLE001  # whatever a fit raises; what it means the ranks say together
            mine = error
        told = [""] * self._trainer.world_size
        try:
            distributed.all_gather_object(told, "" if mine is None else one_line(mine), group=self._group)
        except Exception as error:
            # One rank is lost; or it has failed alone, and the others wait for it in the midst of a step.
            if trial is None and mine is not None:
                raise mine from error
            raise SearchError(f"A rank was lost in trial {number} ({one_line(mine or error)}).") from error
        self._last = time.monotonic()
        if trial is None and any(told):
            raise _RaisedOnAllRanksError
        if mine is not None:
            raise mine
        if lost := next((text for text in told if text), ""):
            raise RuntimeError(lost)
        return result

    def _send(self, message: dict[str, Any]) -> dict[str, Any]:
        """Broadcast rank zero's message; the others' own is not looked at."""
        self._last = time.monotonic()
        box = [message]
        distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]


class _RaisedOnAllRanksError(Exception):
    """Ends a trial that raised, of which rank zero tells the study."""


def rows_of(study: "Study", space: Space) -> list[TrialRow]:
    """Return the trials that ended by themselves, by number."""
    rows = [row_of(trial, space) for trial in study.get_trials(deepcopy=False)]
    return [row for row in rows if row.state in ("COMPLETE", "PRUNED") or (row.state == "FAIL" and row.reason)]


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def study_name(trainer: Trainer, module: LightningModule, space: Space, facts: str, engines: Sequence[object]) -> str:
    """Return a name that is the same for the same fit, so that the same command goes on with its study.

    Of the module its class, hyperparameters and the shapes of its parameters count, not their values; of the trials how
    they train (`facts`), and what chooses and prunes them (`engines`).
    """
    limits = (trainer.max_steps, trainer.limit_train_batches, trainer.limit_val_batches, trainer.world_size)
    ranges = [f"{name} in {dimension}" for name, dimension in space.items()]
    kept = {name: value for holder in holders(trainer, module) for name, value in holder.hparams.items()}
    shapes = [(name, tuple(parameter.shape)) for name, parameter in module.named_parameters()]
    told = [f"{name}={value!r}" for name, value in sorted(kept.items()) if name not in space]
    others = [str(fact) for fact in (facts, ranges, limits, *engines, torch.initial_seed())]
    text = repr((type(module).__qualname__, shapes, told, others))
    return f"search-{hashlib.sha256(_ADDRESS.sub('', text).encode()).hexdigest()[:8]}"


def holders(trainer: Trainer, module: LightningModule) -> list[Any]:
    """Return what holds hyperparameters: the module, and the data module if there is one."""
    return [each for each in (module, getattr(trainer, "datamodule", None)) if each is not None]


def _space(asked: "OptunaSearch", trainer: Trainer, module: LightningModule) -> Space:
    """Return what is searched: of the rate and the batch size, those that are asked for and there."""
    owners, options = holders(trainer, module), asked.options
    if len(owners) == 1 and not is_overridden("train_dataloader", module):
        raise SearchError("the trials need loaders of their own; give `fit` a data module instead of loaders.")
    space: dict[str, Any] = {}
    missing = []
    if asked.lr is not None:
        if holds(module, options.lr_name):
            space[options.lr_name] = parse_space(asked.lr, floats=True)
        else:
            missing.append(f"{type(module).__name__} has no `{options.lr_name}` (lr_name names another)")
    if asked.batch_size is not None:
        if any(holds(owner, options.batch_size_name) for owner in owners):
            space[options.batch_size_name] = _sizes(asked, trainer, owners[-1])
        else:
            what = " and ".join(type(owner).__name__ for owner in reversed(owners))
            missing.append(f"{what} has no `{options.batch_size_name}` (batch_size_name names another)")
    if not space:
        raise SearchError(f"there is nothing to search: {'; '.join(missing)}.")
    if missing:
        say(trainer, f"search: {missing[0]}; only {', '.join(space)} is searched.")
    return space


def _sizes(asked: "OptunaSearch", trainer: Trainer, owner: Any) -> Any:
    if asked.batch_size != AUTO:
        return parse_space(asked.batch_size)
    with isolated_random_numbers():
        loaders = owner.train_dataloader()
        try:
            rows = max(len(part.dataset) for part in sibling(trainer, ".utilities.CombinedLoader")(loaders).flattened)
        except (AttributeError, TypeError, ValueError):  # no DataLoader, a dataset without a length, nothing
            rows = 0
    return batch_sizes((rows or _UNKNOWN_ROWS) // trainer.world_size)


_FILES = count()  # files of one second must not have one name


def write_events(
    folder: Path, params: Mapping[str, Any], results: Mapping[str, float], scalars: Sequence[Mapping[str, float]]
) -> None:
    """Write a trial's TensorBoard run in one go: the writer of a logger starts a thread, which takes longer.

    The HParams tab gets what was tried, `params`, beside its other columns, `results`; a run without any of these has
    no row there. The `scalars` are tags to values, one mapping an epoch.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter
    from torch.utils.tensorboard.summary import hparams

    row = hparams({name: plain(value) for name, value in params.items()}, dict(results))  # type: ignore[no-untyped-call]
    summaries = [(each, 0) for each in row] if results else []
    tags = [[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()] for values in scalars]
    summaries += [(Summary(value=values), epoch) for epoch, values in enumerate(tags)]
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
