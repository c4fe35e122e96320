"""The export of anybody's LightningModule: its forward, with its example input; no preprocessing, no schema."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule
from torch import Tensor

from datamodules import TabularDataModule
from datamodules.encoding import Encoding, RawRows, InfinityCount, raw_rows
from lightning_mods.cli.arguments import UsageError
from lightning_mods.console.terminal import say
from lightning_mods.export.comparison import Difference, difference, in_batches, made_rows, real_rows
from lightning_mods.export.formats import (
    MAX_BATCH,
    Subject,
    example_subject,
    mapped,
    tensors_in,
    with_rows,
    write,
)
from lightning_mods.export.model import TableModel
from lightning_mods.export.report import print_module_export, print_table_export
from lightning_mods.export.runtime import Arrays, flat_arrays, open_exported
from lightning_mods.export.schema import (
    input_names,
    schema_of,
    schema_path,
    write_schema,
)
from lightning_mods.models.module import MLPModule
from lightning_mods.runs import RunError, replacing

_EXAMPLE_ROWS = 8


def export_table(model: MLPModule, data: TabularDataModule, file_format: str, output: Path) -> None:
    """Write a model of a table, compare it with the checkpoint's, and say what one got.

    Args:
        model: With the checkpoint's weights.
        data: With what the checkpoint learned of the table.
        file_format: `onnx`, `torchscript`, `pt2`, `aoti` or `executorch`.
        output: The file; its schema goes beside it.

    Raises:
        RunError: The written file predicts something else than the checkpoint; nothing is left of it.
    """
    encoding = data.learned.encoding
    most = MAX_BATCH.get(file_format)
    names = data.class_names
    schema = schema_of(encoding, target=data.learned.target, class_names=names, file_format=file_format, max_batch=most)
    chunk, source = real_rows(data)
    made = made_rows(encoding)
    inputs, wanted = _both_sides(model, encoding, [made] if chunk is None else [chunk, made])
    example = tuple(torch.from_numpy(array[:_EXAMPLE_ROWS].copy()) for array in inputs)
    subject = Subject(
        TableModel(encoding, model).eval(),
        example,
        input_names=input_names(schema),
        output_names=[each["name"] for each in schema["outputs"]],
    )
    with (
        replacing(output, f".partial{output.suffix}") as file,
        replacing(schema_path(output)) as beside,
    ):
        if not write(file_format, subject, file):
            raise UsageError(f"{type(model).__name__} takes batches of one length alone; its forward must take any.")
        found = in_batches(open_exported(file_format, file), inputs, most)
        apart = difference(found, wanted, 1.0 if names else data.target_std)
        refuse_if_apart(apart, file_format)
        schema["example"] = _example(inputs, found)
        write_schema(schema, file, beside)
    print_table_export(output, schema, apart, source=source, real=0 if chunk is None else chunk.num_rows)


def refuse_if_apart(apart: Difference, file_format: str) -> None:
    """Raise a RunError if an exported model and its checkpoint are not one."""
    if not apart.tolerable:
        raise RunError(
            f"the model as {file_format} differs from the checkpoint by up to {apart.largest:.3g} on {apart.rows} "
            "rows, more than rounding explains; nothing was written."
        )


def _both_sides(model: MLPModule, encoding: Encoding, chunks: Sequence[Any]) -> tuple[Arrays, list[NDArray[Any]]]:
    """What goes into the exported model, and what the checkpoint makes of the same rows."""
    parts: list[RawRows] = []
    wanted = []
    for chunk in chunks:
        rows = raw_rows(encoding, chunk, 0, InfinityCount())
        finite = ~np.isinf(rows.numbers).any(axis=1)  # such rows are refused by `predict`
        parts.append(rows[finite])
        encoded = encoding.encode(chunk, 0, InfinityCount())[finite]
        with torch.no_grad():
            wanted.append(flat_arrays(model(torch.from_numpy(encoded)))[0])
    arrays = [np.concatenate(each) for each in zip(*(part.arrays for part in parts), strict=True)]
    return arrays, [np.concatenate(wanted)]


def _example(inputs: Arrays, found: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """The last made-up row and what the model says of it, so that a caller elsewhere can check himself."""
    cells = [[None if cell != cell else cell for cell in array[-1].tolist()] for array in inputs]
    return {"inputs": cells, "outputs": [found[0][-1].tolist()]}


_ROWS = 5  # of the second batch that is compared: other than the example's


def export_module(model: LightningModule, file_format: str, output: Path) -> None:
    """Write a module's forward, compare it with the module, and say what one got.

    Args:
        model: With the checkpoint's weights, and an `example_input_array`.
        file_format: `onnx`, `torchscript`, `pt2`, `aoti` or `executorch`.
        output: The file.

    Raises:
        UsageError: It has no example input, or the format has no words for what it does.
        RunError: The written file says something else than the checkpoint; nothing is left of it.
    """
    subject = example_subject(model)
    with replacing(output, f".partial{output.suffix}") as file:
        free = write(file_format, subject, file)
        run = open_exported(file_format, file, list(subject.kwargs))
        batches = _batches(subject, free=free)
        wanted, found = [], []
        for args, kwargs in batches:
            with torch.no_grad():
                wanted += flat_arrays(model(*args, **kwargs))
            found += run([tensor.numpy() for tensor in tensors_in([args, kwargs])])
        apart = difference(found, wanted, None)
        refuse_if_apart(apart, file_format)
    if not free:
        say(f"note: the file takes batches of {_rows(subject)} rows alone, those of the example: its code asks for it.")
    print_module_export(output, file_format, subject, apart, free=free)


def _rows(subject: Subject) -> int:
    return next(len(tensor) for tensor in tensors_in(subject.all_inputs) if tensor.ndim)


def _batches(subject: Subject, *, free: bool) -> list[tuple[Any, dict[str, Any]]]:
    """The example, and the example with noise: zeros alone, as examples often are, would tell little."""
    rows = _rows(subject)
    picked = list(np.arange(_ROWS) % rows) if free else list(range(rows))
    args, kwargs = with_rows([list(subject.args), dict(subject.kwargs)], rows, [int(row) for row in picked])
    noise = torch.Generator().manual_seed(0)

    def noisy(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor + torch.randn(tensor.shape, generator=noise).to(tensor.dtype)

    return [(subject.args, dict(subject.kwargs)), (mapped(args, noisy), mapped(kwargs, noisy))]
