"""Runs a study once its command line has been looked at: opens it, trains its trials, reports, and fits the best."""

import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.host.files import replacing
from callbacks.host.secrets import without_secrets
from callbacks.search.engine import search
from callbacks.search.plan import OtherSpaceError, Plan, SearchError
from callbacks.search.results import Progress, ProgressLine, TrialRow, best_trials, importances
from callbacks.search.storage import is_storage_error, open_storage, why
from callbacks.tuning.ensembles import KeptFits, write_ensemble
from callbacks.tuning.study import rows_of
from lightning_mods import fit
from lightning_mods.cli.command_line import CommandLine, UsageError
from lightning_mods.cli.run_record import as_texts, flat_settings
from lightning_mods.cli.verbs import mistakes_in_one_line
from lightning_mods.loggers.terminal import quiet, say, speak_as, writers_report_once
from lightning_mods.models.ensemble import MLPEnsemble
from lightning_mods.runs import newest_run
from lightning_mods.runs.inspection.uncertainty import learn_uncertainty
from lightning_mods.study.processes import ProcessEnd, rank_processes, run_workers
from lightning_mods.study.ranks import RankTrialRunner, check_ranks
from lightning_mods.study.report import StudyReport, write_pictures
from lightning_mods.study.trial_cli import (
    StudyCLI,
    asked_space,
    build_space,
    check_folds,
    check_greedy,
    check_space,
    short_names,
)
from lightning_mods.study.trials import StudyFits

if TYPE_CHECKING:
    from optuna import Study


_PLANNED = ("name", "n_trials", "timeout", "sampler", "pruner", "seed")  # flags of a study that make its plan


class StudyCommand:
    """Holds a study as a command line describes it, and takes part in it; a UsageError says if it cannot."""

    def __init__(self, line: CommandLine) -> None:
        self.line = line
        if line.typed.get("improve") not in (None, "0"):
            raise UsageError("--improve is for `fit`, which can go on from best.yaml; a study searches by itself.")
        if line.said("data.folds") not in (None, 0, "0"):
            raise UsageError("--data.folds is for `fit`; --study.folds=5 fits each trial of a study on five folds.")
        searched, asked = asked_space(line)
        self.cli = StudyCLI(searched)
        self.flags = self.cli.study
        self.flags.check()
        check_ranks(self.cli.trainer)
        if self.flags.folds:
            check_folds(self.cli.datamodule, self.flags.folds)
        self.space = build_space(self.cli, searched, asked)
        self.root = Path(self.cli.config.trainer.default_root_dir or ".")
        self.folder = self.flags.folder(self.root)
        self.storage = self.flags.place(self.root)
        same = {name: getattr(self.flags, name) for name in _PLANNED}
        self.plan = Plan(directions=tuple(self.flags.directions), **same)
        self.plan.check()
        if self.cli.config.ensemble is not None:
            check_greedy(self.cli, self.space)

    def train_here(self, report: Callable[[Progress], object]) -> None:
        """Take part in the study until it is done."""
        if self.cli.trainer.world_size > 1:
            train: Any = RankTrialRunner(self.cli, self.space, self.folder)
        else:
            train = StudyFits(self.cli, self.space, self.folder).grouped()
        with writers_report_once():
            search(train, self.space, self.plan, storage=self.storage, report=report)

    def look(self) -> tuple["Study", Progress]:
        """Return the study as it stands and how far it is; nothing is trained."""
        seen: list[Progress] = []
        plan = replace(self.plan, timeout=1e-9)  # over before the first trial
        study = search(_never, self.space, plan, storage=self.storage, report=seen.append)
        return study, seen[-1]


def work(line: CommandLine, send: Callable[[Any], None]) -> None:
    """Take part in a study as a worker; what is sent is the progress, or what is wrong with the command."""
    quiet()
    try:
        StudyCommand(line).train_here(send)
    except (SearchError, UsageError) as error:
        send(str(error))


def _never(trial: Any, values: Any) -> float:
    raise AssertionError("no trial is to be trained")


_SETTINGS = "settings"  # user attribute of the study: what its trials have in common


@dataclass(frozen=True)
class OpenStudy:
    """A study that is open."""

    study: StudyCommand
    before: Progress  # how far it was
    is_new: bool  # this command made it
    new_files: tuple[Path, ...]  # that were not there before it did

    def undo_if_new(self) -> None:
        """Leave nothing of a study that this command made and that came to nothing."""
        if not self.is_new:
            return
        with suppress(Exception):  # the mistake itself is what the user must read
            import optuna

            opened, _ = self.study.look()
            if any(trial.state.is_finished() and "reason" in trial.user_attrs for trial in opened.get_trials()):
                return  # another process has come further
            optuna.delete_study(study_name=opened.study_name, storage=open_storage(self.study.storage))
        _remove(self.new_files)


