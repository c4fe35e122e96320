"""Exported files, opened to be run: arrays in, arrays out. ONNX needs onnxruntime and NumPy, and no torch."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mods.arguments import UsageError
from lightning_mods.runs import RunError

Arrays = Sequence[NDArray[Any]]
Run = Callable[[Arrays], list[NDArray[Any]]]
# Packages beyond our own dependencies, by format: to write a file (which is then run), and to run it.
_TO_WRITE = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "executorch": ("executorch",)}
_TO_RUN = {"onnx": ("onnxruntime",), "executorch": ("executorch",)}


def require(file_format: str, *, writing: bool) -> None:
    """Raise a UsageError if an optional package is missing.

    Args:
        file_format: `onnx`, `torchscript`, `pt2`, `aoti` or `executorch`.
        writing: Whether it is to be written, or only run.
    """
    needed = (_TO_WRITE if writing else _TO_RUN).get(file_format, ())
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{file_format} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            f"installed: pip install 'lightning-mods[{file_format}]'"
        )


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
    """Open an exported file.

    Args:
        file_format: `onnx`, `torchscript`, `pt2`, `aoti` or `executorch`.
        file: Where it is.
        keywords: Names of its inputs, if it is to be called with these; positions else.

    Raises:
        RunError: The file is damaged, or of another format.
        UsageError: The format is not known here, or a package it needs is not installed.
    """
    if file_format not in _OPENERS:
        raise UsageError(f"A file of the format {file_format!r} cannot be run here; {', '.join(_OPENERS)} can.")
    require(file_format, writing=False)
    try:
        with unspoken():
            run = _OPENERS[file_format](file, keywords)
    except RunError:
        raise
    except Exception as error:  # every runtime has exceptions of its own
        raise RunError(f"{file} cannot be opened as {file_format}: {' '.join(str(error).split())[:200]}") from error
    return _in_one_line(run, file)


def _in_one_line(run: Run, file: Path) -> Run:
    def told(arrays: Arrays) -> list[NDArray[Any]]:
        try:
            return run(arrays)
        except Exception as error:  # every runtime has exceptions of its own
            raise RunError(f"{file} cannot be run on these rows: {' '.join(str(error).split())[:200]}") from error

    return told


def _onnx(file: Path, keywords: Sequence[str]) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda arrays: list(map(np.asarray, session.run(None, dict(zip(names, arrays, strict=True)))))


def _torchscript(file: Path, keywords: Sequence[str]) -> Run:
    import torch

    model = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]
    return _with_torch(model, keywords)


def _pt2(file: Path, keywords: Sequence[str]) -> Run:
    import torch

    from lightning_mods.exported_code import refuse_code

    refuse_code(file)
    return _with_torch(torch.export.load(file).module(), keywords)


def _aoti(file: Path, keywords: Sequence[str]) -> Run:
    from torch._inductor import aoti_load_package  # its documented place, underscore or not

    return _with_torch(aoti_load_package(file), keywords)


def _executorch(file: Path, keywords: Sequence[str]) -> Run:
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(file).load_method("forward")
    return lambda arrays: [
        out.numpy().copy() for out in method.execute([torch.from_numpy(np.ascontiguousarray(a)) for a in arrays])
    ]


def _with_torch(model: Callable[..., Any], keywords: Sequence[str]) -> Run:
    import torch

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        with torch.no_grad():
            if keywords:
                return flat_arrays(model(**dict(zip(keywords, tensors, strict=True))))
            return flat_arrays(model(*tensors))

    return run


def flat_arrays(outputs: Any) -> list[NDArray[Any]]:
    """All tensors of a model's outputs, however they are nested, as arrays."""
    if isinstance(outputs, Mapping):
        return [array for each in outputs.values() for array in flat_arrays(each)]
    if isinstance(outputs, list | tuple):
        return [array for each in outputs for array in flat_arrays(each)]
    return [outputs.detach().cpu().numpy()] if hasattr(outputs, "detach") else []


_OPENERS: dict[str, Callable[[Path, Sequence[str]], Run]] = {
    "onnx": _onnx,
    "torchscript": _torchscript,
    "pt2": _pt2,
    "aoti": _aoti,
    "executorch": _executorch,
}
