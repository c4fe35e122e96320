"""The export of anybody's LightningModule: its forward, with its example input; no preprocessing, no schema."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from lightning_mods.export_check import difference
from lightning_mods.export_report import print_module_export
from lightning_mods.export_subject import Subject, example_subject, mapped, tensors_in, with_rows
from lightning_mods.export_table import refuse_if_apart
from lightning_mods.export_writers import write
from lightning_mods.exported_runtimes import flat_arrays, open_exported
from lightning_mods.files import replacing
from lightning_mods.terminal import say

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
