"""Trains trials on copies of a fit's module, with the learning rate and the batch size that each of them tries."""

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from callbacks.host.packages import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    isolated_random_numbers,
    kinds,
    sibling,
)
from callbacks.search.plan import SearchError
from callbacks.tuning.trials import BatchesTrials, TrialFit, TrialTemplate, quiet

# They begin at learning rates of their own, or hold further schedulers that do.
_OWN_RATES = (lr_scheduler.ChainedScheduler, lr_scheduler.CyclicLR, lr_scheduler.OneCycleLR, lr_scheduler.SequentialLR)


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


def _facts(made: Any) -> list[Any]:
    groups = [group for optimizer in parts(made)[0] for group in (optimizer.defaults, *optimizer.param_groups)]
    return [{name: _plain(item) for name, item in group.items() if name != "params"} for group in groups]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else copy.copy(value)


def set_rate(optimizers: Sequence[Optimizer], schedulers: Sequence[LRScheduler], rate: float) -> None:
    """Let an optimizer that has not stepped, and its schedulers, begin with a rate as if made with it.

    Groups of parameters with a rate of their own keep their ratio to the others. A `SearchError` says that there are
    more optimizers or none, or a scheduler that brings its own rates.
    """
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
    """Return whether asking it for its first rates gives those it set when it was made."""
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
    """Return whether there is such an attribute or hyperparameter."""
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


# They shape the training itself.
_SHAPING = ("BaseFinetuning", "EarlyStopping", "GradientAccumulationScheduler", "StochasticWeightAveraging")
# What a trial's trainer takes over from that of the fit.
_TAKEN_OVER = (
    "precision", "max_steps", "limit_train_batches", "limit_val_batches", "val_check_interval",
    "check_val_every_n_epoch", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm",
    "reload_dataloaders_every_n_epochs", "default_root_dir", "overfit_batches",
)  # fmt: skip