# Flags that came later, with the value under which a fit is what it was before: studies begun then know none of them.
_LATER = {
    "data.bins": "0",
    "data.decimal": "'auto'",
    "data.encoding": "'auto'",
    "data.fold": "0",
    "data.folds": "0",
    "data.group": "None",
    "data.keep": "None",
    "data.max_expansion": "100.0",
    "data.thousands": "'auto'",
    "data.time": "None",
    "data.weight": "None",
    "model.ema_epochs": "0.0",
    "model.input_scaling": "False",
    "model.lr_schedule": "'constant'",
}


def open_study(study: StudyCommand) -> OpenStudy:
    """Open the study and note down what all its trials have in common; it must have been begun with the same flags."""
    new_files = tuple(path for path in _files(study) if not path.exists())
    try:
        opened, before = study.look()
    except SearchError as error:
        _remove(new_files)
        if isinstance(error, OtherSpaceError) and study.cli.config.recipe != "plain":
            raise SearchError(f"{error} One from before there were recipes goes on with --recipe=plain.") from error
        raise
    asked, there = _settings(study.cli, study.space), opened.user_attrs.get(_SETTINGS)
    if there is None:
        opened.set_user_attr(_SETTINGS, asked)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental; optuna-dashboard shows the names
            opened.set_metric_names(study.flags.metrics)
    elif differ := [n for n in sorted({*asked, *there}) if asked.get(n) != there.get(n, _LATER.get(n))]:
        name = differ[0]
        more = f" (and {len(differ) - 1} more flags)" if differ[1:] else ""
        began = f"with --{name}={there[name]}" if name in there else f"without --{name}"
        raise UsageError(
            f"the study {study.flags.name!r} was begun {began}, and now it is {asked.get(name, 'not given')}{more}: "
            "its trials would not compare. Give the same, or another --study.name."
        )
    is_new = there is None and not opened.get_trials(deepcopy=False)
    if is_new:
        KeptFits(study.folder, high=False).forget()  # of a study that was removed
    return OpenStudy(study, before, is_new, new_files)


