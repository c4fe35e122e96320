"""Reads batches into plain numbers: which tensors there are, and what the numbers of an input are like."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from callbacks._data_facts import Inputs

DEEPEST, MOST = 4, 32
MOST_VALUES = 1 << 18  # of one batch that are looked at: a millisecond


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


def flat_rows(tensor: Tensor, most: int | None = None) -> Tensor:
    """The first rows of a batch as float vectors, of a bounded size in all."""
    width = max(tensor[0].numel(), 1)
    rows = min(len(tensor), most or len(tensor), max(MOST_VALUES // width, 2))
    return tensor.detach()[:rows].reshape(rows, -1).float()


def read_inputs(layer: str, batches: Sequence[Tensor], *, from_batch: bool) -> Inputs | None:
    """What a layer was given in some batches; None of less than two rows or of numbers that are not finite."""
    if not batches or min(len(batch) for batch in batches) < 2 or len({batch[0].shape for batch in batches}) > 1:
        return None
    rows = torch.cat([flat_rows(batch) for batch in batches])
    table = batches[0].ndim == 2
    square = rows.square()
    columns = square.mean(0) if table else square.mean()[None]
    lengths = square.sum(1).sqrt()
    spread = torch.stack([flat_rows(batch).std(0).max() for batch in batches]).max()
    numbers = torch.stack([rows.abs().max(), square.mean().sqrt(), columns.max().sqrt(), spread])
    values = torch.cat([numbers, torch.stack([lengths.min(), lengths.max()])])
    if not bool(values.isfinite().all()):
        return None
    largest, rms, column_rms, spread_, shortest, longest = values.tolist()
    unit = shortest > 0.99 and longest < 1.01
    return Inputs(layer, len(rows), rows.shape[1], largest, rms, column_rms, spread_, unit, from_batch)
