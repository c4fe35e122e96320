"""Log files of any format as a table of numbers: CSV and its kin, JSON, JSON a line, TensorBoard events."""

import csv
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

from callbacks.diagnosis.names import STAGES, plain

EVENTS_MARK = "tfevents"  # in the name of every event file

_STAGE_COLUMNS = {"mode", "phase", "split", "stage", "subset", "set", "dataset"}
_BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # what a Windows shell's `>` writes
_LARGEST_CELL = 10_000_000  # characters; the csv module's own 131 072 is less than a logged histogram
_MISSING = {"", "-", "na", "n/a", "none", "null", "nil", "."}
_TENSOR = re.compile(r"tensor\(\s*([-+.\w]+).*\)", re.DOTALL)  # what str() makes of a torch scalar
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(e[-+]?\d+)?", re.IGNORECASE)

Cell = float | None  # None is an empty cell; NaN is what the run wrote


class LogError(ValueError):
    """Raised when a log cannot be read; says why in one line for the person who gave it."""


@dataclass(frozen=True)
class Table:
    """A log's columns, all of one length, in the order of the file."""

    kind: str  # what wrote it, in words
    columns: dict[str, list[Cell]]
    words: dict[str, str] = field(default_factory=dict)  # of a column that holds words, the first of them
    notes: tuple[str, ...] = ()  # what was left out while reading

    @property
    def length(self) -> int:
        """Return the number of rows."""
        return max((len(values) for values in self.columns.values()), default=0)

    def count(self, name: str) -> int:
        """Return how many cells of a column hold a number, NaN among them."""
        return sum(value is not None for value in self.columns[name])


