"""Log files of any format as a table of numbers: CSV and its kin, JSON, JSON a line, TensorBoard events."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import StringIO
from itertools import zip_longest
from math import inf
from pathlib import Path
from typing import Any

from callbacks.diagnosis.names import STAGES, plain
from callbacks.host.inputs import read_bounded
from lightning_mods.loggers.event_records import event_records

EVENTS_MARK = "tfevents"  # in the name of every event file

_STAGE_COLUMNS = {"mode", "phase", "split", "stage", "subset", "set", "dataset"}
_BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # what a Windows shell's `>` writes
_LARGEST_CELL = 10_000_000  # characters; the csv module's own 131 072 is less than a logged histogram
_LONGEST_NUMBER = 400  # characters; what is longer is none
_LARGEST_NUMBER = 10**308
_MOST = 64_000_000  # bytes of a log that are read
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
    if type(value) is str:
        if not value:
            return None
        try:  # most cells are numbers, and to look any further takes ten times as long
            return float(value[:_LONGEST_NUMBER])
        except ValueError:
            pass
    if isinstance(value, str) and value.strip().lower() in _MISSING:
        return None
    if not isinstance(value, str | int | float):
        return type(value).__name__
    if isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
        return inf if value > 0 else -inf
    text = str(value).strip()
    if len(text) > _LONGEST_NUMBER:
        return text[:_LONGEST_NUMBER]
    tensor = _TENSOR.fullmatch(text)
    if tensor:
        text = tensor[1]
    elif _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:
        return text


def _table_of_lists(kind: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    # out of rows with a cell for each column, some at the end left out
    made: dict[str, list[Cell]] = {}
    words: dict[str, str] = {}
    for at, name in enumerate(names):
        found = [number(row[at]) if at < len(row) else None for row in rows]
        said = next((cell for cell in found if isinstance(cell, str)), None)
        if said is not None:
            words[name] = said
        made[name] = [None if isinstance(cell, str) else cell for cell in found]
    return Table(kind, made, words)


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
    """Read a log as a table: a text file, an event file, or a folder with event files of one run.

    Whatever its content makes a reader raise is a LogError.
    """
    try:
        if path.is_dir():
            return _read_events(path, event_folders(path))
        return _read_events(path, [path]) if EVENTS_MARK in path.name else _read_text(path)
    except (LogError, OSError):
        raise
    except (Exception, RecursionError) as error:
        why = " ".join(str(error).split())[:200] or "no reason is given"
        raise LogError(f"a log is needed; this cannot be read as one ({type(error).__name__}: {why}).") from error


def _read_text(path: Path) -> Table:
    # by what it holds, whatever it is called
    found, is_all = read_bounded(path, _MOST)
    if not is_all:  # up to its last whole line
        found = found[: found.rfind(b"\n") + 1] or found
    content = _decode(found)
    if not content.strip():
        raise LogError("a log with a header and rows is needed; the file is empty.")
    table = _json(content) if content.lstrip()[0] in "{[" else _delimited(content)
    if not table.length:
        raise LogError("rows are needed; the file has none.")
    if is_all:
        return table
    size = path.stat().st_size
    of = f" of {size // 1_000_000}" if size > _MOST else ""
    return replace(table, notes=(*table.notes, f"only the first {_MOST // 1_000_000}{of} MB were read"))


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
    filled = [row[: len(names)] for row in body if row[:1] != header[:1] or list(map(str.strip, row)) != again]
    if not any(plain(name) in _STAGE_COLUMNS for name in names):
        return _table_of_lists(_kind_of(names), names, filled)
    return _table(_kind_of(names), _by_stage(dict(zip_longest(names, row, fillvalue="")) for row in filled))


def _split(content: str) -> Iterator[list[str]]:
    first = content.partition("\n")[0]
    counts = {mark: first.count(mark) for mark in ",\t;|"}
    mark = max(counts, key=lambda each: counts[each])
    if counts[mark]:
        return csv.reader(StringIO(content, newline=""), delimiter=mark, skipinitialspace=mark != "\t")
    return (line.split() for line in content.splitlines())


def _by_stage(rows: Iterable[Mapping[str, object]]) -> Iterator[Mapping[str, object]]:
    # Rows of `phase=train, loss=1` and `phase=val, loss=2` get the stage before the names: `train/loss`.
    known: dict[str, bool] = {}
    for row in rows:
        for name in row.keys() - known.keys():
            known[name] = plain(name) in _STAGE_COLUMNS
        stages = [value for name, value in row.items() if known[name] and isinstance(value, str)]
        stage = stages[0].strip().lower() if stages else ""
        if stage in STAGES:
            row = {n if is_epoch(n) or is_step(n) else f"{stage}/{n}": value for n, value in row.items()}
        yield row


def _unique(names: list[str]) -> list[str]:
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        unique.append(f"{name}.{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return unique


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


_START = 1  # status of a SessionLog, tensorboard/compat/proto/event.proto: what follows replaces the steps from here


def _scalars(path: Path) -> list[tuple[str, int, float]]:
    from tensorboard.compat.proto.event_pb2 import Event  # a third of a second, and only events need it

    files = [path] if path.is_file() else sorted(each for each in path.glob(f"*{EVENTS_MARK}*") if each.is_file())
    found: list[tuple[str, int, float]] = []
    for file in files:
        content, _ = read_bounded(file, _MOST)
        for _, record in event_records(content):
            try:
                event = Event.FromString(record)
            except ValueError:  # DecodeError is one: as far as it goes, like a file that is cut short
                break
            if event.session_log.status == _START:
                found = [item for item in found if item[1] < event.step]
            for value in event.summary.value:
                number = value.simple_value if value.HasField("simple_value") else _number_in(value)
                if number is not None:
                    found.append((value.tag, event.step, number))
    return found


def _number_in(value: Any) -> float | None:
    # what TensorFlow 2 writes as tensors without dimensions
    tensor = value.tensor
    if not value.HasField("tensor") or tensor.string_val or any(dim.size != 1 for dim in tensor.tensor_shape.dim):
        return None
    from tensorboard.util.tensor_util import make_ndarray

    array = make_ndarray(tensor)
    return float(array.reshape(())) if array.size == 1 and array.dtype.kind in "fiu" else None
