"""A network written as a file, one function a format. All go through `torch.export`."""

import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lightning_mods.cli.command_line import UsageError
from lightning_mods.export.runtime import unspoken

_MADE_ROWS = 2  # an exporter takes a batch of one row for a constant


@dataclass(frozen=True)
class Subject:
    """A network and how it is called.

    Attributes:
        module: In eval mode, on the CPU.
        args: An example of its inputs, at least two rows.
        kwargs: Those it takes by name.
        input_names: Of the inputs.
        output_names: Of the outputs; empty where they are not known.
        has_batch: Whether the first dimension of the inputs is that of the rows, and may have any length.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    input_names: Sequence[str] = ()
    output_names: Sequence[str] = ()
    has_batch: bool = True

    @property
    def all_inputs(self) -> list[Any]:
        """The example, inputs by name last."""
        return [*self.args, *self.kwargs.values()]


def example_subject(model: LightningModule) -> Subject:
    """A module of anybody's, called as Lightning calls it with its `example_input_array`.

    Raises:
        UsageError: It has none.
    """
    example: Any = model.example_input_array
    name = type(model).__name__
    if example is None:
        raise UsageError(
            f"{name} has no example input, which an export needs: set `self.example_input_array = torch.zeros(1, …)` "
            "in its constructor, with the shape of a batch of one row."
        )
    example = (example,) if isinstance(example, Tensor) else example
    rows = next((len(tensor) for tensor in tensors_in(example) if tensor.ndim), None)
    if rows is None:
        raise UsageError(f"{name}.example_input_array holds no tensor with rows; it is {type(example).__name__}.")
    if rows < _MADE_ROWS:
        example = with_rows(example, rows, [0] * _MADE_ROWS)
    by_name = isinstance(example, Mapping)
    return Subject(
        model,
        () if by_name else tuple(example),
        dict(example) if by_name else {},
        input_names=list(example) if by_name else [],
    )


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors of nested inputs or outputs, in order."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def mapped(value: Any, change: Any) -> Any:
    """Nested inputs with every tensor changed, and what is no tensor as it was."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: mapped(part, change) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(part, change) for part in value)
    return value


def with_rows(value: Any, rows: int, picked: Sequence[int]) -> Any:
    """Nested inputs with the rows `picked` of every tensor that has `rows` of them."""
    index = torch.tensor(picked)
    return mapped(value, lambda tensor: tensor[index] if tensor.ndim and len(tensor) == rows else tensor)


# ExecuTorch plans its memory ahead, for the largest batch.
MAX_BATCH = {"executorch": 128}


def write(file_format: str, subject: Subject, path: Path) -> bool:
    """Write a network to a file.

    Args:
        file_format: `onnx`, `torchscript`, `pt2`, `aoti` or `executorch`.
        subject: The network and an example of its inputs.
        path: The file; for `aoti` it ends in `.pt2`.

    Returns:
        Whether the number of rows is free; else it is that of the example.

    Raises:
        UsageError: The network does what the format has no words for.
    """
    path.touch()  # where that cannot be, the system says why
    with unspoken():
        try:
            program, shapes = _exported(subject, MAX_BATCH.get(file_format))
            _WRITERS[file_format](program, shapes, subject, path)
        except OSError:
            raise
        except Exception as error:  # whatever an exporter raises over somebody's code
            raise UsageError(
                f"{type(subject.module).__name__} cannot be written as {file_format}: {_first_line(error)}"
            ) from error
    return shapes is not None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _exported(subject: Subject, most: int | None) -> tuple[ExportedProgram, Any]:
    """The network's graph, for any number of rows if its code allows, and the shapes it was told of."""
    batch = Dim("batch", max=most) if most else Dim("batch")
    rows = next(len(tensor) for tensor in tensors_in(subject.all_inputs) if tensor.ndim)
    # By the names of the network's parameters, as torch.export binds them.
    bound = inspect.signature(subject.module.forward).bind(*subject.args, **subject.kwargs).arguments
    shapes = _shapes(bound, rows, batch)
    # `strict` reads the code itself, and so knows that `len(x)` is not a constant; it understands less code, though.
    for strict in (False, True):
        with suppress(RuntimeError, ValueError, TypeError, AssertionError):  # the last attempt says what is wrong
            return _export(subject, shapes, strict=strict), shapes
    return _export(subject, None), None


def _export(subject: Subject, shapes: Any, *, strict: bool = False) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(
            subject.module, subject.args, dict(subject.kwargs), dynamic_shapes=shapes, strict=strict
        )


def _shapes(value: Any, rows: int, batch: Any) -> Any:
    if isinstance(value, Tensor):
        return {0: batch} if value.ndim and len(value) == rows else {}
    if isinstance(value, Mapping):
        return {key: _shapes(part, rows, batch) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_shapes(part, rows, batch) for part in value)
    return None


def _onnx(program: ExportedProgram, shapes: Any, subject: Subject, path: Path) -> None:
    written = torch.onnx.export(
        program,
        dynamo=True,
        dynamic_shapes=shapes,  # for the name `batch` alone: the program has them
        input_names=list(subject.input_names) or None,
        output_names=list(subject.output_names) or None,
        verbose=False,
    )
    assert written is not None
    written.save(str(path), external_data=False)


def _torchscript(program: ExportedProgram, shapes: Any, subject: Subject, path: Path) -> None:
    module = None
    if isinstance(subject.module, LightningModule):
        # Where its code can be compiled, nothing of it depends on the example.
        with suppress(RuntimeError, TypeError, AttributeError, OSError):
            module = subject.module.to_torchscript(method="script")
    buffer = io.BytesIO()
    torch.jit.save(_traced(program, subject) if module is None else module, buffer)
    path.write_bytes(buffer.getvalue())


def _traced(program: ExportedProgram, subject: Subject) -> Any:
    # The exported graph is traced, not the module: a LightningModule without a Trainer does not let itself be.
    return torch.jit.trace(  # type: ignore[no-untyped-call]
        program.module(),
        subject.args or None,
        check_trace=False,
        strict=False,
        example_kwarg_inputs=dict(subject.kwargs) or None,
    )


def _pt2(program: ExportedProgram, shapes: Any, subject: Subject, path: Path) -> None:
    torch.export.save(program, path)


def _aoti(program: ExportedProgram, shapes: Any, subject: Subject, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package  # its documented place, underscore or not

    aoti_compile_and_package(program, package_path=str(path))


def _executorch(program: ExportedProgram, shapes: Any, subject: Subject, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(bytes(lowered.to_executorch().buffer))


_WRITERS: dict[str, Callable[[ExportedProgram, Any, Subject, Path], None]] = {
    "onnx": _onnx,
    "torchscript": _torchscript,
    "pt2": _pt2,
    "aoti": _aoti,
    "executorch": _executorch,
}