def _settings(cli: StudyCLI, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return what trials have in common and may not change between two starts, flag to text; not what is searched."""
    apart = {"default_root_dir", "accelerator", "devices", "num_nodes", "logger", "profiler"}
    chosen = without_secrets(flat_settings(cli.config, ("model", "data", "optimizer", "lr_scheduler", "trainer")))
    keys = {name: name.partition(".")[2] for name in chosen}
    kept = {name: value for name, value in chosen.items() if keys[name] not in apart}
    found = {"seed_everything": cli.base_seed, **{n: v for n, v in kept.items() if not keys[n].startswith("enable_")}}
    study = cli.study
    found |= {"study.metric": study.metrics, "study.seeds": study.seeds, "study.folds": study.folds}
    if cli.trainer.world_size > 1:  # they share the rows of a step: another number of them is another fit
        found["trainer.devices"] = cli.trainer.world_size
    return as_texts({name: value for name, value in found.items() if name not in names})


def _files(study: StudyCommand) -> list[Path]:
    """The study's folder with those above it, and the file that holds its trials; the outermost first."""
    storage = study.storage.partition(":///")[2] if study.storage.startswith("sqlite:") else study.storage
    files = [] if "://" in storage else [Path(storage)]
    return [study.folder.parent, study.folder, *files]


def _remove(paths: tuple[Path, ...]) -> None:
    for path in paths:
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def fit_on_ranks(count: int, args: Sequence[str]) -> None:
    """Run `fit` on processes of their own: Lightning would start the command of the study again for each rank."""
    with rank_processes(count, _fit, list(args)) as ranks:
        try:
            while ranks.is_alive:
                for _, message in ranks.receive():
                    if isinstance(message, ProcessEnd) and message.code:
                        raise SystemExit(max(message.code, 1))
        except KeyboardInterrupt:
            say("stopped; the same command fits it anew.")
            raise SystemExit(1) from None


def _fit(rank: int, pipe: Connection, args: list[str]) -> None:
    speak_as(rank)
    fit.main(args)


# ------------------------------------------------------------------ what it came to

_BEST_CONFIG = "best.yaml"
_BEST = 10  # trials in the table
_REFIT = "refit"  # user attribute of the study: which trial was fitted anew, and the folder of that run


def finish(study: StudyCommand, *, interrupted: bool = False) -> None:
    """Say and write what the study came to; fit the best trial anew if it was not interrupted.

    Ends with code 1 if all workers ended before the study was done.
    """
    opened, now = study.look()
    rows = rows_of(opened, study.space)
    best: list[TrialRow] = []
    if rows:
        best = best_trials(opened, study.space, _BEST)
        best = sorted(best, key=lambda row: row.values[0], reverse=study.flags.directions[0] == "maximize")
        _report(study, rows, best, importances(opened, study.space))
    if interrupted:
        return
    if now.done < now.total:
        say(f"{now.done} of {now.total} trials are done; the same command goes on.")
        if study.flags.timeout is None:
            raise SystemExit(1)
    if study.cli.config.ensemble is not None and rows:
        _write_ensemble(study)
    if study.flags.refit and best:
        _refit(study, opened, best[0])


def _write_ensemble(study: StudyCommand) -> None:
    kept, data = KeptFits(study.folder, high=study.flags.directions[0] == "maximize"), study.cli.datamodule
    data.prepare_data()
    data.setup("fit")
    words, path = write_ensemble(study.cli.model, data, kept)
    sys.stdout.write(f"ensemble     {words}\n")
    if path is not None:
        ensemble = MLPEnsemble.load_from_checkpoint(path, map_location="cpu", weights_only=True)
        for line in learn_uncertainty(ensemble, data, path, calibrate=study.cli.config.calibrate):
            say(line)
        command = f"python -m lightning_mods.predict --ckpt_path={_quoted(path)} --data.predict_path=FILE"
        sys.stdout.write(f"use it       {command}\n")


def _report(study: StudyCommand, rows: list[TrialRow], best: list[TrialRow], mattered: Mapping[str, float]) -> None:
    report = StudyReport(
        study.flags.name, study.flags.metrics, study.flags.directions, study.space, best, rows, mattered
    )
    sys.stdout.write(f"\n{report}\n\n")
    folder = study.folder
    drawn = f"picture      {write_pictures(folder, report)}\nlook at it   tensorboard --logdir {_quoted(folder)}"
    lines = [drawn, *([_write_best(study, best[0])] if best else [])]
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _write_best(study: StudyCommand, row: TrialRow) -> str:
    """Write the whole configuration of a trial's fit, to be given to `fit --config`, under a line of words on it."""
    body = "\n".join(line for line in study.cli.config_text(row.params).splitlines() if not line.startswith("#"))
    metric, path = study.flags.metrics[0], study.folder / _BEST_CONFIG
    words = f"trial {row.number} of study {study.flags.name}: {metric} {row.values[0]:.6g} in its best epoch"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(f"# {words}\n{body}\n", encoding="utf-8")
    of = f" (the best {metric} of the front)" if len(study.flags.metrics) > 1 else ""
    return f"train it     python -m lightning_mods.fit --config {_quoted(path)}{of}"


def _refit(study: StudyCommand, opened: "Study", row: TrialRow) -> None:
    known = opened.user_attrs.get(_REFIT) or {}
    run = Path(str(known.get("run", "")))
    if known.get("trial") == row.number and (run / "checkpoints" / "best.ckpt").is_file():
        say(f"trial {row.number} was fitted already: {run}")
        return
    sys.stdout.write(f"\nfit of trial {row.number}:\n")
    sys.stdout.flush()
    command = [f"--config={study.cli.secret_config(row.params) or study.folder / _BEST_CONFIG}"]
    if study.cli.trainer.world_size > 1:
        fit_on_ranks(study.cli.trainer.world_size, command)
    else:
        fit.main(command)
    found = newest_run(study.root)
    if found is not None:
        opened.set_user_attr(_REFIT, {"trial": row.number, "run": str(found)})


def _quoted(path: Path) -> str:
    return f"'{path}'" if " " in str(path) else str(path)


def study(line: CommandLine) -> None:
    """Search for the settings of a fit."""
    with mistakes_in_one_line("study", line):
        quiet()
        try:
            _run(StudyCommand(line))
        except Exception as error:
            if not isinstance(error, SearchError) and not is_storage_error(error):
                raise
            lost = f"--study.storage was lost ({why(error)}); the same command goes on when it is back."
            raise UsageError(str(error) if isinstance(error, SearchError) else lost) from None


def _run(study: StudyCommand) -> None:
    check_space(study.cli, study.space)
    opened = open_study(study)
    progress = ProgressLine(study.flags.metrics[0], name="study", shown=short_names(study.space))
    if opened.before.done >= opened.before.total:
        say(f"study {study.flags.name} is finished; --study.n_trials above {opened.before.done} goes on with it.")
    try:
        _train(study, progress)
    except SearchError:
        opened.undo_if_new()
        raise
    except (KeyboardInterrupt, SystemExit):
        progress.end()
        say("stopped; the same command goes on.")
        finish(study, interrupted=True)
        raise SystemExit(1) from None
    progress.end()
    finish(study)


def _train(study: StudyCommand, progress: ProgressLine) -> None:
    if study.flags.workers == 1:
        study.train_here(progress.show)
        return
    error = run_workers(study.flags.workers, work, study.line, progress.show)
    if error:
        raise SearchError(error)
