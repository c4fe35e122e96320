"""The end of a study: its report, `best.yaml`, the picture, and the fit of the best trial."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.search import TrialRow, best_trials, decode, importances
from lightning_mods import fit
from lightning_mods.runs import newest_run
from lightning_mods.study_board import write_best, write_pictures
from lightning_mods.study_names import short_names
from lightning_mods.study_plan import Study
from lightning_mods.study_refit import fit_on_ranks
from lightning_mods.study_report import Report
from lightning_mods.terminal import say

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy

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
