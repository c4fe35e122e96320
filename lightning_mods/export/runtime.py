"""Exported models opened and run, and `predict --exported` with one: an ONNX file needs no torch for it."""

import io
import json
import logging
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.encoding import Encoding, InfinityCount, raw_rows
from datamodules.errors import DataError
from datamodules.readers import open_table
from datamodules.readers.table import Table
from lightning_mods.cli.command_line import CommandLine, UsageError, error_line
from lightning_mods.cli.flags import FORMATS
from lightning_mods.cli.predictions import prediction_rows, write_csv
from lightning_mods.export.schema import encoding_in, read_schema
from lightning_mods.runs import RunError

Arrays = Sequence[NDArray[Any]]
Run = Callable[[Arrays], list[NDArray[Any]]]
# Packages beyond our own dependencies, by format: to write a file (which is then run), and to run it.
_TO_WRITE = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "executorch": ("executorch",)}
_TO_RUN = {"onnx": ("onnxruntime",), "executorch": ("executorch",)}
# The parts of an archive that torch.export.save writes for plain tensors; data/aotinductor/ would be compiled code.
_PARTS = ("models/", "data/weights/", "data/constants/", "data/sample_inputs/", "archive_", "byteorder", ".data/")
# Sizes such as `Symbol('s21', positive=True)` and `Max(1, u0)`: torch hands them to sympy, which evaluates them as
# Python. Without dots, words in quotes and names of functions in small letters there is nothing to be run.
_SIZE = re.compile(r"(\d+|'[su]\d+'|[su]\d+|[A-Z]\w*|[a-z]+=(?=True|False)|[\s+\-*/(),<>=])*")
_ROWS = 8192  # rows in a call: enough to be quick, few enough to be small in memory
# Flags of `predict` that an exported model has no use for, but that do no harm.
_UNUSED = ("trainer", "model", "seed_everything", "watch", "steps_per_execution")


def predict_exported(line: CommandLine) -> None:
    """Predict the rows of a file with an exported model, as the flags say."""
    try:
        _check_flags(line)
        _predict(line)
    except (UsageError, RunError, DataError, OSError) as error:
        sys.stderr.write(f"predict: {error_line(error)}\n")
        raise SystemExit(2) from None


def _check_flags(line: CommandLine) -> None:
    """Refuse what is misspelt, and what names another model; note what is of no use."""
    if "ckpt_path" in line.typed:
        raise UsageError("--exported and --ckpt_path name two models; leave one of them out.")
    unused = [name for name in line.typed if name.partition(".")[0] in _UNUSED]
    if unused:
        sys.stderr.write(f"note: --{unused[0]} is not used with --exported.\n")
    line.refuse_unknown(["exported", "output", "data.predict_path", "config", *unused])


def _predict(line: CommandLine) -> None:
    path = line.said("data.predict_path")
    if not path:
        raise DataError("--data.predict_path is needed: a file with the rows to predict.")
    file, output = Path(str(line.said("exported"))).expanduser(), Path(line.said("output") or "predictions.csv")
    schema = read_schema(file)
    encoding = encoding_in(schema)
    table = open_table(str(path))
    encoding.check_columns(table.names, table.label)
    if schema["format"] == "aoti":
        sys.stderr.write(f"note: {file} is compiled code, which runs with your rights: use what you trust.\n")
    run = open_exported(schema["format"], file)
    classes = schema["outputs"][0].get("classes")  # by number; None for a regression
    header, rows = prediction_rows(_predictions(run, encoding, table, schema), classes and list(map(str, classes)))
    count = write_csv(output, header, rows)
    sys.stderr.write(f"{count} predictions in {output}\n")


def _predictions(run: Run, encoding: Encoding, table: Table, schema: Mapping[str, Any]) -> Iterator[NDArray[Any]]:
    step = schema["max_batch"] or _ROWS
    infinities, start = InfinityCount(), 0
    for chunk in table.chunks(encoding.inputs):
        rows = raw_rows(encoding, chunk, start, infinities)
        infinities.check(table.label)
        for low in range(0, len(rows), step):
            yield run(rows[low : low + step].arrays)[0]
        start += chunk.num_rows
    if not start:
        raise DataError(f"{table.label!r} has a header but no rows.")


def require(file_format: str, *, writing: bool) -> None:
    """Raise a UsageError if an optional package is missing to write a format, or only to run it."""
    needed = (_TO_WRITE if writing else _TO_RUN).get(file_format, ())
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        what = f"{' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
        raise UsageError(f"{file_format} needs {what}: pip install 'lightning-mods[{file_format}]'")


