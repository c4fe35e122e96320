"""What `study` does once the command line has been looked at."""

import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.search.plan import SearchError
from callbacks.search.results import Progress, TrialRow, best_trials, importances
from callbacks.search.space import decode
from lightning_mods import fit
from lightning_mods.cli.command_line import CommandLine, UsageError
from lightning_mods.cli.verbs import mistakes_in_one_line
from lightning_mods.console.terminal import quiet, say, speak_as
from lightning_mods.runs import newest_run
from lightning_mods.study.plan import Study, work
from lightning_mods.study.processes import Ended, Team, run_workers
from lightning_mods.study.report import Report, StudyProgress, settings, write_best, write_pictures
from lightning_mods.study.space import check_space, short_names

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy


_SETTINGS = "settings"  # user attribute of the study: what its trials have in common


@dataclass(frozen=True)
class Opened:
    """A study that is open.

    Args:
        study: What the command line says.
        before: How far it was.
        is_new: This command made it.
        new_files: What was not there before it did.
    """

    study: Study
    before: Progress
    is_new: bool
    new_files: tuple[Path, ...]

    def undo_if_new(self) -> None:
        """Leave nothing of a study that this command made and that came to nothing."""
        if not self.is_new:
            return
        with suppress(Exception):  # the mistake itself is what the user must read
            import optuna

            opened, _ = self.study.look()
            if any(trial.state.is_finished() and "reason" in trial.user_attrs for trial in opened.get_trials()):
                return  # another process has come further
            optuna.delete_study(study_name=opened.study_name, storage=opened._storage)
        _remove(self.new_files)


def open_study(study: Study) -> Opened:
    """Open the study and note down what all its trials have in common.

    Raises:
        SearchError: The storage cannot be used, or its study has another space or direction.
        UsageError: Its trials were trained with other flags.
    """
    new_files = tuple(path for path in _files(study) if not path.exists())
    try:
        opened, before = study.look()
    except SearchError:
        _remove(new_files)
        raise
    asked, there = settings(study.cli, study.space), opened.user_attrs.get(_SETTINGS)
    if there is None:
        opened.set_user_attr(_SETTINGS, asked)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental; optuna-dashboard shows the names
            opened.set_metric_names(study.flags.metrics)
    elif differ := [name for name in sorted({*asked, *there}) if asked.get(name) != there.get(name)]:
        name = differ[0]
        more = f" (and {len(differ) - 1} more flags)" if differ[1:] else ""
        began = f"with --{name}={there[name]}" if name in there else f"without --{name}"
        raise UsageError(
            f"the study {study.flags.name!r} was begun {began}, and now it is {asked.get(name, 'not given')}{more}: "
            "its trials would not compare. Give the same, or another --study.name."
        )
    return Opened(study, before, there is None and not opened.get_trials(deepcopy=False), new_files)


def _files(study: Study) -> list[Path]:
    """The study's folder with those above it, and the file that holds its trials; the outermost first."""
    storage = study.storage.partition(":///")[2] if study.storage.startswith("sqlite:") else study.storage
    files = [] if "://" in storage else [Path(storage)]
    return [study.folder.parent, study.folder, *files]


def _remove(paths: tuple[Path, ...]) -> None:
    for path in paths:
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def fit_on_ranks(count: int, args: Sequence[str]) -> None:
    """Run `fit` on processes of their own: Lightning would start the command of the study again for each rank.

    Args:
        count: How many.
        args: The command line of `fit`.

    Raises:
        SystemExit: With code 1, or that of the rank that failed first.
    """
    with Team(count, _fit, list(args)) as team:
        try:
            while team.is_alive:
                for _, message in team.hear():
                    if isinstance(message, Ended) and message.code:
                        raise SystemExit(max(message.code, 1))
        except KeyboardInterrupt:
            say("stopped; the same command fits it anew.")
            raise SystemExit(1) from None


def _fit(rank: int, pipe: Connection, args: list[str]) -> None:
    speak_as(rank)
    fit.main(args)


_BEST = 10  # trials in the table
_REFIT = "refit"  # user attribute of the study: which trial was fitted anew, and the folder of that run


def finish(study: Study, *, interrupted: bool = False) -> None:
    """Say and write what the study came to.

    Args:
        study: The study.
        interrupted: It was stopped; the best trial is not fitted anew.

    Raises:
        SystemExit: With code 1, if all workers ended before the study was done.
    """
    opened, now = study.look()
    rows = _rows(opened, study)
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
    if study.flags.refit and best:
        _refit(study, opened, best[0])


