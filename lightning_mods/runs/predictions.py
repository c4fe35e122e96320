"""Predictions as a table on disk."""

import csv
import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from callbacks.host.files import replacing
from datamodules.readers.kinds import ARROW, LINES, TEXT, kind_by_suffix
from lightning_mods.runs import RunError

_NO_TABLE = "predict_step must return a tensor [rows] or [rows, columns] to be written as a table."
_GROUP_ROWS = 65_536  # of a row group or record batch: a file of many small ones is slow to read
Columns = Mapping[str, Any]
"""Columns by name: numbers as arrays of shape (rows,), labels as lists, cells that are kept as chunks of Arrow's."""
Write = Callable[[Columns], None]


@runtime_checkable
class Numbers(Protocol):
    """Matches a tensor and an array: what is written here may come from a runtime that has no torch."""

    ndim: int
    shape: Any
    dtype: Any

    def tolist(self) -> Any:
        """Return the numbers as Python's."""


# ------------------------------------------------------------------ what is written


def prediction_columns(values: NDArray[Any], class_names: Sequence[str] | None, margin: float | None = None) -> Columns:
    """Return predictions of a batch as columns: of numbers, shape (rows,), or of probabilities, (rows, classes).

    With a `margin` there are columns of numbers less and more that. There are no names for a regression or a foreign
    module.
    """
    if values.ndim == 1:
        if margin is None:
            return {"prediction": values}
        wide = values.astype(np.float64)
        return {"prediction": values, "prediction_low": wide - margin, "prediction_high": wide + margin}
    width = values.shape[1]
    if class_names is None or len(class_names) != width:
        return {f"prediction_{i}": values[:, i] for i in range(width)}
    likeliest = np.where(np.isfinite(values).all(axis=1), values.argmax(axis=1), width).tolist()
    names = [*class_names, None]  # no class where there are no probabilities
    columns = {f"probability_{name}": values[:, i] for i, name in enumerate(class_names)}
    return {"prediction": [names[i] for i in likeliest], **columns}


def as_array(outputs: Numbers) -> NDArray[Any]:
    """Return what `predict_step` returned as an array; a RunError says that it is no table."""
    if outputs.ndim not in (1, 2):
        raise RunError(_NO_TABLE)
    # of a tensor too that NumPy has no type for, or that is on another device
    is_short = "float" in str(outputs.dtype) and "64" not in str(outputs.dtype)
    found = np.array(outputs.tolist(), dtype=np.float32 if is_short else None)
    return found.reshape(tuple(outputs.shape))


class PredictionFile:
    """Writes predictions batch by batch, and counts them; see `writing_predictions`.

    Args:
        write: Takes the columns of each batch.
        model: What predicts, named where it predicts nothing.
        class_names: By number; None for a regression or a foreign module.
        margin: Of the intervals around numbers; None for none.
    """

    def __init__(
        self, write: Write, model: object, class_names: Sequence[str] | None = None, margin: float | None = None
    ) -> None:
        self.class_names = class_names
        self.margin = margin
        self.rows = 0
        self.lost = 0  # of these, rows without a number
        self._write, self._model = write, model
        self._names: list[str] | None = None

    def add(self, outputs: object, kept: Any = None) -> None:
        """Write a batch, behind the columns of an Arrow table that are `kept`; what is no tensor or array is left out.

        Raises:
            RunError: It is no table, not that of the other batches, or not one with what is kept.
        """
        if not isinstance(outputs, Numbers):
            if kept is not None:
                raise RunError(f"--keep needs a prediction for each row. {_NO_TABLE}")
            return
        values = as_array(outputs)
        columns, rows = prediction_columns(values, self.class_names, self.margin), len(values)
        if kept is not None:
            self._check_kept(kept, columns, rows)
            columns = {**{name: kept.column(name) for name in kept.column_names}, **columns}
        if self._names is None:
            self._names = [*columns]
        if [*columns] != self._names:
            raise RunError(f"predict_step must return as many columns for each batch as for the first. {_NO_TABLE}")
        self._write(columns)
        self.rows += rows
        is_number = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).any(axis=1)
        self.lost += int((~is_number).sum())

    def _check_kept(self, kept: Any, columns: Columns, rows: int) -> None:
        if kept.num_rows != rows:
            raise RunError(f"--keep needs a prediction for each row; predict_step gave {rows} for {kept.num_rows}.")
        if both := [name for name in kept.column_names if name in columns]:
            others = [name for name in kept.column_names if name not in columns]
            rest = f"--keep={','.join(others)}" if others and len(others) <= 20 else "leave it out of --keep"
            raise RunError(
                f"--keep has the column {both[0]!r}, which a column of the predictions is called too; {rest}."
            )

    def check(self) -> None:
        """Raise a RunError if there was no batch to write, or no row has a number: then something is wrong."""
        if self._names is None:
            raise RunError(_NO_TABLE)
        if self.lost == self.rows > 0:
            raise RunError(f"{self._model} predicts no number for any of {self.rows} rows: all are NaN or infinite.")


