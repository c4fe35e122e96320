"""Brings a learning rate into optimizers, whoever made them: for modules whose `lr` does not decide."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CyclicLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from callbacks._search_error import SearchError

# They begin at learning rates of their own, or hold further schedulers that do.
_OWN_RATES = (ChainedScheduler, CyclicLR, OneCycleLR, SequentialLR)


def parts(made: Any) -> tuple[list[Optimizer], list[LRScheduler]]:
    """The optimizers and schedulers in whatever `configure_optimizers` returned."""
    found = list(_walk(made))
    return [o for o in found if isinstance(o, Optimizer)], [s for s in found if isinstance(s, LRScheduler)]


def _walk(made: Any) -> Iterator[Any]:
    if isinstance(made, Mapping):
        made = list(made.values())
    if isinstance(made, list | tuple):
        for part in made:
            yield from _walk(part)
    else:
        yield made


def moved_to(made: Any, theirs: nn.Module, ours: nn.Module) -> Any:
    """What was made for the parameters of one module, for those of its copy.

    Lightning's own CLI binds a ready optimizer to the module: a copy of the module would train the original.
    """
    originals = {id(parameter) for parameter in theirs.parameters()}
    held = {id(p) for optimizer in parts(made)[0] for group in optimizer.param_groups for p in group["params"]}
    if not held & originals:
        return made
    pairs = zip(theirs.parameters(), ours.parameters(), strict=True)
    return copy.deepcopy(made, {id(original): parameter for original, parameter in pairs})


def drives(make: Callable[[], Any], put: Callable[[float], None], value: float) -> bool:
    """Whether the rate that a module holds decides what its optimizers do.

    Args:
        make: The module's `configure_optimizers`; called twice.
        put: Sets the module's rate.
        value: The rate it is left with.
    """
    put(2 * value)
    other = _facts(make())
    put(value)
    return _facts(make()) != other


def _facts(made: Any) -> list[Any]:
    optimizers, _ = parts(made)
    return [
        {name: _plain(item) for name, item in group.items() if name != "params"}
        for optimizer in optimizers
        for group in [optimizer.defaults, *optimizer.param_groups]
    ]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else copy.copy(value)


def set_rate(optimizers: Sequence[Optimizer], schedulers: Iterable[LRScheduler], rate: float) -> None:
    """Let optimizers that have not stepped begin with a rate, and their schedulers too, as if made with it.

    Groups of parameters with a rate of their own keep their ratio to the others.

    Args:
        optimizers: One optimizer.
        schedulers: Those that step it.
        rate: The learning rate.

    Raises:
        SearchError: There are more optimizers or none, or a scheduler that brings its own rates.
    """
    schedulers = list(schedulers)
    if len(optimizers) != 1:
        raise SearchError(
            f"The module's learning rate has no effect on its {len(optimizers) or 'missing'} optimizers; a search "
            "needs a `configure_optimizers` that reads it."
        )
    if own := [type(scheduler).__name__ for scheduler in schedulers if isinstance(scheduler, _OWN_RATES)]:
        raise SearchError(
            f"The module's learning rate has no effect: {own[0]} brings its own; a search needs a "
            "`configure_optimizers` that hands it the module's."
        )
    faithful = [_is_faithful(scheduler) for scheduler in schedulers]
    optimizer = optimizers[0]
    base = float(optimizer.defaults["lr"])
    shares = []
    for group in optimizer.param_groups:
        first = float(group.get("initial_lr", group["lr"]))
        shares.append(float(group["lr"]) / first if first else 0.0)
        value = rate if first == base or not base else rate * first / base
        for name in ("lr", "initial_lr"):
            if name in group:
                _write(group, name, value)
    optimizer.defaults["lr"] = rate
    for scheduler, exact in zip(schedulers, faithful, strict=True):
        _begin(scheduler, exact, shares)


def _begin(scheduler: LRScheduler, exact: bool, shares: Sequence[float]) -> None:
    """Do the scheduler's first step again, from the groups' new rates."""
    groups = scheduler.optimizer.param_groups
    if not isinstance(scheduler, ReduceLROnPlateau):
        scheduler.base_lrs = [group["initial_lr"] for group in groups]
        rates = _first(scheduler) if exact else [g["initial_lr"] * s for g, s in zip(groups, shares, strict=True)]
        for group, value in zip(groups, rates, strict=True):
            _write(group, "lr", float(value))
    if "_last_lr" in scheduler.state_dict():
        scheduler.load_state_dict({**scheduler.state_dict(), "_last_lr": [_plain(group["lr"]) for group in groups]})


def _is_faithful(scheduler: LRScheduler) -> bool:
    """Whether asking it for its first rates gives those it set when it was made."""
    if isinstance(scheduler, ReduceLROnPlateau):
        return False
    groups = scheduler.optimizer.param_groups
    there = [_plain(group["lr"]) for group in groups]
    for group in groups:
        _write(group, "lr", float(group["initial_lr"]))
    try:
        return [float(value) for value in _first(scheduler)] == there
    finally:
        for group, value in zip(groups, there, strict=True):
            _write(group, "lr", value)


def _first(scheduler: LRScheduler) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is meant to be asked from within a step
        return list(scheduler.get_lr())


def _write(group: dict[str, Any], name: str, value: float) -> None:
    if isinstance(group[name], Tensor):
        group[name].fill_(value)
    else:
        group[name] = value