def number(value: object) -> Cell | str:
    """Return what a cell says: a number, None where it is empty, or else its words.

    `NaN`, `Infinity` and `inf` are numbers, whatever their case; a list of one number is that number.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if value is None or isinstance(value, bool):
        return None if value is None else str(value)
    if isinstance(value, str) and value.strip().lower() in _MISSING:
        return None
    if not isinstance(value, str | int | float):
        return type(value).__name__
    text = str(value).strip()
    tensor = _TENSOR.fullmatch(text)
    if tensor:
        text = tensor[1]
    elif _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:
        return text


def _table(kind: str, rows: Iterable[Mapping[str, object]], notes: Sequence[str] = ()) -> Table:
    # out of rows, each with some of the columns
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, list[Cell]] = {name: [None] * len(rows) for name in names}
    words: dict[str, str] = {}
    for at, row in enumerate(rows):
        for name, value in row.items():
            cell = number(value)
            if isinstance(cell, str):
                words.setdefault(name, cell)
            else:
                columns[name][at] = cell
    return Table(kind, columns, words, tuple(notes))


def is_epoch(name: str) -> bool:
    """Return whether a column counts epochs, by its name."""
    return plain(name) in {"epoch", "epochs", "ep", "current_epoch", "trainer_epoch", "train_epoch", "epoch_num"}


def is_step(name: str) -> bool:
    """Return whether a column counts optimizer steps, by its name."""
    known = {"step", "steps", "global_step", "iter", "iters", "iteration", "iterations", "n_iter", "update", "updates"}
    return plain(name).removeprefix("trainer_").removeprefix("train_") in known


def read_table(path: Path) -> Table:
    """Read a log as a table: a text file, an event file, or a folder with event files of one run."""
    if path.is_dir():
        return _read_events(path, event_folders(path))
    return _read_events(path, [path]) if EVENTS_MARK in path.name else _read_text(path)


def _read_text(path: Path) -> Table:
    # by what it holds, whatever it is called
    content = _decode(path.read_bytes())
    if not content.strip():
        raise LogError("a log with a header and rows is needed; the file is empty.")
    table = _json(content) if content.lstrip()[0] in "{[" else _delimited(content)
    if not table.length:
        raise LogError("rows are needed; the file has none.")
    return table


def _decode(content: bytes) -> str:
    try:
        text = content.decode(_BYTE_ORDER_MARKS.get(content[:2], "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise LogError("a text file in UTF-8 or a TensorBoard event file is needed; this is neither.") from error
    if "\0" in text:
        raise LogError("a text file or a TensorBoard event file is needed; this is neither.")
    return text


def _delimited(content: str) -> Table:
    csv.field_size_limit(_LARGEST_CELL)
    try:
        rows = [row for row in _split(content.lstrip("# \r\n")) if any(map(str.strip, row))]
    except csv.Error as error:
        raise LogError(f"rows and columns are needed; {error}.") from error
    if not rows:
        raise LogError("a log with a header and rows is needed; the file has neither.")
    header, *body = rows
    names = _unique([" ".join(name.strip().strip('"').split()) for name in header])
    if all(isinstance(number(name), float) for name in names):
        raise LogError(f"a first line with the columns' names is needed; it holds {', '.join(names[:4])}.")
    if not body:
        raise LogError(f"rows are needed; the file has a header only: {', '.join(names)[:200]}.")
    again = [cell.strip() for cell in header]  # written once more by a run that was started again
    filled = (
        dict(zip_longest(names, row[: len(names)], fillvalue="")) for row in body if list(map(str.strip, row)) != again
    )
    return _table(_kind_of(names), _by_stage(filled))


def _split(content: str) -> Iterator[list[str]]:
    first = content.partition("\n")[0]
    counts = {mark: first.count(mark) for mark in ",\t;|"}
    mark = max(counts, key=lambda each: counts[each])
    if counts[mark]:
        return csv.reader(StringIO(content, newline=""), delimiter=mark, skipinitialspace=mark != "\t")
    return (line.split() for line in content.splitlines())


def _by_stage(rows: Iterable[Mapping[str, object]]) -> Iterator[Mapping[str, object]]:
    # Rows of `phase=train, loss=1` and `phase=val, loss=2` get the stage before the names: `train/loss`.
    for row in rows:
        stages = [value for name, value in row.items() if plain(name) in _STAGE_COLUMNS and isinstance(value, str)]
        stage = stages[0].strip().lower() if stages else ""
        if stage in STAGES:
            row = {n if is_epoch(n) or is_step(n) else f"{stage}/{n}": value for n, value in row.items()}
        yield row


def _unique(names: list[str]) -> list[str]:
    return [f"{name}.{names[:i].count(name)}" if name in names[:i] else name for i, name in enumerate(names)]


def _kind_of(names: list[str]) -> str:
    low = {name.lower() for name in names}
    if any(name.startswith("metrics/map") or name == "train/box_loss" for name in low):
        return "YOLO results"
    if "step" in low and "epoch" in low:
        return "Lightning metrics"
    if {"epoch", "loss", "val_loss"} <= low:
        return "Keras log"
    return "table"


def _json(content: str) -> Table:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        return _json_lines(content, error)
    if isinstance(found, dict):
        return _json_object(found)
    if isinstance(found, list) and found and all(isinstance(row, dict) for row in found):
        return _records(found, "JSON rows")
    raise LogError("JSON with named lists or rows of numbers is needed; this is another shape.")


def _json_lines(content: str, whole: Exception) -> Table:
    rows: list[dict[str, Any]] = []
    lines = list(filter(str.strip, content.splitlines()))
    for line in lines:
        with suppress(ValueError, RecursionError):
            if isinstance(row := json.loads(line), dict):
                rows.append(row)
    broken = len(lines) - len(rows)
    if not rows or broken > len(rows):
        raise LogError(f"JSON, or JSON a line, is needed; {' '.join(str(whole).split())}.")
    note = f"{broken} of {len(lines)} lines are no JSON and were left out"
    return _records(rows, "JSON lines", [note] if broken else [])


def _json_object(found: dict[str, Any]) -> Table:
    if isinstance(found.get("log_history"), list):
        return _records([row for row in found["log_history"] if isinstance(row, dict)], "Hugging Face log")
    if isinstance(found.get("history"), list) and all(isinstance(row, dict) for row in found["history"]):
        return _records(found["history"], "JSON rows")
    if isinstance(found.get("history"), dict):
        epochs = {"epoch": found["epoch"]} if isinstance(found.get("epoch"), list) else {}
        found = {**epochs, **found["history"]}
    flat = dict(_flat(found))
    lists = _by_row(found) or {name: value for name, value in flat.items() if isinstance(value, list) and value}
    if lists and max(map(len, lists.values())) > 1:
        return _table("Keras history", _by_epoch(lists))
    if any(isinstance(number(value), float) for value in flat.values()):
        return _table("JSON lines", [flat])
    raise LogError(f"JSON with named lists or rows of numbers is needed; this holds {', '.join(found) or 'nothing'}.")


def _by_row(found: dict[str, Any]) -> dict[str, list[Any]]:
    # what pandas' `to_json` writes: every column an object of row number -> value
    inner = [value for value in found.values() if isinstance(value, dict)]
    if not inner or len(inner) < len(found) or not all(key.isdecimal() for each in inner for key in each):
        return {}
    return {name: [value[key] for key in sorted(value, key=int)] for name, value in found.items() if value}


def _by_epoch(lists: dict[str, list[Any]]) -> Iterator[dict[str, object]]:
    # A row is an epoch; a list of a k-th of the length was written every k epochs (Keras' `validation_freq`).
    length = max(len(values) for values in lists.values())
    for name, values in lists.items():
        every = length // len(values)
        if every > 1 and length // every == len(values):
            gaps = [[None] * (every - 1) + [value] for value in values]
            lists[name] = [value for gap in gaps for value in gap]
    for row in range(length):
        yield {"epoch": row, **{name: values[row] for name, values in lists.items() if row < len(values)}}


def _records(rows: list[dict[str, Any]], kind: str, notes: Sequence[str] = ()) -> Table:
    flat = [dict(_flat(row)) for row in rows]
    if any("eval_loss" in row for row in flat) and any("loss" in row for row in flat):
        kind, flat = "Hugging Face log", _without_summary(flat)
    return _table(kind, _by_stage(flat), notes)


def _without_summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # Without the closing summary and what follows it: that evaluates the best weights, put back, not the last.
    last = max(i for i, row in enumerate(rows) if "loss" in row)
    ends = [i for i, row in enumerate(rows) if "train_runtime" in row and i > last]
    return [row for row in rows[: ends[0] if ends else None] if "train_runtime" not in row]


def _flat(row: Mapping[str, Any], prefix: str = "", depth: int = 4) -> Iterator[tuple[str, object]]:
    for name, value in row.items():
        if isinstance(value, dict) and depth:
            yield from _flat(value, f"{prefix}{name}/", depth - 1)
        else:
            yield f"{prefix}{name}".strip(), value


def event_folders(root: Path) -> list[Path]:
    """Return the folders under `root`, itself among them, that hold event files."""
    return sorted({path.parent for path in root.rglob(f"*{EVENTS_MARK}*") if path.is_file()})


def _read_events(path: Path, folders: list[Path]) -> Table:
    # The folders belong to one run (Keras writes `train` and `validation`, `add_scalars` one for each curve); their
    # names go before the tags.
    rows: dict[int, dict[str, object]] = {}
    for folder in folders:
        prefix = "" if folder == path else f"{folder.relative_to(path).as_posix()}/"
        for tag, step, value in _scalars(folder):
            rows.setdefault(step, {})[prefix + tag] = value  # written again by a restart: the later wins
    table = _table("TensorBoard events", [{"step": step, **rows[step]} for step in sorted(rows)])
    if not set(table.columns) - {"step"}:
        raise LogError("TensorBoard scalars are needed; there are none in it.")
    return table


def _scalars(path: Path) -> list[tuple[str, int, float]]:
    # Half a second, and only events need it.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tb_logging

    tb_logging.get_logger().setLevel(logging.CRITICAL)  # a file cut short is said there, and read as far as it goes
    events: Any = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    try:
        events.Reload()
    except (OSError, ValueError, RuntimeError) as error:
        raise LogError(f"a TensorBoard event file is needed; {' '.join(str(error).split())}.") from error
    tags = events.Tags()
    found = [(tag, event.step, event.value) for tag in tags["scalars"] for event in events.Scalars(tag)]
    return found + [item for tag in tags["tensors"] for item in _tensors(events, tag)]


def _tensors(events: Any, tag: str) -> list[tuple[str, int, float]]:
    # what TensorFlow 2 writes as tensors without dimensions
    from tensorboard.util.tensor_util import make_ndarray

    found = []
    for event in events.Tensors(tag):
        if event.tensor_proto.string_val:
            return []
        array = make_ndarray(event.tensor_proto)
        if array.size == 1 and array.dtype.kind in "fiu":
            found.append((tag, event.step, float(array.reshape(()))))
    return found
