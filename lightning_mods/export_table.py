"""The export of a model of a table: with its preprocessing and a schema, compared on rows of the table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules import TabularDataModule
from datamodules.encoding import Encoding, Tally
from datamodules.raw_rows import RawRows, raw_rows
from lightning_mods.arguments import UsageError
from lightning_mods.export_check import Difference, difference, in_batches
from lightning_mods.export_model import TableModel
from lightning_mods.export_report import print_table_export
from lightning_mods.export_rows import made_rows, real_rows
from lightning_mods.export_schema import input_names, schema_of, schema_path, write_schema
from lightning_mods.export_subject import Subject
from lightning_mods.export_writers import MAX_BATCH, write
from lightning_mods.exported_runtimes import Arrays, flat_arrays, open_exported
from lightning_mods.files import replacing
from lightning_mods.module import MLPModule
from lightning_mods.runs import RunError

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
        rows = raw_rows(encoding, chunk, 0, Tally())
        finite = ~np.isinf(rows.numbers).any(axis=1)  # such rows are refused by `predict`
        parts.append(rows[finite])
        encoded = encoding.encode(chunk, 0, Tally())[finite]
        with torch.no_grad():
            wanted.append(flat_arrays(model(torch.from_numpy(encoded)))[0])
    arrays = [np.concatenate(each) for each in zip(*(part.arrays for part in parts), strict=True)]
    return arrays, [np.concatenate(wanted)]


def _example(inputs: Arrays, found: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """The last made-up row and what the model says of it, so that a caller elsewhere can check himself."""
    cells = [[None if cell != cell else cell for cell in array[-1].tolist()] for array in inputs]
    return {"inputs": cells, "outputs": [found[0][-1].tolist()]}
