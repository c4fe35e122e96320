"""What is said of a table before training: the task, what became of the columns, the rows of each set."""

from collections.abc import Iterator
from itertools import groupby
from textwrap import wrap

from datamodules.columns.calendar import DateColumn
from datamodules.columns.encoding import CategoryColumn, Encoding, NumericColumn
from datamodules.errors import printable, shortened
from datamodules.learned import Learned
from datamodules.preparation import STAGES, Stage, TablePreparation, cautions_of

_WIDTH = 110  # of a line
_LONGEST = 3000  # characters that a line is wrapped from: a name may have millions


def described(work: TablePreparation, batch_size: int | str, resolved: int) -> str:
    """Return a few lines for the user; the batch size is the one that was asked for, and what it stands for."""
    learned = work.learned
    train, val, test = map(work.size, STAGES)
    kept = "stratified by class" if learned.task == "classification" else "stratified by target"
    kept = f"groups of {learned.group!r} together" if learned.group else kept
    kept = f"the newest by {learned.time!r} held out" if learned.time else kept
    kept += f", each counts its {learned.weight!r}" if learned.weight else ""
    kept += f", fold {learned.fold} of {learned.folds} for validation" if learned.fold else ""
    left = f"; {learned.n_no_target:,} without a target left out" if learned.n_no_target else ""
    weightless = learned.n_rows - learned.n_no_target - sum(learned.sizes.values())
    left += f"; {weightless:,} of weight 0 left out" if learned.weight and weightless else ""
    asked = "" if isinstance(batch_size, int) else f" ({batch_size})"
    lines = [
        f"data: {work.options.path}, {learned.n_rows:,} rows",
        f"target: {learned.target!r}, {_task(learned)}",
        *_columns(learned.encoding),
        *(f"  {note}" for note in (*learned.encoding.notes, *learned.notes)),
        f"rows: {train:,} train, {val:,} validation, {test:,} test ({kept}, seed {learned.seed}){left}",
        *_unscored(work),
        *(f"warning: {caution}" for caution in cautions_of(work)),
        f"batch size: {resolved}{asked}",
    ]
    shown = (printable(line[:_LONGEST]) for line in lines)
    return "\n".join(part for line in shown for part in wrap(line, _WIDTH, subsequent_indent="    "))


def _task(learned: Learned) -> str:
    if learned.class_names is None:
        return f"regression, mean {learned.target_mean:.6g}, standard deviation {learned.target_std:.6g}"
    return f"classification, {len(learned.class_names)} classes: {shortened(learned.class_names, 10)}"


def _unscored(work: TablePreparation) -> Iterator[str]:
    # Which metrics will be NaN whatever is predicted.
    metric, one = ("r2", "target") if work.learned.class_names is None else ("auroc", "class")
    stages: tuple[Stage, ...] = ("val", "test")
    for stage in stages:
        values = work.stage_target(stage)
        if len(values) and values.min() == values.max():
            yield f"  {stage}_{metric} will be NaN: there is one {one} in all {len(values)} rows"


def _columns(encoding: Encoding) -> list[str]:
    columns = encoding.columns
    numeric, dates = (sum(isinstance(c, kind) for c in columns) for kind in (NumericColumn, DateColumn))
    gaps = [c.name for c in columns if (c.missing if isinstance(c, CategoryColumn) else c.indicator)]
    used = f"{len(encoding.feature_names)} from {numeric} number and {len(columns) - numeric - dates} category columns"
    used += f" and {dates} of dates" if dates else ""
    if bins := [len(c.bin_means) for c in columns if isinstance(c, NumericColumn) and c.bin_means]:
        used += f"; {sum(bins)} are bins of {len(bins)} number columns, at most {max(bins)} of one"
    lines = [f"features: {used}" + (f"; gaps in {shortened(gaps, 8)}" if gaps else "")]
    by_reason = sorted(encoding.dropped.items(), key=lambda item: item[1])
    for reason, group in groupby(by_reason, key=lambda item: item[1]):
        lines.append(f"left out: {shortened((name for name, _ in group), 8)} ({reason})")
    return lines
