"""A few lines that tell the user what became of the table."""

from collections.abc import Mapping
from itertools import groupby
from textwrap import wrap

from datamodules.encoding import CategoryColumn, NumericColumn
from datamodules.errors import shortened
from datamodules.learning import Learned

_WIDTH = 110


def describe(learned: Learned, path: str, sizes: Mapping[str, int], asked_batch: int | str, batch_size: int) -> str:
    """Describe what was learned and how the rows are shared out."""
    lines = [
        f"data: {path}, {learned.n_rows:,} rows",
        f"target: {learned.target!r}, {_task(learned)}",
        _features(learned),
        *_dropped(learned),
        *(f"  {note}" for note in (*learned.encoding.notes, *learned.notes)),
        _rows(learned, sizes),
        f"batch size: {batch_size}" + ("" if isinstance(asked_batch, int) else f" ({asked_batch})"),
    ]
    return "\n".join(part for line in lines for part in wrap(line, _WIDTH, subsequent_indent="    "))


def _task(learned: Learned) -> str:
    if learned.class_names is None:
        return f"regression, mean {learned.target_mean:.6g}, standard deviation {learned.target_std:.6g}"
    return f"classification, {len(learned.class_names)} classes: {shortened(learned.class_names, 10)}"


def _features(learned: Learned) -> str:
    columns = learned.encoding.columns
    numeric = sum(isinstance(c, NumericColumn) for c in columns)
    categories = sum(isinstance(c, CategoryColumn) for c in columns)
    gaps = [c.name for c in columns if (c.indicator if isinstance(c, NumericColumn) else c.missing)]
    text = f"features: {len(learned.encoding.feature_names)} from {numeric} number and {categories} category columns"
    return text + (f"; gaps in {shortened(gaps, 8)}" if gaps else "")


def _dropped(learned: Learned) -> list[str]:
    by_reason = sorted(learned.encoding.dropped.items(), key=lambda item: item[1])
    return [
        f"left out: {shortened((name for name, _ in group), 8)} ({reason})"
        for reason, group in groupby(by_reason, key=lambda item: item[1])
    ]


def _rows(learned: Learned, sizes: Mapping[str, int]) -> str:
    kept = "stratified by class" if learned.task == "classification" else "stratified by target"
    text = f"rows: {sizes['train']:,} train, {sizes['val']:,} validation, {sizes['test']:,} test"
    left = f"; {learned.n_no_target:,} without a target left out" if learned.n_no_target else ""
    return f"{text} ({kept}, seed {learned.seed}){left}"