@contextmanager
def writing_predictions(output: Path, model: object) -> Iterator[PredictionFile]:
    """Give a file of predictions in the format of its suffix; on an error in the block the one that was there stays.

    A RunError says that no row has a number as its prediction: then something is wrong with `model`, which is named.
    """
    with replacing(output) as place, _format_of(output)(place) as write:
        file = PredictionFile(write, model)
        yield file
        file.check()


def said_of(file: PredictionFile, output: Path) -> str:
    """Return what is to be said of predictions that were written."""
    some = f"; {file.lost} of them are no numbers (NaN or infinite)" if file.lost else ""
    return f"{file.rows} predictions in {output}{some}"


def write_predictions(output: Path, batches: Iterable[object], class_names: Sequence[str] | None, model: object) -> str:
    """Write predictions and return what is to be said of them; see `writing_predictions`."""
    with writing_predictions(output, model) as file:
        file.class_names = class_names
        for batch in batches:
            file.add(batch)
    return said_of(file, output)


# ------------------------------------------------------------------ where it is written


def check_output(output: Path, inputs: Iterable[tuple[str, object]]) -> None:
    """Raise an error if `output` is a folder, or a file that is read; `inputs` are flags with their paths."""
    try:
        writable = b"\0" not in os.fsencode(output)
    except UnicodeEncodeError:  # half of a surrogate pair
        writable = False
    if not writable:
        raise RunError(f"--output needs a path that files can have; {str(output)!r} is none.")
    if output.is_dir():
        raise RunError(f"--output needs a file; {output} is a folder.")
    for flag, path in inputs:
        if path and _is_same(output, str(path)):
            raise RunError(f"--output={output} is the file that {flag}={path} is read from; give another --output.")


def _is_same(output: Path, path: str) -> bool:
    """Return whether two paths lead to one file, through links or by two names of it."""
    with suppress(OSError, ValueError, RuntimeError):  # no path, or one of a user who is not there: no file
        file = Path(path).expanduser()
        return output.is_file() and file.is_file() and output.samefile(file)
    return False


def check_format(output: Path) -> None:
    """Raise a RunError if the suffix of `output` is that of a kind of table which is read, but not written."""
    kind = kind_by_suffix(output)
    packed = output.suffix.lower() == ".gz" and kind_by_suffix(output.with_suffix(""))
    if (kind or packed or TEXT) not in (TEXT, LINES, *_TYPED) or (kind is None and packed):
        needed = "--output is written as .csv, .tsv, .jsonl (these also .gz), .parquet, .arrow or .feather"
        raise RunError(f"{needed}; {output.name} would be another kind.")


_TYPED = ("Parquet", "Feather", ARROW)


def _format_of(output: Path) -> Callable[[Path], AbstractContextManager[Write]]:
    # What writes a table in the format of this suffix; CSV where it says nothing.
    kind, is_packed = kind_by_suffix(output), output.suffix.lower() == ".gz"
    if kind in _TYPED:
        return partial(_typed, is_parquet=kind == "Parquet")
    if kind == LINES:
        return partial(_json_lines, is_packed=is_packed)
    is_tabbed = output.name.lower().removesuffix(".gz").endswith((".tsv", ".tab"))
    return partial(_delimited, delimiter="\t" if is_tabbed else ",", is_packed=is_packed)


