"""`python -m lightning_mods.diagnose LOG`: what became of a run, from the log that any framework wrote."""

import argparse
import glob
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from callbacks.diagnosis.names import STAGES, TRAIN, words
from callbacks.diagnosis.verdict import Diagnosis, Fit, diagnose
from callbacks.host.files import replacing
from datamodules.errors import printable
from lightning_mods.cli.command_line import CommandLine, UsageError
from lightning_mods.diagnose.curves import ColumnRequest, Columns, Curves, choose_columns, pair_rows
from lightning_mods.diagnose.formats import EVENTS_MARK, LogError, event_folders, read_table
from lightning_mods.loggers.terminal import aligned

_FLAGS = ("train", "val", "metric", "metric_mode", "baseline", "epoch", "json", "plot")
_KNOWN = {"metrics.csv", "results.csv", "history.json", "history.csv", "training.log"}
_STATE = "trainer_state.json"
_SUFFIXES = {".csv", ".tsv", ".json", ".jsonl", ".ndjson"}
_LARGEST = 50_000_000  # bytes; what is larger and called differently is a data set


def main(args: Sequence[str] | None = None) -> None:
    """Print what became of runs, from the logs that `args` name; None for the command line of the process."""
    try:
        given = _parse(sys.argv[1:] if args is None else args)
        verdicts = _diagnose_all(given)
        if given.plot is not None:
            if len(verdicts) > 1:
                raise UsageError(f"--plot draws one log; {len(verdicts)} were given.")
            _plot(verdicts[0], Path(given.plot))
        _print(verdicts, as_json=given.json)
    except (UsageError, LogError, OSError) as error:
        sys.stderr.write(f"diagnose: {printable(_explain(error))}\n")
        raise SystemExit(2) from None
    if any(each.error for each in verdicts):
        raise SystemExit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message if message.endswith(".") else f"{message}.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m lightning_mods.diagnose", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add(
        "logs",
        metavar="LOG",
        nargs="+",
        help="Lightning's metrics.csv, a TensorBoard event file or folder, Keras' CSVLogger or History JSON, Hugging "
        "Face's trainer_state.json, YOLO's results.csv, W&B's JSON lines, or any table with a header; "
        "also patterns, and folders that hold such files. Several make a table.",
    )
    summed = "It is found by its name where it can be; given several times, the columns are summed."
    add("--train", metavar="COLUMN", action="append", default=[], help=f"Training loss. {summed}")
    add("--val", metavar="COLUMN", action="append", default=[], help=f"Validation loss. {summed}")
    add("--metric", metavar="COLUMN", help="What matters in the end, e.g. val_accuracy; `none` for none.")
    add("--metric_mode", choices=["max", "min"], help="Which is good; by default told by its name.")
    add("--baseline", metavar="LOSS", type=float, help="Validation loss of the best constant prediction.")
    add("--epoch", metavar="COLUMN", help="The column that counts epochs.")
    add("--json", action="store_true", help="Write JSON: an object for one log, a list for several.")
    add("--plot", metavar="PNG", help="Draw the curves with the verdict into this file.")
    return parser


def _parse(args: Sequence[str]) -> argparse.Namespace:
    typed = list(args)
    parser = _parser()
    flags = typed[: typed.index("--")] if "--" in typed else typed
    CommandLine.parse("diagnose", flags, configs=False).refuse_unknown([*_FLAGS, "help"])
    for at in reversed([i for i, word in enumerate(typed[:-1]) if word == "--baseline"]):
        typed[at : at + 2] = [f"--baseline={typed[at + 1]}"]  # argparse takes -1e-3 for a flag
    given = parser.parse_intermixed_args(typed)
    if given.baseline is not None and not isfinite(given.baseline):
        raise UsageError(f"--baseline needs a finite number, not {given.baseline}.")
    return given


def _diagnose_all(given: argparse.Namespace) -> list["LogVerdict"]:
    asked = ColumnRequest(given.train, given.val, given.metric, given.metric_mode, given.epoch)
    paths = find_logs(given.logs)
    verdicts = []
    for path, is_named in paths.items():
        try:
            verdict = diagnose_log(read_log(path, asked), given.baseline)
        except (LogError, OSError) as error:
            verdict = LogVerdict(path, error=_explain(error))
        # A file that nobody named may turn out to be a summary or a data set, not the log of a run.
        evaluations = sum(v is not None for v in verdict.log.curves.val) if verdict.log else 0
        if is_named or evaluations > 1:
            verdicts.append(verdict)
    if not verdicts:
        raise LogError(f"{' '.join(given.logs)}: none of {len(paths)} files holds losses; name a file to learn why.")
    return verdicts


