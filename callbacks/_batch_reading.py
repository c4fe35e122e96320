"""Reads batches into plain numbers: which tensors there are, and how what a layer is given is distributed."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

DEEPEST, MOST = 4, 32


def tensors_in(batch: Any) -> list[Tensor]:
    """The tensors of a batch of nested mappings, sequences and dataclasses, in their order."""
    return [tensor for _, tensor in zip(range(MOST), _walk(batch, DEEPEST), strict=False)]


def _walk(batch: Any, levels: int) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif levels and isinstance(batch, Mapping):
        for part in batch.values():
            yield from _walk(part, levels - 1)
    elif levels and isinstance(batch, list | tuple):
        for part in batch[:MOST]:
            yield from _walk(part, levels - 1)
    elif levels and dataclasses.is_dataclass(batch):
        for field in dataclasses.fields(batch):
            yield from _walk(getattr(batch, field.name, None), levels - 1)