class CopiedFits:
    """Trains fits of copies of a module, each on as many processes as the fit that is to come.

    Every one starts from the module's weights and from the random numbers as they are now, and leaves both. The data
    module's copy is not set up again: it shares what the fit has prepared, so all trials see the same split. The name
    of the learning rate or batch size is empty if it is not searched.
    """

    def __init__(
        self, trainer: Trainer, module: LightningModule, *, max_epochs: int, lr_name: str, batch_size_name: str
    ) -> None:
        self.driven: bool | None = None  # whether the module's rate reaches its optimizer; None before the first fit
        self._trainer, self._module, self._max_epochs = trainer, module, max_epochs
        self._lr_name, self._batch_size_name = lr_name, batch_size_name
        self._sizes: dict[int, int] = {}  # what the loader gave, by what it was asked for
        self._is_checked = False

    def fit(self, fit: TrialFit) -> Trainer:
        """Train one; what every trial would meet is a `SearchError`: a value without effect, a copy left as it was."""
        with isolated_random_numbers(), quiet():
            module, data, rows = self._copies(fit.values)
            rate = fit.values.get(self._lr_name)
            if rate is not None:
                set_hyperparameter(self._lr_name, rate, (module, data))
                self._drive(module, rate)
            trainer: Trainer = self._trainer_of([*fit.callbacks, *map(copy.deepcopy, self._shaping())])
            try:
                trainer.fit(module, datamodule=data)
            except SystemExit as error:
                # Lightning exits on Ctrl-C; the fit around this one shall end as an interrupted fit does.
                if isinstance(error.__context__, KeyboardInterrupt):
                    raise KeyboardInterrupt from None
                raise
            self._check(module, rows, trainer)
        return trainer

    def template(self, values: Mapping[str, Any], index: int) -> TrialTemplate | None:
        """Return what trials with one batch size have in common; None if they must be trained alone."""
        module, data, rows = self._copies(values)
        if data is None or not isinstance(module, BatchesTrials):
            return None
        train, val = data.train_dataloader(), data.val_dataloader()
        if not _is_ordered(train) or not val or (rows is not None and train.batch_size != rows):
            return None
        fit = self._trainer
        clipping = fit.gradient_clip_val, fit.gradient_clip_algorithm
        return TrialTemplate(module, train, val, train.batch_size, torch.initial_seed(), *clipping)

    def is_plain(self) -> bool:
        """Return whether the trials are fits with nothing but epochs, on one CPU, which a module may train at once."""
        fit = self._trainer
        usual = (
            fit.precision == "32-true"
            and (fit.max_steps, fit.limit_train_batches, fit.limit_val_batches) == (-1, 1.0, 1.0)
            and (fit.val_check_interval, fit.check_val_every_n_epoch, fit.accumulate_grad_batches) == (1.0, 1, 1)
            and not fit.overfit_batches  # type: ignore[attr-defined]  # a connector's
        )
        alone = fit.world_size == 1 and fit.strategy.root_device.type == "cpu" and self._max_epochs > 0
        offers = isinstance(self._module, BatchesTrials) and self._lr_name in ("", "lr")
        return usual and alone and not self._shaping() and offers and getattr(fit, "datamodule", None) is not None

    def _shaping(self) -> list[Callback]:
        """Return those of the fit's callbacks without which a trial would be another fit."""
        found: list[Callback] = self._trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        return [each for each in found if any(isinstance(each, kinds(f".callbacks.{name}")) for name in _SHAPING)]

    def _copies(self, values: Mapping[str, Any]) -> tuple[LightningModule, LightningDataModule | None, int | None]:
        """Copy the module and the data module; the copies have the batch size that is tried, which is returned too."""
        try:
            module = copy.deepcopy(self._module)
        except Exception as error:  # whatever a stranger's attribute raises
            raise SearchError(f"OptunaSearch trains copies of the module, and it cannot be copied: {error}") from error
        with suppress(ValueError):  # it was not compiled
            module = sibling(self._trainer, ".utilities.compile.to_uncompiled")(module)
        # Those of the module are among the trainer's already, and are copied from there.
        module.configure_callbacks = lambda: []  # type: ignore[method-assign]
        data: LightningDataModule | None = getattr(self._trainer, "datamodule", None)
        if data is not None:
            data = copy.copy(data)
            data.trainer = None
            for hook in ("prepare_data", "setup", "teardown"):
                setattr(data, hook, lambda *args, **kwargs: None)
        rows: int | None = values.get(self._batch_size_name)
        if rows is not None:
            set_hyperparameter(self._batch_size_name, rows, (module, data))
        return module, data, rows

    def _drive(self, module: LightningModule, rate: float) -> None:
        """See that the rate reaches the optimizer of the copy, and that this optimizer trains the copy."""
        configure = module.configure_optimizers

        def configured() -> Any:
            if self.driven is None:
                facts = []
                for tried in (2 * rate, rate):
                    set_hyperparameter(self._lr_name, tried, (module,))
                    facts.append(_facts(configure()))
                self.driven = facts[0] != facts[1]
            made = moved_to(configure(), self._module, module)
            if not self.driven:
                set_rate(*parts(made), rate)
            return made

        module.configure_optimizers = configured  # type: ignore[method-assign]

    def _trainer_of(self, callbacks: list[Callback]) -> Any:
        fit = self._trainer
        return sibling(fit, ".Trainer")(
            **_processes(fit),
            **{name: getattr(fit, name) for name in _TAKEN_OVER},
            max_epochs=self._max_epochs,
            num_sanity_val_steps=0,
            logger=sibling(fit, ".loggers.logger.DummyLogger")(),  # modules may ask for `self.logger.experiment`
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    def _check(self, module: LightningModule, rows: int | None, trainer: Trainer) -> None:
        """See once that the copy was trained, and that its batches were of the size asked for."""
        if not self._is_checked:
            pairs = zip(module.parameters(), self._module.parameters(), strict=True)
            if trainer.global_step and all(torch.equal(p.detach().cpu(), q.detach().cpu()) for p, q in pairs):
                raise SearchError(
                    "A trial trained nothing: the optimizer or the loss of the module's copy belongs to the original."
                )
            self._is_checked = True
        if rows is None:
            return
        first = next(iter(sibling(trainer, ".utilities.CombinedLoader")(trainer.train_dataloader).flattened), None)
        if isinstance(first, DataLoader) and first.batch_size is not None:
            size = self._sizes[rows] = first.batch_size
            if len(self._sizes) > 2 and len(set(self._sizes.values())) == 1:
                raise SearchError(
                    f"The batch size has no effect: with {sorted(self._sizes)} the loader gave batches of {size}; make "
                    f"the loaders in `train_dataloader`, with `{self._batch_size_name}` as it is then."
                )


def _is_ordered(loader: object) -> bool:
    """Return whether the order of rows is a function of the epoch, so that all trials see the same."""
    return isinstance(loader, DataLoader) and isinstance(loader.sampler, DistributedSampler) and not loader.num_workers


def _processes(fit: Trainer) -> dict[str, Any]:
    """Return the arguments of a Trainer on the processes of a fit, which are there already."""
    device = fit.strategy.root_device
    accelerator = "gpu" if device.type == "cuda" else device.type
    if fit.world_size == 1:
        devices: Any = 1 if device.index is None or device.type == "cpu" else [device.index]
        alone = sibling(fit, "fabric.plugins.environments.LightningEnvironment")()
        return {"accelerator": accelerator, "devices": devices, "plugins": [alone]}
    wrapped = fit.strategy.model
    assert isinstance(wrapped, DistributedDataParallel)
    names = ("find_unused_parameters", "static_graph", "gradient_as_bucket_view")
    strategy = sibling(fit, ".strategies.DDPStrategy")(**{name: getattr(wrapped, name) for name in names})
    return {
        "accelerator": accelerator,
        "devices": fit.num_devices if device.type == "cpu" else fit.device_ids,
        "num_nodes": fit.num_nodes,
        "strategy": strategy,
        "plugins": [_running(fit)],
    }


def _running(fit: Trainer) -> Any:
    """Describe the processes of a fit to one inside it: nobody has to start or to connect them."""
    environment = sibling(fit, "fabric.plugins.environments.ClusterEnvironment")
    return type("RunningProcesses", (_RunningProcesses, environment), {})(fit)


class _RunningProcesses:
    """Answers as a cluster environment of Lightning's."""

    creates_processes_externally = True
    main_address, main_port = "127.0.0.1", 0  # asked for by who connects
    detect = staticmethod(lambda: False)

    def __init__(self, fit: Trainer) -> None:
        self._fit = fit

    def world_size(self) -> int:
        return self._fit.world_size

    def set_world_size(self, size: int) -> None: ...

    def global_rank(self) -> int:
        return self._fit.global_rank

    def set_global_rank(self, rank: int) -> None: ...

    def local_rank(self) -> int:
        return self._fit.local_rank

    def node_rank(self) -> int:
        return self._fit.node_rank
