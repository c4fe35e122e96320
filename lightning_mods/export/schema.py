"""The schema beside an exported model: what goes in and what comes out, as JSON that needs no torch to be read."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.encoding import CategoryColumn, Column, Encoding, NumericColumn
from datamodules.readers.delimited import MISSING
from lightning_mods.runs import RunError

MADE_BY = "lightning_mods.export"
VERSION = 1


def schema_path(file: Path) -> Path:
    """Return where the schema of an exported file is: `model.onnx.json` beside `model.onnx`."""
    return file.with_name(f"{file.name}.json")


def schema_of(
    encoding: Encoding, *, target: str, class_names: Sequence[str] | None, file_format: str, max_batch: int | None
) -> dict[str, Any]:
    """Return the description of a model with its preprocessing, all but the file it is in.

    `class_names` are None for a regression, `max_batch` (most rows in a call) for no limit.
    """
    numbers = [_number(column) for column in encoding.columns if isinstance(column, NumericColumn)]
    categories = [_category(column) for column in encoding.columns if isinstance(column, CategoryColumn)]
    inputs = [
        {"name": name, "dtype": dtype, "shape": ["batch", len(columns)], "columns": columns}
        for name, dtype, columns in (("numbers", "float64", numbers), ("categories", "int64", categories))
        if columns
    ]
    return {
        "made_by": MADE_BY,
        "version": VERSION,
        "format": file_format,
        "task": "regression" if class_names is None else "classification",
        "target": target,
        "inputs": inputs,
        "outputs": [_output(target, class_names)],
        "max_batch": max_batch,
        "missing_text": list(MISSING),
    }


def _number(column: NumericColumn) -> dict[str, Any]:
    plain = {"name": column.name, "type": "number", "missing": "NaN"}
    return {**plain, "text_counts_as_missing": column.junk, "mean": column.mean, "scale": column.scale}


def _category(column: CategoryColumn) -> dict[str, Any]:
    codes = {name: code for code, name in enumerate(column.categories)}
    plain = {"name": column.name, "type": "category", "codes": codes}
    return {**plain, "unknown": column.unknown_code, "missing": column.missing_code}


def _output(target: str, class_names: Sequence[str] | None) -> dict[str, Any]:
    if class_names is None:
        return {"name": "prediction", "dtype": "float32", "shape": ["batch"], "unit": f"that of the column {target!r}"}
    shape = ["batch", len(class_names)]
    plain = {"name": "probabilities", "dtype": "float32", "shape": shape}
    return {**plain, "classes": list(class_names), "unit": "probability"}


def write_schema(schema: Mapping[str, Any], file: Path, path: Path) -> None:
    """Write the schema of `file`, by which it is known again, to `path`."""
    text = json.dumps({**schema, "sha256": digest(file)}, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_schema(file: Path) -> dict[str, Any]:
    """Return the schema of an exported file; raise a RunError if it is not there, has none, or another file's."""
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "is not there"
        raise RunError(f"--exported needs a file that `lightning_mods.export` wrote; {file} {what}.")
    path = schema_path(file)
    if not path.is_file():
        lost = f"{file} is none of ours, or has lost its schema: {path.name} is needed beside it"
        raise RunError(f"{lost}, as `lightning_mods.export` writes it for a model of a table.")
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
        ours = schema["made_by"] == MADE_BY and schema["version"] == VERSION
        encoding_in(schema), schema["outputs"][0]["name"], schema["format"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise RunError(f"{path} is no schema of `lightning_mods.export`; export the model anew.") from error
    if not ours:
        raise RunError(f"{path} is no schema of this version of `lightning_mods.export`; export the model anew.")
    if schema.get("sha256") != digest(file):
        raise RunError(f"{file} is not the file that {path.name} describes: its contents differ; export it anew.")
    return dict(schema)


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def encoding_in(schema: Mapping[str, Any]) -> Encoding:
    """Return the encoding that reads a table's cells for the model: it knows names, codes and what is missing."""
    return Encoding(tuple(_column(plain) for each in schema["inputs"] for plain in each["columns"]))


def _column(plain: Mapping[str, Any]) -> Column:
    if plain["type"] == "number":
        junk = bool(plain["text_counts_as_missing"])
        return NumericColumn(str(plain["name"]), float(plain["mean"]), float(plain["scale"]), junk=junk)
    codes = plain["codes"]
    return CategoryColumn(str(plain["name"]), tuple(sorted(codes, key=codes.__getitem__)))
