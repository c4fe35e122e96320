"""The schema beside an exported model: what goes in and what comes out, as JSON that needs no torch to be read."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.columns.calendar import DateColumn
from datamodules.columns.dates import STYLES
from datamodules.columns.encoding import CategoryColumn, Column, Encoding, NumericColumn
from datamodules.readers.layout import MISSING
from lightning_mods.cli.flags import FORMATS
from lightning_mods.runs import RunError

MADE_BY = "lightning_mods.export"
VERSION = 1
_SECONDS = "seconds since 1970-01-01 UTC"
_LARGEST = 64_000_000  # bytes; a million names of categories are less


def schema_path(file: Path) -> Path:
    """Return where the schema of an exported file is: `model.onnx.json` beside `model.onnx`."""
    return Path(f"{file}.json")


def columns_once(encoding: Encoding) -> Encoding:
    """Return how the cells of a table are read for a model: each column once, its categories those of all encodings.

    That of an ensemble of folds has several encodings of a column. A RunError says that they read it in several ways.
    """
    found: dict[str, Column] = {}
    for column in encoding.columns:
        known = found.setdefault(column.name, column)
        if _reading(known) != _reading(column):
            how = "which one file cannot; export the checkpoint of a fold, such as fold_1/checkpoints/best.ckpt"
            raise RunError(f"the folds of this checkpoint read the column {column.name!r} in several ways, {how}.")
        if isinstance(known, CategoryColumn) and isinstance(column, CategoryColumn):
            every = (*known.categories, *(each for each in column.categories if each not in known.categories))
            found[column.name] = replace(known, categories=every)
        elif not isinstance(known, CategoryColumn) and not isinstance(column, CategoryColumn):
            found[column.name] = replace(known, junk=known.junk or column.junk)
    return replace(encoding, columns=tuple(found.values()))


def _reading(column: Column) -> tuple[Any, ...]:
    return column.kind, getattr(column, "written", ()), getattr(column, "style", None)


def schema_of(
    encoding: Encoding, *, target: str, class_names: Sequence[str] | None, file_format: str, max_batch: int | None
) -> dict[str, Any]:
    """Return the description of a model with its preprocessing, all but the file it is in.

    `class_names` are None for a regression, `max_batch` (most rows in a call) for no limit.
    """
    numbers = [_number(column) for column in encoding.columns if not isinstance(column, CategoryColumn)]
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


def _number(column: NumericColumn | DateColumn) -> dict[str, Any]:
    if isinstance(column, DateColumn):
        plain = {"name": column.name, "type": "date", "missing": "NaN", "text_counts_as_missing": column.junk}
        return {**plain, "unit": _SECONDS, "style": column.style, "mean": column.mean, "scale": column.scale}
    plain = {"name": column.name, "type": "number", "missing": "NaN"}
    numbers = {"text_counts_as_missing": column.junk, "mean": column.mean, "scale": column.scale}
    return {**plain, **numbers, **({"written": list(column.written)} if column.written else {})}


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
    content = {**schema, "sha256": digest(file)}
    text = json.dumps({**content, "checksum": _checksum(content)}, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_schema(file: Path) -> dict[str, Any]:
    """Return the schema of an exported file; raise a RunError if it is not there, has none, or another file's."""
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "is not there" if not file.exists() else "is no ordinary file"
        raise RunError(f"--exported needs a file that `lightning_mods.export` wrote; {file} {what}.")
    path = schema_path(file)
    if not path.is_file():
        lost = f"{file} is none of ours, or has lost its schema: {path.name} is needed beside it"
        raise RunError(f"{lost}, as `lightning_mods.export` writes it for a model of a table.")
    if path.stat().st_size > _LARGEST:
        raise RunError(f"{path} is larger than a schema of `lightning_mods.export` can be; export the model anew.")
    try:
        schema = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        json.dumps(schema, ensure_ascii=False).encode()  # which half of a surrogate pair is not
    except (ValueError, RecursionError) as error:  # also of bytes that are no text
        raise RunError(f"{path} is no schema of `lightning_mods.export`: it is no JSON; export it anew.") from error
    try:
        _check_schema(schema)
    except (ValueError, RecursionError, OverflowError) as error:  # lists in lists without end; integers of 400 digits
        raise RunError(f"{path} is no schema of `lightning_mods.export`: {error}; export the model anew.") from error
    if schema["sha256"] != digest(file):
        raise RunError(f"{file} is not the file that {path.name} describes: its contents differ; export it anew.")
    return dict(schema)


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checksum(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a schema says, however its JSON is laid out."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def encoding_in(schema: Mapping[str, Any]) -> Encoding:
    """Return the encoding that reads a table's cells for the model: it knows names, codes and what is missing."""
    return Encoding(tuple(_column(plain) for each in schema["inputs"] for plain in each["columns"]))


def _column(plain: Mapping[str, Any]) -> Column:
    if plain["type"] == "number":
        junk, written = plain["text_counts_as_missing"], tuple(plain.get("written", ()))
        return NumericColumn(plain["name"], plain["mean"], plain["scale"], junk=junk, written=written)
    if plain["type"] == "date":
        return DateColumn(
            plain["name"], plain["style"], plain["mean"], plain["scale"], junk=plain["text_counts_as_missing"]
        )
    codes = plain["codes"]
    return CategoryColumn(plain["name"], tuple(sorted(codes, key=codes.__getitem__)))


# ------------------------------------------------------------------ what a schema may say

_NUMBER = {"name": str, "type": ("number",), "missing": ("NaN",), "text_counts_as_missing": bool}
_NUMBER |= {"mean": float, "scale": float, "written": list}
_DATE = {**_NUMBER, "type": ("date",), "unit": (_SECONDS,), "style": STYLES}
_CATEGORY = {"name": str, "type": ("category",), "codes": dict, "unknown": int, "missing": int}
_INPUTS = {
    "numbers": {"name": ("numbers",), "dtype": ("float64",), "shape": list, "columns": list},
    "categories": {"name": ("categories",), "dtype": ("int64",), "shape": list, "columns": list},
}
_OUTPUTS = {
    "prediction": {"name": ("prediction",), "dtype": ("float32",), "shape": list, "unit": str},
    "probabilities": {"name": ("probabilities",), "dtype": ("float32",), "shape": list, "classes": list, "unit": str},
}
_SCHEMA = {
    **{"made_by": (MADE_BY,), "version": (VERSION,), "format": tuple(FORMATS), "task": str, "target": str},
    **{"inputs": list, "outputs": list, "max_batch": (int, type(None)), "missing_text": list, "example": dict},
    **{"sha256": str, "checksum": str},
}
_LATER = ("checksum",)  # what older schemas have not


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _check_schema(schema: Any) -> None:
    """Raise a ValueError, which says what was found and where, for all that `schema_of` would not have written."""
    if not isinstance(schema, dict) or schema.get("made_by") != MADE_BY:
        raise ValueError("it is not marked as one")
    if schema.get("version") != VERSION:
        raise ValueError("it is of another version")
    _check_fields(schema, _SCHEMA, "it", _LATER)
    content = {key: value for key, value in schema.items() if key != "checksum"}
    if "checksum" in schema and schema["checksum"] != _checksum(content):
        raise ValueError("it is damaged, as its checksum says")
    if schema["max_batch"] is not None and schema["max_batch"] < 1:
        raise ValueError(f"`max_batch` is {schema['max_batch']}")
    if not all(isinstance(text, str) for text in schema["missing_text"]):
        raise ValueError("`missing_text` is no list of texts")
    names = _check_inputs(schema["inputs"])
    if len({*names}) < len(names):
        raise ValueError("two of its columns have one name")
    if len(schema["outputs"]) != 1:
        raise ValueError(f"it has {len(schema['outputs'])} outputs")
    _check_output(schema["outputs"][0])


def _check_inputs(inputs: Sequence[Any]) -> list[str]:
    kinds = [each.get("name") if isinstance(each, dict) else None for each in inputs]
    if kinds not in (["numbers"], ["categories"], ["numbers", "categories"]):
        raise ValueError(f"its inputs are {_shown(kinds)}")
    for kind, each in zip(kinds, inputs, strict=True):
        _check_fields(each, _INPUTS[str(kind)], f"the input `{kind}`")
        if each["shape"] != ["batch", len(each["columns"])] or not each["columns"]:
            raise ValueError(
                f"the input `{kind}` has {len(each['columns'])} columns and the shape {_shown(each['shape'])}"
            )
        for column in each["columns"]:
            is_date = kind == "numbers" and isinstance(column, dict) and column.get("type") == "date"
            form = _DATE if is_date else _NUMBER if kind == "numbers" else _CATEGORY
            _check_fields(column, form, f"a column of `{kind}`", ("written",))
            if kind == "categories":
                _check_codes(column)
    return [column["name"] for each in inputs for column in each["columns"]]


def _check_codes(column: Mapping[str, Any]) -> None:
    codes, count = list(column["codes"].values()), len(column["codes"])
    right = all(type(code) is int for code in codes) and sorted(codes) == list(range(count))
    if not right or (column["unknown"], column["missing"]) != (count, count + 1):
        raise ValueError(f"the codes of the column {_shown(column['name'])} do not count from 0")


def _check_output(output: Any) -> None:
    kind = output.get("name") if isinstance(output, dict) else None
    if kind not in _OUTPUTS:
        raise ValueError(f"its output is {_shown(kind)}")
    _check_fields(output, _OUTPUTS[str(kind)], f"the output `{kind}`")
    classes = output.get("classes")
    shape = ["batch"] if classes is None else ["batch", len(classes)]
    if output["shape"] != shape:
        raise ValueError(f"the output `{kind}` has the shape {_shown(output['shape'])}, not {shape}")
    named = classes is None or all(isinstance(name, str) for name in classes)
    if not named or (classes is not None and not 0 < len(classes) == len({*classes})):
        raise ValueError("its classes are no names, each of its own")


def _check_fields(plain: Any, form: Mapping[str, Any], where: str, later: Sequence[str] = ()) -> None:
    """Compare a dict with the types, or the values that are possible, of its fields."""
    if not isinstance(plain, dict):
        raise ValueError(f"{where} is {_shown(plain)}, not fields with values")  # what a file says
    lacking = [name for name in form if name not in plain and name not in later]
    if lacking or len(plain) > len(form) or not plain.keys() <= form.keys():
        odd = f"lacks `{lacking[0]}`" if lacking else f"has {_shown(next(n for n in plain if n not in form))}"
        raise ValueError(f"{where} {odd}")
    for name, value in plain.items():
        wanted = form[name]
        if isinstance(wanted, tuple) and not any(isinstance(each, type) for each in wanted):
            fits = any(type(value) is type(each) and value == each for each in wanted)
        else:
            kinds = wanted if isinstance(wanted, tuple) else (wanted,)
            fits = type(value) in kinds or (float in kinds and type(value) is int)
        if not fits or (wanted is float and not math.isfinite(value)):
            raise ValueError(f"`{name}` of {where} is {_shown(value)}".replace(" of it ", " "))


def _shown(value: Any) -> str:
    return repr(value)[:60]
