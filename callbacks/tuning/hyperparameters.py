"""Sets the learning rate and the batch size: on a module and its data, and on optimizers and schedulers."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.utilities import CombinedLoader
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
from torch.utils.data import DataLoader

from callbacks.search.plan import SearchError

# They begin at learning rates of their own, or hold further schedulers that do.
_OWN_RATES = (ChainedScheduler, CyclicLR, OneCycleLR, SequentialLR)


def parts(made: Any) -> tuple[list[Optimizer], list[LRScheduler]]:
    """Return the optimizers and schedulers in whatever `configure_optimizers` returned."""
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
    """Return what was made for the parameters of one module as made for those of its copy.

    Lightning's own CLI binds a ready optimizer to the module: a copy of the module would train the original.
    """
    originals = {id(parameter) for parameter in theirs.parameters()}
    held = {id(p) for optimizer in parts(made)[0] for group in optimizer.param_groups for p in group["params"]}
    if not held & originals:
        return made
    pairs = zip(theirs.parameters(), ours.parameters(), strict=True)
    return copy.deepcopy(made, {id(original): parameter for original, parameter in pairs})


def drives(make: Callable[[], Any], set_value: Callable[[float], None], value: float) -> bool:
    """Whether the rate that a module holds decides what its optimizers do.

    Args:
        make: The module's `configure_optimizers`; called twice.
        set_value: Sets the module's rate.
        value: The rate it is left with.
    """
    set_value(2 * value)
    other = _facts(make())
    set_value(value)
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


Holder = LightningModule | LightningDataModule


def holds(holder: Holder | None, name: str) -> bool:
    """Whether there is such an attribute or hyperparameter."""
    return holder is not None and (hasattr(holder, name) or name in holder.hparams)


def set_hyperparameter(name: str, value: Any, holders: Iterable[Holder | None]) -> None:
    """Set a value wherever it is held: as an attribute, in `hparams`, and in what loggers will be told."""
    for holder in holders:
        if holder is None:
            continue
        if hasattr(holder, name):
            setattr(holder, name, value)
        # A private name, for want of another: `hparams_initial` gives a copy, and saving all of them anew would
        # forget under which argument they came and log those that were not to be logged.
        for kept in (holder.hparams, getattr(holder, "_hparams_initial", {})):
            if name in kept:
                kept[name] = value


def is_logged(name: str, holders: Iterable[Holder | None]) -> bool:
    """Whether it is among the hyperparameters that Lightning tells the loggers."""
    return any(holder is not None and name in holder.hparams_initial for holder in holders)


def plain(holders: Iterable[Holder | None]) -> dict[str, Any]:
    """Return all hyperparameters by name."""
    kept: list[Mapping[str, Any]] = [holder.hparams for holder in holders if holder is not None]
    return {name: value for hparams in kept for name, value in hparams.items()}


def rows_in(loader: Any) -> int | None:
    """Return the training rows behind a loader or a collection of loaders; None where that is not known."""
    try:
        return max(len(part.dataset) for part in CombinedLoader(loader).flattened)
    except (AttributeError, TypeError, ValueError):  # no DataLoader, a dataset without a length, nothing
        return None


def batch_size_of(loader: Any) -> int | None:
    """Return the rows of a batch of the first loader; None where that is not known."""
    first = next(iter(CombinedLoader(loader).flattened), None)
    return first.batch_size if isinstance(first, DataLoader) else None


_NAME = "configure_optimizers"


class ConfigureOptimizersHook:
    """Acts before a module is asked for its optimizers, once, and leaves no trace on the module.

    Args:
        module: The module.
        before: What to do; returns the rate that the optimizer is to have whatever the module says, or None.
    """

    def __init__(self, module: LightningModule, before: Callable[[], float | None]) -> None:
        self._module = module
        self._before = before
        self._own = vars(module).get(_NAME)  # a method bound to this very module, as Lightning's CLI does
        self._waits = True
        setattr(module, _NAME, self._configure_optimizers)

    def leave(self) -> None:
        """Put the module's own method back."""
        if not self._waits:
            return
        self._waits = False
        if self._own is None:
            delattr(self._module, _NAME)
        else:
            setattr(self._module, _NAME, self._own)

    def _configure_optimizers(self) -> Any:
        self.leave()
        rate = self._before()
        made = self._module.configure_optimizers()
        if rate is not None:
            set_rate(*parts(made), rate)
        return made
