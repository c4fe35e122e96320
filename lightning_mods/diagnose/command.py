"""`python -m lightning_mods.diagnose LOG`: what became of a run, from the log that any framework wrote."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from callbacks.diagnosis.verdict import Diagnosis, Fit, diagnose
from callbacks.host import replacing
from lightning_mods.cli.command_line import CommandLine, UsageError
from lightning_mods.diagnose.curves import Asked
from lightning_mods.diagnose.logs import RunLog, find_logs, read_log
from lightning_mods.diagnose.table import LogError


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
        curves.train, curves.val, val_metric=curves.metric, metric_mode=log.columns.metric_mode, baseline_loss=baseline
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


_FLAGS = ("train", "val", "metric", "metric_mode", "baseline", "epoch", "json", "plot")


def main(args: Sequence[str] | None = None) -> None:
    """Say what became of runs, from their logs.

    Args:
        args: The command line; None for the one of the process.
    """
    try:
        given = _parse(sys.argv[1:] if args is None else args)
        judged = _judge_all(given)
        if given.plot is not None and len(judged) > 1:
            raise UsageError(f"--plot draws one log; {len(judged)} were given.")
        if given.plot is not None:
            _plot(judged[0], Path(given.plot))
        _say(judged, given.json)
    except (UsageError, LogError, OSError) as error:
        _fail(_explain(error))
    if any(each.error for each in judged):
        raise SystemExit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message if message.endswith(".") else f"{message}.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m lightning_mods.diagnose", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "logs",
        metavar="LOG",
        nargs="+",
        help="Lightning's metrics.csv, a TensorBoard event file or folder, Keras' CSVLogger or History JSON, Hugging "
        "Face's trainer_state.json, YOLO's results.csv, W&B's JSON lines, or any table with a header; "
        "also patterns, and folders that hold such files. Several make a table.",
    )
    summed = "It is found by its name where it can be; given several times, the columns are summed."
    parser.add_argument("--train", metavar="COLUMN", action="append", default=[], help=f"Training loss. {summed}")
    parser.add_argument("--val", metavar="COLUMN", action="append", default=[], help=f"Validation loss. {summed}")
    parser.add_argument(
        "--metric", metavar="COLUMN", help="What matters in the end, e.g. val_accuracy; `none` for none."
    )
    parser.add_argument("--metric_mode", choices=["max", "min"], help="Which is good; by default told by its name.")
    parser.add_argument(
        "--baseline", metavar="LOSS", type=float, help="Validation loss of the best constant prediction."
    )
    parser.add_argument("--epoch", metavar="COLUMN", help="The column that counts epochs.")
    parser.add_argument("--json", action="store_true", help="Write JSON: an object for one log, a list for several.")
    parser.add_argument("--plot", metavar="PNG", help="Draw the curves with the verdict into this file.")
    return parser


def _parse(args: Sequence[str]) -> argparse.Namespace:
    words = list(args)
    parser = _parser()
    flags = words[: words.index("--")] if "--" in words else words
    CommandLine.parse("diagnose", flags, configs=False).refuse_unknown([*_FLAGS, "help"])
    for at in reversed([i for i, word in enumerate(words[:-1]) if word == "--baseline"]):
        words[at : at + 2] = [f"--baseline={words[at + 1]}"]  # argparse takes -1e-3 for a flag
    given = parser.parse_intermixed_args(words)
    if given.baseline is not None and not isfinite(given.baseline):
        raise UsageError(f"--baseline needs a finite number, not {given.baseline}.")
    return given


def _judge_all(given: argparse.Namespace) -> list[Judged]:
    paths = find_logs(given.logs)
    judged = [_judge(path, given) for path in paths]
    kept = [each for each in judged if paths[each.path] or is_worth_a_line(each)]
    if not kept:
        raise LogError(f"{' '.join(given.logs)}: none of {len(judged)} files holds losses; name a file to learn why.")
    return kept


def _judge(path: Path, given: argparse.Namespace) -> Judged:
    asked = Asked(given.train, given.val, given.metric, given.metric_mode, given.epoch)
    try:
        return judge(read_log(path, asked), given.baseline)
    except (LogError, OSError) as error:
        return Judged(path, error=_explain(error))


def _say(judged: Sequence[Judged], machine: bool) -> None:
    for each in judged:
        if each.error:
            sys.stderr.write(f"diagnose: {each.path}: {each.error}\n")
    if machine:
        sys.stdout.write(as_json(judged) + "\n")
    elif len(judged) > 1:
        sys.stdout.write(table(judged) + "\n")
    elif not judged[0].error:
        sys.stdout.write(paragraph(judged[0]) + "\n")


def _plot(judged: Judged, target: Path) -> None:
    if judged.log is None or judged.diagnosis is None:
        return
    try:
        draw_fit = import_module("lightning_mods.callbacks.fit.figure").draw_fit
    except ImportError as error:
        raise UsageError(f"--plot needs matplotlib (pip install matplotlib): {error}.") from error
    curves = judged.log.curves
    figure = draw_fit(curves.train, curves.val, judged.diagnosis, val_metric=curves.metric, title=judged.path.name)
    try:
        with replacing(target) as partial:
            figure.savefig(partial, format=target.suffix[1:] or "png")
    except ValueError as error:
        raise UsageError(f"--plot needs a name that ends in .png; {error}.") from error
    except OSError as error:
        raise UsageError(f"--plot={target} cannot be written: {error.strerror or error}.") from error


def _explain(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or error}." if error.filename is None else f"cannot be read: {error.strerror}."
    return " ".join(str(error).split())


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"diagnose: {message}\n")
    raise SystemExit(2)
