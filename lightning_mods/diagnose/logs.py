"""A log of any framework as curves: where it is, what wrote it, which columns were taken."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_mods.diagnose.curves import Asked, Columns, Curves, choose, pair
from lightning_mods.diagnose.formats import MARK, event_folders, is_event_file, read_events, read_text
from lightning_mods.diagnose.table import STAGES, TRAIN, LogError, Table, words

_KNOWN = {"metrics.csv", "results.csv", "history.json", "history.csv", "training.log"}
_STATE = "trainer_state.json"
_SUFFIXES = {".csv", ".tsv", ".json", ".jsonl", ".ndjson"}
_LARGEST = 50_000_000  # bytes; what is larger and called differently is a data set


@dataclass(frozen=True)
class RunLog:
    """A log that was read."""

    path: Path
    kind: str
    columns: Columns
    curves: Curves
    notes: tuple[str, ...]


def read_log(path: Path, asked: Asked | None = None) -> RunLog:
    """Read a log.

    Args:
        path: A text file, an event file, or a folder with event files of one run.
        asked: What is known of its columns.

    Raises:
        LogError: It is no log, or its columns cannot be told.
        OSError: It cannot be opened.
    """
    table = _table(path)
    columns = choose(table, asked or Asked())
    curves = pair(table, columns)
    return RunLog(path, table.kind, columns, curves, (*table.notes, *_notes(columns, curves)))


def _table(path: Path) -> Table:
    if path.is_dir():
        return read_events(path, event_folders(path))
    return read_events(path) if is_event_file(path) else read_text(path)


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
    """The logs that files, patterns and folders stand for, each once.

    Returns:
        Each with whether it is sure to be meant as a log: it was named, or it is called as a logger calls it. What
        else a folder holds may be a log or not.

    Raises:
        LogError: One that stands for none.
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
        raise LogError(f"{path}: there is no log in this folder; TensorBoard event files have `{MARK}` in their names.")
    return {each: each in known for each in sorted([*known, *others])}


def _newest(states: list[Path]) -> list[Path]:
    """One `trainer_state.json` a run: the run's own, or else that of its last checkpoint."""
    runs: dict[Path, Path] = {}
    for path in states:
        run = path.parent.parent if path.parent.name.startswith("checkpoint-") else path.parent
        runs[run] = max(runs.get(run, path), path, key=_state_age)
    return list(runs.values())


def _state_age(path: Path) -> float:
    number = path.parent.name.removeprefix("checkpoint-")
    return float(number) if number.isdecimal() else float("inf")


def _event_runs(root: Path) -> list[Path]:
    """The folders of runs: one with event files, or one whose sub-folders hold a stage each."""
    folders = event_folders(root)
    runs = []
    for folder in folders:
        siblings = [each for each in folders if each.parent == folder.parent and STAGES & set(words(each.name))]
        stages = {bool(TRAIN & set(words(each.name))) for each in siblings}
        split = folder in siblings and len(stages) == 2 and folder != root
        runs.append(folder.parent if split else folder)
    return [run for run in dict.fromkeys(runs) if not set(run.parents) & set(runs)]
