"""Finds a loss or a gradient that is no finite number before an optimizer uses it, and where it came from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import get_total_norm

from callbacks._loss_graph import Op, operations

VECTOR = 65_536  # elements of a bias at most; a longer vector counts as a matrix
FEW = 8  # tensors that are cheaper to add up one by one than to join first: 4 µs each amid a training step
RARELY = 16  # steps between two full readings of gradients that a bias answers for
BUFFER = 65_536  # elements: running statistics are smaller, tables of positions and queues larger


class NonFiniteError(ArithmeticError):
    """A loss or a gradient was not finite, and the monitor was told to raise."""


class GradientSentinel:
    """Says whether the gradients of a module are finite, at the price of some microseconds.

    Every step it adds up the gradients of all vectors (biases, the weights of normalisation) and of every parameter
    whose module has none. A number that is not finite in the gradient of a layer's output is in the gradient of its
    bias too, and of all layers before it; so a weight beside a bias can only be alone with it when the product
    overflows, and is read in full every 16th step. Whatever looks wrong is read in full before it is called so.

    Args:
        module: Whose trainable parameters to watch.
    """

    def __init__(self, module: nn.Module) -> None:
        self.vectors: dict[torch.device, list[nn.Parameter]] = {}
        self.alone: list[nn.Parameter] = []
        self.answered_for: list[nn.Parameter] = []
        for part in module.modules():
            own = [p for p in part.parameters(recurse=False) if p.requires_grad and not is_lazy(p)]
            short = [p for p in own if p.ndim == 1 and p.numel() <= VECTOR and p.is_floating_point()]
            for p in short:
                self.vectors.setdefault(p.device, []).append(p)
            rest = [p for p in own if not any(p is s for s in short)]
            (self.answered_for if short else self.alone).extend(rest)
        # Reading a tensor of an accelerator waits for it: there all of them are read at once.
        one_by_one = len(self.vectors) == 1 and len(next(iter(self.vectors.values()))) <= FEW
        near = one_by_one and next(iter(self.vectors)).type == "cpu"
        self._few = next(iter(self.vectors.values())) if near else []
        self._groups = [] if near else list(self.vectors.values())

    def finite(self, step: int) -> bool:
        """Whether the gradients now held are finite; `step` says whether the rare reading is due."""
        for parameter in self._few:
            gradient = parameter.grad
            if gradient is not None and not isfinite(gradient.sum().item()):
                return self._exactly()
        for group in self._groups:
            try:
                total = torch.cat([p.grad for p in group]).sum().item()  # type: ignore[misc]  # see below
            except TypeError:  # one has no gradient; asking each of them first would cost more than all the rest
                there = [p.grad for p in group if p.grad is not None]
                total = torch.cat(there).sum().item() if there else 0.0
            if not isfinite(total):
                return self._exactly()
        if self.alone and not _may_be_finite(self.alone):
            return self._exactly()
        if not step % RARELY and self.answered_for and not _may_be_finite(self.answered_for):
            return self._exactly()
        return True

    def _exactly(self) -> bool:
        everything = (*(p for group in self.vectors.values() for p in group), *self.alone, *self.answered_for)
        return all(_all_finite(p.grad) for p in everything if p.grad is not None)


def _may_be_finite(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether the sums of gradients are finite: no sum is that has a term which is not."""
    grads = [_plain(p.grad) for p in parameters if p.grad is not None]
    if len(grads) <= FEW and all(grad.device.type == "cpu" for grad in grads):
        return all(isfinite(grad.sum().item()) for grad in grads)
    return isfinite(get_total_norm(grads).item())


def drop_gradients(module: nn.Module) -> None:
    """Take every gradient away: torch's optimizers then pass the parameters by, momentum and decay included."""
    for parameter in module.parameters():
        parameter.grad = None


class BufferKeeper:
    """Keeps what small buffers held before a batch: a forward pass over a NaN spoils running statistics for good.

    Args:
        module: Whose buffers to keep; those of more than 65 536 elements are no running statistics and left alone.
    """

    def __init__(self, module: nn.Module) -> None:
        owned = [b for b in module.buffers() if not is_lazy(b) and b.numel() <= BUFFER and b.layout is torch.strided]
        kinds: dict[tuple[Any, ...], list[Tensor]] = {}
        for buffer in owned:
            kinds.setdefault((buffer.dtype, buffer.device), []).append(buffer)
        self._kinds = list(kinds.values())
        self.any = bool(self._kinds)
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """Remember what the buffers hold now."""
        with torch.no_grad():
            self._kept = [torch.cat([b.reshape(-1) for b in kind]) for kind in self._kinds]

    def restore(self) -> None:
        """Put back what they held."""
        with torch.no_grad():
            for kind, kept in zip(self._kinds, self._kept, strict=False):
                for buffer, old in zip(kind, torch.split(kept, [b.numel() for b in kind]), strict=True):
                    buffer.copy_(old.view_as(buffer))


# ---------------------------------------------------------------------- where it came from


def locate(loss: Tensor, batch: Any, module: nn.Module, layer_of: Mapping[int, str]) -> tuple[str, str]:
    """The first layer that a non-finite loss can be followed back to, and what is known about its cause.

    Args:
        loss: The loss, its graph still alive.
        batch: What `training_step` was given.
        module: The module in training.
        layer_of: From a parameter's `id` to its module's name.

    Returns:
        The layer's name, empty if none can be named; and words, empty if there is nothing to say.
    """
    spoilt = [name for name, p in module.named_parameters() if not is_lazy(p) and not _all_finite(p)]
    if spoilt:
        return spoilt[0].rpartition(".")[0], f"the weights `{spoilt[0]}` are not finite themselves"
    given = next(inputs_not_finite(batch), "")
    culprit = _first_not_finite(operations(loss, layer_of))
    if culprit is None:
        return "", given
    if not culprit.own and not given:
        given = (
            f"{culprit.kind.lower()} after `{culprit.layer}` made it" if culprit.layer else f"{culprit.kind} made it"
        )
    return culprit.layer, given


def _first_not_finite(ops: Sequence[Op]) -> Op | None:
    """The first operation that returned something not finite, as far as autograd kept what it returned or was given."""
    for op in ops:
        if any(not _all_finite(taken) for taken in op.taken()):
            return op.before or op
        result = op.result()
        if result is not None and not _all_finite(result):
            return op
    return None


def inputs_not_finite(batch: Any, path: str = "batch") -> Iterator[str]:
    """Name each tensor of a nested batch that holds NaN or infinity: how many values, and the first one's place."""
    if isinstance(batch, Tensor):
        if batch.is_floating_point() and not _all_finite(batch):
            places = (~batch.isfinite()).nonzero()
            at = ", ".join(str(i) for i in places[0].tolist())
            yield f"`{path}` itself holds {len(places)} values that are not finite, the first at [{at}]"
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from inputs_not_finite(value, f"{path}[{key!r}]")
    elif isinstance(batch, list | tuple):
        for index, value in enumerate(batch):
            yield from inputs_not_finite(value, f"{path}[{index}]")


def gradients_not_finite(parameters: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The parameters whose gradient is not finite, in the order given."""
    return [name for name, p in parameters if p.grad is not None and not _all_finite(p.grad)]


def _plain(values: Tensor) -> Tensor:
    if values.is_sparse:
        values = values.coalesce().values()
    return torch.view_as_real(values) if values.is_complex() else values


def _all_finite(values: Tensor) -> bool:
    return bool(_plain(values.detach()).isfinite().all())