def _report(study: Study, rows: list[TrialRow], best: list[TrialRow], mattered: Mapping[str, float]) -> None:
    report = str(Report(study.flags.name, study.flags.metrics, list(study.space), best, rows, mattered))
    sys.stdout.write(f"\n{report}\n\n")
    lines = [_picture(study, rows, report, list(mattered)), *([_best(study, best)] if best else [])]
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _rows(opened: "OptunaStudy", study: Study) -> list[TrialRow]:
    """All trials that count."""
    rows = []
    for trial in opened.get_trials(deepcopy=False):
        lost = trial.state.name == "FAIL" and "reason" not in trial.user_attrs
        if trial.state.is_finished() and not lost:
            rows.append(
                TrialRow(
                    number=trial.number,
                    state=trial.state.name,
                    params=decode(study.space, trial.params),
                    values=tuple(trial.values or ()),
                    seconds=trial.duration.total_seconds() if trial.duration else None,
                    reason=str(trial.user_attrs.get("reason", "")),
                    attrs=dict(trial.user_attrs),
                )
            )
    return rows


def _picture(study: Study, rows: Sequence[TrialRow], report: str, mattered: Sequence[str]) -> str:
    short = short_names(study.space)
    path = write_pictures(
        study.folder,
        [replace(row, params={short[name]: value for name, value in row.params.items()}) for row in rows],
        report,
        axes=[short[name] for name in _axes(study.space, mattered)],
        monitor=study.flags.metrics[0],
        mode=study.flags.directions[0][:3],
    )
    return f"picture      {path}\nlook at it   tensorboard --logdir {_quoted(study.folder)}"


def _axes(space: Mapping[str, Any], mattered: Sequence[str]) -> list[str]:
    """The learning rate over the batch size; what mattered most where these were not both searched."""
    rates = [name for name in ("optimizer.lr", "model.lr") if name in space]
    first = [*rates[:1], *(["data.batch_size"] if "data.batch_size" in space else [])]
    numbers = [name for name in [*mattered, *space] if not isinstance(space[name].levels(2)[0], str | list)]
    return list(dict.fromkeys([*first, *numbers, *space]))[:2]


def _best(study: Study, best: Sequence[TrialRow]) -> str:
    metric, value = study.flags.metrics[0], best[0].values[0]
    words = f"trial {best[0].number} of study {study.flags.name}: {metric} {value:.6g} in its best epoch"
    path = write_best(study.cli, study.folder, best[0], words)
    of = f" (the best {metric} of the front)" if len(study.flags.metrics) > 1 else ""
    return f"train it     python -m lightning_mods.fit --config {_quoted(path)}{of}"


def _refit(study: Study, opened: "OptunaStudy", row: TrialRow) -> None:
    known = opened.user_attrs.get(_REFIT) or {}
    run = Path(str(known.get("run", "")))
    if known.get("trial") == row.number and (run / "checkpoints" / "best.ckpt").is_file():
        say(f"trial {row.number} was fitted already: {run}")
        return
    sys.stdout.write(f"\nfit of trial {row.number}:\n")
    sys.stdout.flush()
    command = [f"--config={study.folder / 'best.yaml'}"]
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
    with mistakes_in_one_line("study"):
        quiet()
        try:
            _run(Study(line))
        except SearchError as error:
            raise UsageError(str(error)) from error


def _run(study: Study) -> None:
    check_space(study.cli, study.space)
    opened = open_study(study)
    progress = StudyProgress(study.flags.metrics, study.space)
    if opened.before.done >= opened.before.total:
        say(f"study {study.flags.name} is finished; --study.n_trials above {opened.before.done} goes on with it.")
    try:
        _train(study, progress)
    except SearchError:
        opened.undo_if_new()
        raise
    except (KeyboardInterrupt, SystemExit):
        progress.close()
        say("stopped; the same command goes on.")
        finish(study, interrupted=True)
        raise SystemExit(1) from None
    progress.close()
    finish(study)


def _train(study: Study, progress: StudyProgress) -> None:
    if study.flags.workers == 1:
        study.train_here(progress)
        return
    error = run_workers(study.flags.workers, work, study.line, progress)
    if error:
        raise SearchError(error)