def _print(verdicts: Sequence["LogVerdict"], *, as_json: bool) -> None:
    for each in verdicts:
        if each.error:
            sys.stderr.write(f"diagnose: {printable(str(each.path))}: {printable(each.error)}\n")
    if as_json:  # an object for one log, a list for several; the keys are the same for each
        objects = [_object(each) for each in verdicts]
        text = json.dumps(objects if len(objects) != 1 else objects[0], indent=2, allow_nan=False)
    elif len(verdicts) > 1:
        text = _table(verdicts)
    elif verdicts[0].error:
        return
    else:
        text = _paragraph(verdicts[0])
    sys.stdout.write("\n".join(map(printable, text.split("\n"))) + "\n")


def _plot(verdict: "LogVerdict", target: Path) -> None:
    if verdict.log is None or verdict.diagnosis is None:
        return
    try:
        draw_fit = import_module("lightning_mods.callbacks.fit.figure").draw_fit
    except ImportError as error:
        raise UsageError(f"--plot needs matplotlib (pip install matplotlib): {error}.") from error
    curves = verdict.log.curves
    figure = draw_fit(curves.train, curves.val, verdict.diagnosis, val_metric=curves.metric, title=verdict.path.name)
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


@dataclass(frozen=True)
class RunLog:
    """A log that was read: its kind, the columns taken, their curves and what a person should know about these."""

    path: Path
    kind: str
    columns: Columns
    curves: Curves
    notes: tuple[str, ...]


def read_log(path: Path, asked: ColumnRequest | None = None) -> RunLog:
    """Read a log as curves; a LogError says that it is none, or that its columns cannot be told."""
    table = read_table(path)
    columns = choose_columns(table, asked or ColumnRequest())
    curves = pair_rows(table, columns)
    return RunLog(path, table.kind, columns, curves, (*table.notes, *_notes(columns, curves)))


def _notes(columns: Columns, curves: Curves) -> list[str]:
    notes = []
    if not columns.train:
        notes.append("no training loss is logged")
    if not columns.val:
        notes.append("no validation loss is found; name it with --val if it is there")
    places = curves.places
    if curves.unit != "epoch":
        what = {"evaluation": "evaluations, for epochs are not told apart", "row": "rows, for no epochs are logged"}
        notes.append(f"epochs below are {what[curves.unit]}, counted from 0")
    elif places and places[0]:
        notes.append(f"epochs are counted from 0, which is the log's {places[0]:g}")
    return notes


