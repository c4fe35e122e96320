"""Exported models opened and run, and `predict --exported` with one: an ONNX file needs no torch for it."""

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.encoding import Encoding, InfinityCount, raw_rows
from datamodules.errors import DataError
from datamodules.readers import open_table
from datamodules.readers.table import Table
from lightning_mods.cli.command_line import CommandLine, UsageError, error_line
from lightning_mods.cli.flags import FORMATS
from lightning_mods.export.onnx_model import checked_model
from lightning_mods.export.schema import encoding_in, read_schema, schema_path
from lightning_mods.runs import RunError
from lightning_mods.runs.predictions import check_format, check_output, write_predictions

Arrays = Sequence[NDArray[Any]]
Run = Callable[[Arrays], list[NDArray[Any]]]
# Packages beyond our own dependencies, by format: to write a file (which is then run), and to run it.
_TO_WRITE = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "executorch": ("executorch",)}
_TO_RUN = {"onnx": ("onnxruntime",), "executorch": ("executorch",)}
# What else can be in a file of a format than numbers and known operations; `predict` runs these when it is told to.
_PROGRAMS = {
    "torchscript": "a program in a language of its own, which may write files",
    "aoti": "compiled code, which runs with your rights",
    "executorch": "a program whose runtime does not check all of it",
}
_ROWS = 8192  # rows in a call: enough to be quick, few enough to be small in memory
_MOST_ELEMENTS = 2**26  # of a tensor that a call of a `.pt2` program makes; more, and the call takes fewer rows
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
    for name in ("keep", "allow_missing", "interval"):
        if name in line.typed:
            raise UsageError(f"--{name} is for a checkpoint; leave it out with --exported.")
    unused = [name for name in line.typed if name.partition(".")[0] in _UNUSED]
    if unused:
        sys.stderr.write(f"note: --{unused[0]} is not used with --exported.\n")
    line.refuse_unknown(["exported", "output", "data.predict_path", "config", "trust", *unused])


def _predict(line: CommandLine) -> None:
    path = line.said("data.predict_path")
    if not path:
        raise DataError("--data.predict_path is needed: a file with the rows to predict.")
    file, output = _expanded(str(line.said("exported"))), Path(str(line.said("output") or "predictions.csv"))
    read = [("--data.predict_path", path), ("--exported", file), ("its schema", schema_path(file))]
    check_output(output, [*read, *(("--config", flag.config_file) for flag in line.flags)])
    check_format(output)
    schema = read_schema(file)
    encoding = encoding_in(schema)
    table = open_table(str(path))
    encoding.check_columns(table.names, table.label)
    run = open_exported(schema["format"], file, trust=_is_trusted(line, schema["format"], file))
    names = schema["outputs"][0].get("classes")  # by number; None for a regression
    said = write_predictions(output, _predictions(run, encoding, table, schema, file), names, file)
    sys.stderr.write(f"{said}\n")


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"--exported={path}: there is no such user.") from error


def _is_trusted(line: CommandLine, file_format: str, file: Path) -> bool:
    """Return whether the person who typed the line trusts the file, which no file can say of another."""
    said = line.typed.get("trust", "false")
    if said not in ("true", "false"):
        raise UsageError(f"--trust needs true or false, not {said or 'nothing'}.")
    if said == "false" and file_format in _PROGRAMS:
        raise UsageError(f"{file} is {_PROGRAMS[file_format]}; --trust=true runs it, if you know where it comes from.")
    return said == "true"


def _predictions(
    run: Run, encoding: Encoding, table: Table, schema: Mapping[str, Any], file: Path
) -> Iterator[NDArray[Any]]:
    step = schema["max_batch"] or _ROWS
    shape = schema["outputs"][0]["shape"][1:]
    infinities, start = InfinityCount(table.label), 0
    for chunk in table.chunks(encoding.inputs):
        rows = raw_rows(encoding, chunk, start, infinities)
        infinities.check()
        for low in range(0, len(rows), step):
            arrays = rows[low : low + step].arrays
            found = run(arrays)
            wanted = (len(arrays[0]), *shape)
            if [(out.shape, out.dtype.kind) for out in found] != [(wanted, "f")]:
                shapes = [out.shape for out in found]
                raise RunError(f"{file} is not the model that its schema describes: it gives {shapes}, not {wanted}.")
            yield found[0]
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


def open_exported(file_format: str, file: Path, keywords: Sequence[str] = (), *, trust: bool = False) -> Run:
    """Open an exported file and return the function that runs it; a RunError says that it is damaged.

    Without `trust` it is refused unless it holds nothing but numbers and known operations; with it, it is handed to
    the runtime of its format as it is. With `keywords` the inputs of a model in torch go by these names, else by
    position.
    """
    if file_format not in FORMATS:
        raise UsageError(f"A file of the format {file_format!r} cannot be run here; {', '.join(FORMATS)} can.")
    if file_format in _PROGRAMS and not trust:
        raise UsageError(f"{file} is {_PROGRAMS[file_format]}.")
    require(file_format, writing=False)
    try:
        with unspoken():
            if file_format == "onnx":
                run = _onnx(file, trust)
            elif file_format == "pt2" and not trust:
                run = _program(file)
            else:
                run = _executorch(file) if file_format == "executorch" else _with_torch(file_format, file, keywords)
    except RunError:
        raise
    except Exception as error:  # every runtime has exceptions of its own, and a damaged file brings them forth
        raise RunError(f"{file} cannot be opened as {file_format}: {_why(error)}; export it anew.") from error

    def told(arrays: Arrays) -> list[NDArray[Any]]:
        try:
            return run(arrays)
        except RunError:
            raise
        except Exception as error:  # every runtime has exceptions of its own
            raise RunError(f"{file} cannot be run on these rows: {_why(error)}") from error

    return told


def _why(error: Exception) -> str:
    said = "".join(sign if sign.isprintable() else "?" for sign in " ".join(str(error).split())[:200])
    return f"{type(error).__name__} {said}" if isinstance(error, LookupError) or not said else said


def _onnx(file: Path, trust: bool) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is said by its exceptions
    model = str(file) if trust else checked_model(file)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda arrays: list(map(np.asarray, session.run(None, dict(zip(names, arrays, strict=True)))))


def _program(file: Path) -> Run:
    import torch

    from lightning_mods.export.torch_program import read_program

    program = read_program(file)
    most = max(_MOST_ELEMENTS, 2 * program.weight_elements)

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        rows = len(arrays[0])
        if program.elements(*tensors) > most:
            if rows < 2:
                raise RunError(f"{file} makes tensors of more than {most:,} numbers for one row; export it anew.")
            halves = [run([array[part] for array in arrays]) for part in (slice(rows // 2), slice(rows // 2, rows))]
            return [np.concatenate(outputs) for outputs in zip(*halves, strict=True)]
        with torch.no_grad():
            return flat_arrays(program(*tensors))

    return run


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