@contextmanager
def unspoken() -> Iterator[None]:
    """Spare a person what exporters and runtimes say about themselves: packages they would like, half a graph."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(before)


def open_exported(file_format: str, file: Path, keywords: Sequence[str] = ()) -> Run:
    """Open an exported file and return the function that runs it; a RunError says that it is damaged.

    With `keywords` the inputs of a model in torch go by these names, else by position.
    """
    if file_format not in FORMATS:
        raise UsageError(f"A file of the format {file_format!r} cannot be run here; {', '.join(FORMATS)} can.")
    require(file_format, writing=False)
    try:
        with unspoken():
            without = {"onnx": _onnx, "executorch": _executorch}.get(file_format)
            run = without(file) if without else _with_torch(file_format, file, keywords)
    except RunError:
        raise
    except Exception as error:  # every runtime has exceptions of its own
        raise RunError(f"{file} cannot be opened as {file_format}: {' '.join(str(error).split())[:200]}") from error

    def told(arrays: Arrays) -> list[NDArray[Any]]:
        try:
            return run(arrays)
        except Exception as error:  # every runtime has exceptions of its own
            raise RunError(f"{file} cannot be run on these rows: {' '.join(str(error).split())[:200]}") from error

    return told


def _onnx(file: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda arrays: list(map(np.asarray, session.run(None, dict(zip(names, arrays, strict=True)))))


def _executorch(file: Path) -> Run:
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(file).load_method("forward")
    return lambda arrays: [
        out.numpy().copy() for out in method.execute([torch.from_numpy(np.ascontiguousarray(a)) for a in arrays])
    ]


def _with_torch(file_format: str, file: Path, keywords: Sequence[str]) -> Run:
    import torch

    model: Callable[..., Any]
    if file_format == "torchscript":
        model = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]
    elif file_format == "pt2":
        refuse_code(file)
        model = torch.export.load(file).module()
    else:
        from torch._inductor import aoti_load_package  # its documented place, underscore or not

        model = aoti_load_package(file)

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        named = dict(zip(keywords, tensors, strict=True)) if keywords else {}
        with torch.no_grad():
            return flat_arrays(model(**named) if named else model(*tensors))

    return run


def tensors_in(value: Any) -> list[Any]:
    """Return all tensors of a model's inputs or outputs, however they are nested, in order."""
    if isinstance(value, Mapping | list | tuple):
        return [each for part in (value.values() if isinstance(value, Mapping) else value) for each in tensors_in(part)]
    return [value] if hasattr(value, "detach") else []


def flat_arrays(value: Any) -> list[NDArray[Any]]:
    """Return all tensors of a model's outputs, however they are nested, as arrays."""
    return [tensor.detach().cpu().numpy() for tensor in tensors_in(value)]


def refuse_code(file: Path) -> None:
    """Raise a RunError if a `.pt2` archive holds pickles, compiled code or sizes that are programs.

    `torch.export.load` (2.13) unpickles weights and constants that say `use_pickle`, sample inputs that do not load
    weights-only, and the older layout; it opens compiled code, and evaluates the expressions of sizes.
    `torch.export.save` writes none of these for plain tensors.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            found = next(_code_in(archive), None)
    except (zipfile.BadZipFile, ValueError, KeyError, RuntimeError, UnpicklingError) as error:
        raise RunError(f"{file} is no whole .pt2 archive of torch.export, or holds pickles; export it anew.") from error
    if found is not None:
        raise RunError(f"{file} holds {found}, which a model of plain tensors has not; export it anew.")


def _code_in(archive: zipfile.ZipFile) -> Iterator[str]:
    import torch

    for name in archive.namelist():
        inner = name.partition("/")[2]
        if not inner.startswith(_PARTS):
            yield inner or name
        if inner.startswith("data/sample_inputs/"):
            torch.load(io.BytesIO(archive.read(name)), weights_only=True)
        elif inner.endswith(".json"):
            for key, value in _entries(json.loads(archive.read(name))):
                if key == "use_pickle" and value is not False:
                    yield f"pickles ({inner})"
                if key == "expr_str" and not _SIZE.fullmatch(str(value)):
                    yield f"a size {str(value)[:40]!r}"


def _entries(plain: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield key, value
            yield from _entries(value)
    elif isinstance(plain, list):
        for value in plain:
            yield from _entries(value)