@contextmanager
def _text(path: Path, *, is_packed: bool) -> Iterator[TextIO]:
    if not is_packed:
        with path.open("w", newline="", encoding="utf-8") as file:
            yield file
        return
    # neither a time nor a name: the same table, the same bytes
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        TextIOWrapper(packed, encoding="utf-8", newline="") as file,
    ):
        yield file


@contextmanager
def _delimited(path: Path, *, delimiter: str, is_packed: bool) -> Iterator[Write]:
    with _text(path, is_packed=is_packed) as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        header: list[str] = []

        def write(columns: Columns) -> None:
            if not header:
                header.extend(columns)
                writer.writerow(header)
            writer.writerows(zip(*map(_texts, columns.values()), strict=True))

        yield write


@contextmanager
def _json_lines(path: Path, *, is_packed: bool) -> Iterator[Write]:
    with _text(path, is_packed=is_packed) as file:

        def write(columns: Columns) -> None:
            for row in zip(*map(_json_values, columns.values()), strict=True):
                file.write(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, allow_nan=False))
                file.write("\n")

        yield write


@contextmanager
def _typed(path: Path, *, is_parquet: bool) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[Any] = []
    with path.open("wb") as file:
        writer, schema = None, None

        def flush() -> None:
            nonlocal writer, schema
            whole = pa.concat_tables(waiting)
            whole = whole.cast(schema) if schema is not None else whole
            waiting.clear()
            if writer is None:
                schema = whole.schema
                writer = (pq.ParquetWriter if is_parquet else pa.ipc.new_file)(file, schema)
            writer.write_table(whole.combine_chunks(), whole.num_rows or 1)

        def write(columns: Columns) -> None:
            table = pa.table({name: _arrow(values) for name, values in columns.items()})
            waiting.append(table)
            if sum(each.num_rows for each in waiting) >= _GROUP_ROWS:
                flush()

        try:
            yield write
            if waiting:
                flush()
            if writer is not None:
                writer.close()
        except BaseException:
            if isinstance(writer, pq.ParquetWriter):  # which else writes its last bytes when it is forgotten
                writer.is_open = False
            raise


def _arrow(values: Any) -> Any:
    import pyarrow as pa

    if isinstance(values, list):
        return pa.array(values, pa.string())
    if isinstance(values, np.ndarray):
        return pa.array(values)
    # the list of a dictionary may differ from chunk to chunk, which an Arrow file cannot have
    is_coded = pa.types.is_dictionary(values.type)
    return pa.chunked_array([each.dictionary_decode() for each in values.chunks]) if is_coded else values


def _texts(values: Any) -> list[str]:
    # A column as a CSV has it; predicted numbers with nine digits, which tell every float32 from its neighbours.
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(values, list):
        return [value or "" for value in values]
    if isinstance(values, np.ndarray):
        return [f"{value:.9g}" for value in values.tolist()]
    values = _arrow(values)
    try:
        texts = values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # lists and structures; bytes that are no text
        return ["" if value is None else str(value) for value in values.to_pylist()]
    if pa.types.is_timestamp(values.type):
        texts = pc.replace_substring_regex(texts, r"\.0+(Z?)$", r"\1")
    return list(texts.fill_null("").to_pylist())


def _json_values(values: Any) -> list[Any]:
    if isinstance(values, list):
        return values
    if not isinstance(values, np.ndarray):
        found = _arrow(values).to_pylist()
        plain = all(value is None or isinstance(value, str | bool | int) for value in found)
        if plain:
            return list(found)
        if not all(value is None or isinstance(value, float) for value in found):
            return [text if value is not None else None for text, value in zip(_texts(values), found, strict=True)]
        values = np.array([np.nan if value is None else value for value in found], values.type.to_pandas_dtype())
    is_short = values.dtype == np.float32
    found = [float(f"{value:.9g}") if is_short else value for value in values.tolist()]
    return [value if ok else None for value, ok in zip(found, np.isfinite(values).tolist(), strict=True)]


def write_columns(path: Path, columns: Columns) -> None:
    """Write a table in the format of the path's suffix; on an error the file that was there stays."""
    with replacing(path) as place, _format_of(path)(place) as write:
        write(columns)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV of texts; on an error the file that was there stays."""
    with replacing(path) as place, _text(place, is_packed=False) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
