"""What is exported: a network, an example of its inputs, and the names of what goes in and comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from lightning_mods.arguments import UsageError

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