def find_logs(given: Sequence[str]) -> dict[Path, bool]:
    """Return the logs that files, patterns and folders stand for; a LogError names one that stands for none.

    Each comes with whether it is sure to be meant as a log: it was named, or it is called as a logger calls it. What
    else a folder holds may be a log or not.
    """
    found: dict[Path, bool] = {}
    for name in given:
        paths = [Path(name)]
        if not paths[0].exists():
            paths = [Path(each) for each in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207 -- Path.glob refuses absolute ones
        if not paths:
            raise LogError(f"{name}: there is no such file or folder.")
        for path in paths:
            found |= {each: sure or found.get(each, False) for each, sure in _logs_at(path).items()}
    return found


def _logs_at(path: Path) -> dict[Path, bool]:
    if not path.is_dir():
        return {path: True}
    files = [each for each in sorted(path.rglob("*")) if each.is_file()]
    states = [each for each in files if each.name == _STATE]
    known = [*(each for each in files if each.name.lower() in _KNOWN), *_newest(states), *_event_runs(path)]
    others = [each for each in files if each.suffix.lower() in _SUFFIXES and each not in [*known, *states]]
    others = [each for each in others if each.stat().st_size <= _LARGEST]
    if not known and not others:
        raise LogError(
            f"{path}: there is no log in this folder; TensorBoard event files have `{EVENTS_MARK}` in their names."
        )
    return {each: each in known for each in sorted([*known, *others])}


def _newest(states: list[Path]) -> list[Path]:
    # one `trainer_state.json` a run: the run's own, or else that of its last checkpoint
    runs: dict[Path, Path] = {}
    for path in states:
        run = path.parent.parent if path.parent.name.startswith("checkpoint-") else path.parent
        runs[run] = max(runs.get(run, path), path, key=_state_age)
    return list(runs.values())


def _state_age(path: Path) -> float:
    number = path.parent.name.removeprefix("checkpoint-")
    return float(number) if number.isdecimal() else float("inf")


def _event_runs(root: Path) -> list[Path]:
    # the folders of runs: one with event files, or one whose sub-folders hold a stage each
    folders = event_folders(root)
    runs = []
    for folder in folders:
        siblings = [each for each in folders if each.parent == folder.parent and STAGES & set(words(each.name))]
        stages = {bool(TRAIN & set(words(each.name))) for each in siblings}
        split = folder in siblings and len(stages) == 2 and folder != root
        runs.append(folder.parent if split else folder)
    return [run for run in dict.fromkeys(runs) if not set(run.parents) & set(runs)]


@dataclass(frozen=True)
class LogVerdict:
    """A log with its verdict, or with the reason why it has none."""

    path: Path
    log: RunLog | None = None
    diagnosis: Diagnosis | None = None
    error: str | None = None


def diagnose_log(log: RunLog, baseline: float | None = None) -> LogVerdict:
    """Return the verdict on a log that was read; `baseline` is the validation loss of the best constant."""
    curves = log.curves
    verdict = diagnose(
        curves.train,
        curves.val,
        val_metric=curves.metric,
        metric_mode=log.columns.metric_mode,
        baseline_loss=baseline,
        framework=log.kind,
    )
    return LogVerdict(log.path, log, verdict)


def _paragraph(verdict: LogVerdict) -> str:
    log, found = verdict.log, verdict.diagnosis
    assert log is not None
    assert found is not None
    cause, unknown = found.cause.replace("_", " "), found.fit is Fit.UNKNOWN
    headline = f"unknown, because: {cause}" if unknown else f"{found.fit} ({_percent(found)}), {cause}"
    advice = [f"  {number}. {line}" for number, line in enumerate(found.advice, 1)]
    notes = [f"Note: {note}." for note in log.notes]
    columns = log.columns
    parts = [f"{what} {' + '.join(names)}" for what, names in (("train", columns.train), ("val", columns.val)) if names]
    if columns.metric:
        parts.append(f"metric {columns.metric} ({columns.metric_mode})")
    if columns.epoch or columns.step:
        parts.append(f"by {columns.epoch or columns.step}")
    taken = f"Read {log.path} ({log.kind}): {', '.join(parts)}."
    return "\n".join([headline, found.reason, *advice, taken, *notes])


def _table(verdicts: Sequence[LogVerdict]) -> str:
    rows = [["file", "verdict", "sure", "cause", "best", "onset"]]
    for each in verdicts:
        if each.diagnosis is None:
            rows.append([str(each.path), "unreadable", "-", "-", "-", "-"])  # why stands on stderr
            continue
        found = each.diagnosis
        epochs = ["-" if epoch is None else str(epoch) for epoch in (found.best_epoch, found.onset_epoch)]
        sure = "-" if found.fit is Fit.UNKNOWN else _percent(found)
        rows.append([str(each.path), str(found.fit), sure, found.cause.replace("_", " "), *epochs])
    return "\n".join(aligned(rows, left=[0, 1, 3]))


def _object(verdict: LogVerdict) -> dict[str, Any]:
    log, found = verdict.log, verdict.diagnosis
    columns = log.columns if log else Columns()
    return {
        "file": str(verdict.path),
        "error": verdict.error,
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
        "columns": {**asdict(columns), "metric_mode": columns.metric_mode if columns.metric else None},
        "unit": log.curves.unit if log else None,
        "points": len(log.curves.val) if log else None,
        "evaluations": sum(v is not None for v in log.curves.val) if log else None,
        "notes": list(log.notes) if log else [],
    }


def _place(log: RunLog, epoch: int | None) -> float | None:
    # what the log itself calls an epoch that is counted from 0
    if epoch is None or epoch >= len(log.curves.places):
        return None
    place = log.curves.places[epoch]
    if place is None or not isfinite(place):
        return None
    return int(place) if place.is_integer() else place


def _percent(diagnosis: Diagnosis) -> str:
    return f"{100 * diagnosis.probabilities[diagnosis.fit]:.0f} %"
