"""Verdicts on logs as text for people and as JSON for machines."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from callbacks.diagnosis import Diagnosis, Fit, diagnose
from lightning_mods.logs import RunLog


@dataclass(frozen=True)
class Judged:
    """A log with its verdict, or with the reason why it has none."""

    path: Path
    log: RunLog | None = None
    diagnosis: Diagnosis | None = None
    error: str | None = None


def judge(log: RunLog, baseline: float | None = None) -> Judged:
    """Ask for the verdict on a log that was read."""
    curves = log.curves
    verdict = diagnose(
        curves.train,
        curves.val,
        val_metric=curves.metric,
        metric_mode=log.columns.metric_mode,
        baseline_loss=baseline,
    )
    return Judged(log.path, log, verdict)


def is_worth_a_line(judged: Judged) -> bool:
    """Whether a file that nobody named turned out to be the log of a run, not a summary or a data set."""
    return judged.log is not None and sum(value is not None for value in judged.log.curves.val) > 1


def headline(diagnosis: Diagnosis) -> str:
    """The verdict in one line: `overfit (92 %), memorising`."""
    cause = diagnosis.cause.replace("_", " ")
    if diagnosis.fit is Fit.UNKNOWN:
        return f"unknown, because: {cause}"
    return f"{diagnosis.fit} ({_percent(diagnosis)}), {cause}"


def paragraph(judged: Judged) -> str:
    """The verdict on one log with its grounds, what to do, and what was read."""
    if judged.log is None or judged.diagnosis is None:
        return f"{judged.path}: {judged.error}"
    log, found = judged.log, judged.diagnosis
    advice = [f"  {number}. {line}" for number, line in enumerate(found.advice, 1)]
    notes = [f"Note: {note}." for note in log.notes]
    return "\n".join([headline(found), found.reason, *advice, _taken(log), *notes])


def table(all_judged: Sequence[Judged]) -> str:
    """One line a log, aligned."""
    rows = [["file", "verdict", "sure", "cause", "best", "onset"]]
    for each in all_judged:
        if each.diagnosis is None:
            rows.append([str(each.path), "unreadable", "-", "-", "-", "-"])  # why stands on stderr
            continue
        found = each.diagnosis
        epochs = ["-" if epoch is None else str(epoch) for epoch in (found.best_epoch, found.onset_epoch)]
        sure = "-" if found.fit is Fit.UNKNOWN else _percent(found)
        rows.append([str(each.path), str(found.fit), sure, found.cause.replace("_", " "), *epochs])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(w) if i in (2, 4, 5) else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_json(all_judged: Sequence[Judged]) -> str:
    """An object for one log, a list for several; the keys are the same for each."""
    objects = [_object(each) for each in all_judged]
    return json.dumps(objects if len(objects) != 1 else objects[0], indent=2, allow_nan=False)


def _object(judged: Judged) -> dict[str, Any]:
    log, found = judged.log, judged.diagnosis
    columns = log.columns if log else None
    return {
        "file": str(judged.path),
        "error": judged.error,
        "fit": str(found.fit) if found else None,
        "cause": found.cause if found else None,
        "probabilities": {str(fit): round(p, 4) for fit, p in found.probabilities.items()} if found else None,
        "best_epoch": found.best_epoch if found else None,
        "onset_epoch": found.onset_epoch if found else None,
        "best_in_log": _place(log, found.best_epoch) if log and found else None,
        "onset_in_log": _place(log, found.onset_epoch) if log and found else None,
        "reason": found.reason if found else None,
        "advice": list(found.advice) if found else None,
        "format": log.kind if log else None,
        "columns": {
            "train": list(columns.train) if columns else [],
            "val": list(columns.val) if columns else [],
            "metric": columns.metric if columns else None,
            "metric_mode": columns.metric_mode if columns and columns.metric else None,
            "epoch": columns.epoch if columns else None,
            "step": columns.step if columns else None,
        },
        "unit": log.curves.unit if log else None,
        "points": len(log.curves.val) if log else None,
        "evaluations": sum(v is not None for v in log.curves.val) if log else None,
        "notes": list(log.notes) if log else [],
    }


def _place(log: RunLog, epoch: int | None) -> float | None:
    """What the log itself calls an epoch that is counted from 0."""
    if epoch is None or epoch >= len(log.curves.places):
        return None
    place = log.curves.places[epoch]
    if place is None or not isfinite(place):
        return None
    return int(place) if place.is_integer() else place


def _percent(diagnosis: Diagnosis) -> str:
    return f"{100 * diagnosis.probabilities[diagnosis.fit]:.0f} %"


def _taken(log: RunLog) -> str:
    columns = log.columns
    parts = [f"train {' + '.join(columns.train)}" if columns.train else "", f"val {' + '.join(columns.val)}"]
    parts = [part if columns.val or not part.startswith("val") else "" for part in parts]
    if columns.metric:
        parts.append(f"metric {columns.metric} ({columns.metric_mode})")
    axis = columns.epoch or columns.step
    parts.append(f"by {axis}" if axis else "")
    return f"Read {log.path} ({log.kind}): {', '.join(part for part in parts if part)}."
