"""The network that an export writes: a table's preprocessing before its model, or anybody's module; a writer a format.

Every writer but TorchScript's goes by the graph that `torch.export` makes of an example call.
"""

import inspect
import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from callbacks.host.packages import LightningModule, kinds
from datamodules.columns.calendar import DateColumn, wave_numbers
from datamodules.columns.dates import DAY
from datamodules.columns.encoding import TAIL, CategoryColumn, Encoding, NumericColumn
from lightning_mods.cli.command_line import UsageError
from lightning_mods.export.runtime import tensors_in, unspoken
from lightning_mods.export.schema import columns_once
from lightning_mods.models.module import MLPModule

MAX_BATCH = {"executorch": 128}  # ExecuTorch plans its memory ahead, for the largest batch
_MADE_ROWS = 2  # an exporter takes a batch of one row for a constant
_NOISY_ROWS = 5  # of the second batch of a module's example that is compared: other than the example's
_WAVES = ("wave_column", "wave_whole", "wave_offset", "wave_period", "wave_multiple", "wave_quarter")
_NOTHING = -1  # no cell has this code once it went through `_hot`


class TableModel(nn.Module):
    """Network that does to a table's cells what `Encoding.encode` does, then what the model does; the same numbers.

    Numbers are standardised in float64, as float32 does not tell one second from the next in a time stamp, and
    handed to the model as float32. It takes one or two inputs: without number columns the codes alone, and without
    category columns the numbers alone.
    """

    mean: Tensor
    scale: Tensor
    largest: Tensor  # of float64; a tensor, as exporters write a plain number as float32
    bin_column: Tensor  # for each bin, its column, edge below, width, number in its column, and mean
    bin_low: Tensor
    bin_width: Tensor
    bin_number: Tensor
    bin_mean: Tensor
    wave_column: Tensor  # for each wave of a date, its column and `wave_numbers`
    wave_whole: Tensor
    wave_offset: Tensor
    wave_period: Tensor
    wave_multiple: Tensor
    wave_quarter: Tensor
    number_source: Tensor  # for each column of numbers and of categories, the input that it is made of
    code_source: Tensor
    codes: Tensor  # of all columns one after the other: for each code of its input its own
    code_start: Tensor  # where those of each column begin
    unknown_input: Tensor
    unknown: Tensor
    hot_column: Tensor  # for each feature of a category, its column and the two codes that set it
    hot_code: Tensor
    hot_code_too: Tensor
    # where each feature stands among all numbers, then marks of missing ones, bins, waves, then all of categories
    order: Tensor

    def __init__(self, encoding: Encoding, model: MLPModule) -> None:
        super().__init__()
        self.model = model
        self._numbers = [column for column in encoding.columns if not isinstance(column, CategoryColumn)]
        self._categories = [column for column in encoding.columns if isinstance(column, CategoryColumn)]
        self._keep("mean", [column.mean for column in self._numbers], torch.float64)
        self._keep("scale", [column.scale for column in self._numbers], torch.float64)
        self._keep("largest", torch.finfo(torch.float64).max, torch.float64)
        self._add_sources(encoding)
        self._add_bins()
        self._add_waves()
        self._add_codes()
        self._add_order(encoding)

    def _add_sources(self, encoding: Encoding) -> None:
        # An ensemble of folds has several encodings of a column, which comes in once.
        inputs = columns_once(encoding).columns
        self._repeats = len(inputs) < len(encoding.columns)
        if not self._repeats:
            return
        numbers = [column.name for column in inputs if not isinstance(column, CategoryColumn)]
        categories = {column.name: column for column in inputs if isinstance(column, CategoryColumn)}
        self._keep("number_source", [numbers.index(column.name) for column in self._numbers])
        self._keep("code_source", [[*categories].index(column.name) for column in self._categories])
        self._keep("unknown_input", [column.unknown_code for column in categories.values()])
        codes: list[int] = []
        starts = []
        for column in self._categories:
            starts.append(len(codes))
            place = {name: code for code, name in enumerate(column.categories)}
            codes += [place.get(name, column.unknown_code) for name in categories[column.name].categories]
            codes += [column.unknown_code, column.missing_code]
        self._keep("codes", codes)
        self._keep("code_start", starts)

    def _keep(self, name: str, values: Any, dtype: torch.dtype = torch.int64) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=dtype))

    def _add_bins(self) -> None:
        bins = [
            (at, low, high - low, t, mean)
            for at, column in enumerate(self._numbers)
            if isinstance(column, NumericColumn)
            for t, ((low, high), mean) in enumerate(zip(pairwise(column.edges), column.bin_means, strict=True))
        ]
        self._has_bins = bool(bins)
        for i, name in enumerate(("bin_column", "bin_low", "bin_width", "bin_number", "bin_mean")):
            self._keep(name, [row[i] for row in bins], torch.float64 if i else torch.int64)

    def _add_waves(self) -> None:
        dates = [(at, column) for at, column in enumerate(self._numbers) if isinstance(column, DateColumn)]
        waves = [(at, *numbers) for at, column in dates for numbers in wave_numbers(column)]
        self._has_waves = bool(waves)
        for i, name in enumerate(_WAVES):
            self._keep(name, [row[i] for row in waves], torch.float64 if i else torch.int64)

    def _add_codes(self) -> None:
        hot: list[tuple[int, int, int]] = []
        for at, column in enumerate(self._categories):
            hot += [(at, code, _NOTHING) for code in range(len(column.categories))]
            if column.infrequent:
                hot.append((at, column.unknown_code, _NOTHING if column.missing else column.missing_code))
            if column.missing:
                hot.append((at, column.missing_code, _NOTHING))
        self._keep("unknown", [c.unknown_code for c in self._categories])
        for i, name in enumerate(("hot_column", "hot_code", "hot_code_too")):
            self._keep(name, [row[i] for row in hot])

    def _add_order(self, encoding: Encoding) -> None:
        width = len(self._numbers)
        number, at, order = 0, 2 * width, []
        wave = at + len(self.bin_mean)
        hot = wave + len(self.wave_period)
        for column in encoding.columns:
            if isinstance(column, NumericColumn):
                order += [number] * (not column.constant) + [width + number] * column.indicator
                order += range(at, at + len(column.bin_means))
                at += len(column.bin_means)
                number += 1
            elif isinstance(column, DateColumn):
                order += [number] * column.trend + [width + number] * column.indicator
                order += range(wave, wave + len(wave_numbers(column)))
                wave += len(wave_numbers(column))
                number += 1
            else:
                order += range(hot, hot + len(column.feature_names))
                hot += len(column.feature_names)
        self._keep("order", order)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Predict rows of a table: class probabilities `[B, C]`, or numbers `[B]` in the target's units.

        The inputs are the numbers `[B, N]`, float64, NaN where one is missing, and the codes of the categories
        `[B, K]`, int64; only the one of them that has a column, where the other has none.
        """
        inputs = self._repeated(*inputs) if self._repeats else inputs
        parts = self._scaled(inputs[0]) if self._numbers else []
        if self._categories:
            parts.append(self._hot(inputs[-1]))
        out: Tensor = self.model(torch.cat(parts, dim=1).index_select(1, self.order))
        return out

    def _repeated(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = [inputs[0].index_select(1, self.number_source)] if self._numbers else []
        if self._categories:
            codes = inputs[-1]
            known = torch.where((codes < 0) | (codes > self.unknown_input + 1), self.unknown_input, codes)
            at = known.index_select(1, self.code_source) + self.code_start
            found.append(self.codes.index_select(0, at.flatten()).reshape(-1, len(self._categories)))
        return tuple(found)

    def _scaled(self, numbers: Tensor) -> list[Tensor]:
        missing = torch.isnan(numbers)
        scaled = torch.where(missing, 0.0, (numbers - self.mean) / self.scale)
        size = torch.minimum(scaled.abs(), self.largest)
        tail = scaled.sign() * (TAIL + torch.log1p((size - TAIL).clamp(min=0.0)))
        parts = [torch.where(size > TAIL, tail, scaled).float(), missing.float()]
        parts += [self._binned(numbers, missing)] if self._has_bins else []
        return [*parts, self._waving(numbers, missing)] if self._has_waves else parts

    def _waving(self, numbers: Tensor, missing: Tensor) -> Tensor:
        # as `DateColumn.waves` has it
        days = numbers.index_select(1, self.wave_column) / DAY
        whole = torch.where(self.wave_whole > 0, days.floor(), days)
        turns = (whole + self.wave_offset) / self.wave_period * self.wave_multiple + self.wave_quarter
        sines = (2 * math.pi * (turns - turns.floor())).float().sin()
        return torch.where(missing.index_select(1, self.wave_column), 0.0, sines)

    def _binned(self, numbers: Tensor, missing: Tensor) -> Tensor:
        # by way of the position among the column's bins, in float32, as `Expansion` has it
        share = ((numbers.index_select(1, self.bin_column) - self.bin_low) / self.bin_width).clamp(0.0, 1.0)
        inside = (self.bin_number + share).float() - self.bin_number.float()
        return torch.where(missing.index_select(1, self.bin_column), 0.0, inside - self.bin_mean.float())

    def _hot(self, codes: Tensor) -> Tensor:
        known = torch.where((codes < 0) | (codes > self.unknown + 1), self.unknown, codes)
        spread = known.index_select(1, self.hot_column)
        return ((spread == self.hot_code) | (spread == self.hot_code_too)).float()


@dataclass(frozen=True)
class NetworkExample:
    """A network with an example of its inputs, of at least two rows."""

    module: nn.Module  # in eval mode, on the CPU
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # those it takes by name
    input_names: Sequence[str] = ()
    output_names: Sequence[str] = ()  # empty where they are not known

    @property
    def tensors(self) -> list[Tensor]:
        """Return all tensors of the example, those of inputs by name last."""
        return tensors_in([*self.args, *self.kwargs.values()])

    @property
    def rows(self) -> int:
        """Return the number of rows of the example."""
        return next(len(tensor) for tensor in self.tensors if tensor.ndim)


def example_of(model: LightningModule) -> NetworkExample:
    """Return anybody's module with its `example_input_array`, to be called as Lightning calls it with that."""
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
    if isinstance(example, Mapping):
        return NetworkExample(model, (), dict(example), list(example))
    return NetworkExample(model, tuple(example))


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


