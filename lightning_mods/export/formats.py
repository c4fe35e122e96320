"""Networks written as files, one function a format, by the graph that `torch.export` makes of an example call."""

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

MAX_BATCH = {"executorch": 128}  # ExecuTorch plans its memory ahead, for the largest batch
_MADE_ROWS = 2  # an exporter takes a batch of one row for a constant


@dataclass(frozen=True)
class NetworkExample:
    """A network with an example of its inputs.

    Attributes:
        module: In eval mode, on the CPU.
        args: An example of its inputs, at least two rows.
        kwargs: Those it takes by name.
        input_names: Of the inputs.
        output_names: Of the outputs; empty where they are not known.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    input_names: Sequence[str] = ()
    output_names: Sequence[str] = ()

    @property
    def tensors(self) -> list[Tensor]:
        """Return all tensors of the example, those of inputs by name last."""
        return tensors_in([*self.args, *self.kwargs.values()])

    @property
    def rows(self) -> int:
        """Return the number of rows of the example."""
        return next(len(tensor) for tensor in self.tensors if tensor.ndim)


def example_of(model: LightningModule) -> NetworkExample:
    """Return anybody's module with its `example_input_array`, called as Lightning calls it with that.

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
    return NetworkExample(
        model,
        () if by_name else tuple(example),
        dict(example) if by_name else {},
        input_names=list(example) if by_name else [],
    )


def tensors_in(value: Any) -> list[Tensor]:
    """Return all tensors of nested inputs or outputs, in order."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def with_tensors(value: Any, change: Callable[[Tensor], Any], other: Callable[[Any], Any] = lambda part: part) -> Any:
    """Return nested inputs with `change` made to every tensor, and `other` to what is no tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: with_tensors(part, change, other) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(with_tensors(part, change, other) for part in value)
    return other(value)


def with_rows(value: Any, rows: int, picked: Sequence[int]) -> Any:
    """Return nested inputs with the rows `picked` of every tensor that has `rows` of them."""
    index = torch.tensor(picked)
    return with_tensors(value, lambda tensor: tensor[index] if tensor.ndim and len(tensor) == rows else tensor)


def write(file_format: str, network: NetworkExample, path: Path) -> bool:
    """Write a network to a file; for `aoti` its name ends in `.pt2`.

    Returns:
        Whether the number of rows is free; else it is that of the example.

    Raises:
        UsageError: The network does what the format has no words for.
    """
    path.touch()  # where that cannot be, the system says why
    with unspoken():
        try:
            program, shapes = _exported(network, MAX_BATCH.get(file_format))
            _WRITERS[file_format](program, shapes, network, path)
        except OSError:
            raise
        except Exception as error:  # whatever an exporter raises over somebody's code
            why = (str(error).strip().splitlines() or [type(error).__name__])[0].strip()[:300]
            raise UsageError(f"{type(network.module).__name__} cannot be written as {file_format}: {why}") from error
    return shapes is not None


def _exported(network: NetworkExample, most: int | None) -> tuple[ExportedProgram, Any]:
    # The network's graph, for any number of rows if its code allows, and the shapes it was told of.
    batch = Dim("batch", max=most) if most else Dim("batch")
    rows = network.rows
    # By the names of the network's parameters, as torch.export binds them.
    bound = inspect.signature(network.module.forward).bind(*network.args, **network.kwargs).arguments
    shapes = with_tensors(bound, lambda t: {0: batch} if t.ndim and len(t) == rows else {}, lambda _: None)
    # `strict` reads the code itself, and so knows that `len(x)` is not a constant; it understands less code, though.
    for strict in (False, True):
        with suppress(RuntimeError, ValueError, TypeError, AssertionError):  # the last attempt says what is wrong
            return _export(network, shapes, strict=strict), shapes
    return _export(network, None), None


def _export(network: NetworkExample, shapes: Any, *, strict: bool = False) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(
            network.module, network.args, dict(network.kwargs), dynamic_shapes=shapes, strict=strict
        )


def _onnx(program: ExportedProgram, shapes: Any, network: NetworkExample, path: Path) -> None:
    written = torch.onnx.export(
        program,
        dynamo=True,
        dynamic_shapes=shapes,  # for the name `batch` alone: the program has them
        input_names=list(network.input_names) or None,
        output_names=list(network.output_names) or None,
        verbose=False,
    )
    assert written is not None
    written.save(str(path), external_data=False)


def _torchscript(program: ExportedProgram, shapes: Any, network: NetworkExample, path: Path) -> None:
    module: Any = None
    if isinstance(network.module, LightningModule):
        # Where its code can be compiled, nothing of it depends on the example.
        with suppress(RuntimeError, TypeError, AttributeError, OSError):
            module = network.module.to_torchscript(method="script")
    if module is None:
        # The exported graph is traced, not the module: a LightningModule without a Trainer does not let itself be.
        module = torch.jit.trace(  # type: ignore[no-untyped-call]
            program.module(),
            network.args or None,
            check_trace=False,
            strict=False,
            example_kwarg_inputs=dict(network.kwargs) or None,
        )
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    path.write_bytes(buffer.getvalue())


def _pt2(program: ExportedProgram, shapes: Any, network: NetworkExample, path: Path) -> None:
    torch.export.save(program, path)


def _aoti(program: ExportedProgram, shapes: Any, network: NetworkExample, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package  # its documented place, underscore or not

    aoti_compile_and_package(program, package_path=str(path))


def _executorch(program: ExportedProgram, shapes: Any, network: NetworkExample, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(bytes(lowered.to_executorch().buffer))


_WRITERS: dict[str, Callable[[ExportedProgram, Any, NetworkExample, Path], None]] = {
    "onnx": _onnx,
    "torchscript": _torchscript,
    "pt2": _pt2,
    "aoti": _aoti,
    "executorch": _executorch,
}