def with_noise(network: NetworkExample, *, free: bool) -> tuple[Any, Any]:
    """Return another batch of inputs, as many rows as the example's unless their number is `free`, with noise.

    Zeros alone, as examples often are, would tell little.
    """
    rows = network.rows
    picked = [row % rows for row in range(_NOISY_ROWS if free else rows)]
    args, kwargs = with_rows([list(network.args), dict(network.kwargs)], rows, picked)
    noise = torch.Generator().manual_seed(0)

    def noisy(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor + torch.randn(tensor.shape, generator=noise).to(tensor.dtype)

    return with_tensors(args, noisy), with_tensors(kwargs, noisy)


def write(file_format: str, network: NetworkExample, path: Path) -> bool:
    """Write a network to a file.

    Return whether the number of rows is free; else it is that of the example. A network that does what the format has
    no words for is a UsageError.
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
    kwargs = dict(network.kwargs)
    with torch.no_grad():
        return torch.export.export(network.module, network.args, kwargs, dynamic_shapes=shapes, strict=strict)


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
    path.write_bytes(written.model_proto.SerializeToString())


def _torchscript(program: ExportedProgram, shapes: Any, network: NetworkExample, path: Path) -> None:
    module: Any = None
    if isinstance(network.module, kinds(".LightningModule")):
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
    buffer = io.BytesIO()  # torch's own writer of files aborts the process where a disk is full
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getvalue())


def _aoti(program: ExportedProgram, shapes: Any, network: NetworkExample, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package  # its documented place, underscore or not

    buffer = io.BytesIO()
    aoti_compile_and_package(program, package_path=buffer)
    path.write_bytes(buffer.getvalue())


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
