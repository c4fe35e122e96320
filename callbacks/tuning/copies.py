"""Trains trials on copies of a fit's module: on all processes of that fit, where rank zero searches."""

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    EarlyStopping,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
)
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.compile import to_uncompiled
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from callbacks.search.plan import SearchError, one_line
from callbacks.tuning.hyperparameters import batch_size_of, drives, moved_to, parts, set_hyperparameter, set_rate
from callbacks.tuning.trials import BatchesTrials, TrialFit, TrialRunner, TrialTemplate, quiet, same_random_numbers

if TYPE_CHECKING:
    from optuna import Trial


# They shape the training itself, so that a trial without them would be another fit.
TRAINING = (BaseFinetuning, EarlyStopping, GradientAccumulationScheduler, StochasticWeightAveraging)
# What a trial's trainer takes over from that of the fit.
_TAKEN_OVER = (
    "precision", "max_steps", "limit_train_batches", "limit_val_batches", "val_check_interval",
    "check_val_every_n_epoch", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm",
    "reload_dataloaders_every_n_epochs", "default_root_dir",
)  # fmt: skip


class CopiedFits:
    """Trains fits of copies of a module, each on as many processes as the fit that is to come.

    Every one starts from the module's weights and from the random numbers as they are now, and leaves both. The data
    module's copy is not set up again: it shares what the fit has prepared, so all trials see the same split.

    Args:
        trainer: The trainer of the fit; its precision, clipping, accumulation and limits are taken.
        module: The module of the fit.
        max_epochs: Epochs of a trial.
        lr_name: The module's learning rate, empty if it is not searched.
        batch_size_name: The batch size, empty if it is not searched.

    Attributes:
        driven: Whether the module's rate reaches its optimizer; None before the first fit.
    """

    def __init__(
        self, trainer: Trainer, module: LightningModule, *, max_epochs: int, lr_name: str, batch_size_name: str
    ) -> None:
        self.driven: bool | None = None
        self._trainer, self._module, self._max_epochs = trainer, module, max_epochs
        self._lr_name, self._batch_size_name = lr_name, batch_size_name
        self._sizes: dict[int, int] = {}  # what the loader gave, by what it was asked for
        self._is_checked = False

    def fit(self, fit: TrialFit) -> Trainer:
        """Train one.

        Raises:
            SearchError: What every trial would meet: a rate or batch size without effect, a copy that trains nothing.
        """
        with same_random_numbers(), quiet():
            module, data = self._copies()
            rate, rows = fit.values.get(self._lr_name), fit.values.get(self._batch_size_name)
            if rate is not None:
                set_hyperparameter(self._lr_name, rate, (module, data))
                self._drive(module, rate)
            if rows is not None:
                set_hyperparameter(self._batch_size_name, rows, (module, data))
            shaping = [copy.deepcopy(each) for each in callbacks_of(self._trainer) if isinstance(each, TRAINING)]
            trainer = self._trainer_of([*fit.callbacks, *shaping])
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
        module, data = self._copies()
        rows = values.get(self._batch_size_name)
        if rows is not None:
            set_hyperparameter(self._batch_size_name, rows, (module, data))
        if data is None or not isinstance(module, BatchesTrials):
            return None
        train, val = data.train_dataloader(), data.val_dataloader()
        if not _is_ordered(train) or not val or (rows is not None and train.batch_size != rows):
            return None
        return TrialTemplate(module, train, val, train.batch_size, torch.initial_seed())

    def is_plain(self) -> bool:
        """Whether the trials are fits with nothing but epochs, on one CPU, which a module may train at once."""
        fit = self._trainer
        usual = (
            fit.precision == "32-true"
            and (fit.max_steps, fit.limit_train_batches, fit.limit_val_batches) == (-1, 1.0, 1.0)
            and (fit.val_check_interval, fit.check_val_every_n_epoch, fit.accumulate_grad_batches) == (1.0, 1, 1)
            and not fit.gradient_clip_val
            and not fit.overfit_batches  # type: ignore[attr-defined]  # a connector's
        )
        alone = fit.world_size == 1 and fit.strategy.root_device.type == "cpu" and self._max_epochs > 0
        shaped = any(isinstance(each, TRAINING) for each in callbacks_of(fit))
        offers = isinstance(self._module, BatchesTrials) and self._lr_name in ("", "lr")
        return usual and alone and not shaped and offers and getattr(fit, "datamodule", None) is not None

    def _copies(self) -> tuple[LightningModule, LightningDataModule | None]:
        try:
            module = copy.deepcopy(self._module)
        except Exception as error:  # whatever a stranger's attribute raises
            raise SearchError(f"OptunaSearch trains copies of the module, and it cannot be copied: {error}") from error
        with suppress(ValueError):  # it was not compiled
            module = to_uncompiled(module)
        # Those of the module are among the trainer's already, and are copied from there.
        module.configure_callbacks = lambda: []  # type: ignore[method-assign]
        data: LightningDataModule | None = getattr(self._trainer, "datamodule", None)
        if data is not None:
            data = copy.copy(data)
            data.trainer = None
            for hook in ("prepare_data", "setup", "teardown"):
                setattr(data, hook, lambda *args, **kwargs: None)
        return module, data

    def _drive(self, module: LightningModule, rate: float) -> None:
        """See that the rate reaches the optimizer of the copy, and that this optimizer trains the copy."""
        configure = module.configure_optimizers

        def configured() -> Any:
            if self.driven is None:
                set_rate_of = lambda value: set_hyperparameter(self._lr_name, value, (module,))  # noqa: E731
                self.driven = drives(configure, set_rate_of, rate)
            made = moved_to(configure(), self._module, module)
            if not self.driven:
                set_rate(*parts(made), rate)
            return made

        module.configure_optimizers = configured  # type: ignore[method-assign]

    def _trainer_of(self, callbacks: list[Callback]) -> Trainer:
        fit = self._trainer
        few: float = fit.overfit_batches  # type: ignore[attr-defined]  # a connector's
        limits: dict[str, Any] = {"overfit_batches": few} if few else {}
        return Trainer(
            **_processes(fit),
            **{name: getattr(fit, name) for name in _TAKEN_OVER},
            max_epochs=self._max_epochs,
            num_sanity_val_steps=0,
            logger=DummyLogger(),  # modules may ask for `self.logger.experiment`
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **limits,
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
        size = batch_size_of(trainer.train_dataloader) if rows is not None else None
        if rows is not None and size is not None:
            self._sizes[rows] = size
            if len(self._sizes) > 2 and len(set(self._sizes.values())) == 1:
                raise SearchError(
                    f"The batch size has no effect: with {sorted(self._sizes)} the loader gave batches of {size}; make "
                    f"the loaders in `train_dataloader`, with `{self._batch_size_name}` as it is then."
                )


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return all callbacks of a trainer."""
    found: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    return found


def _is_ordered(loader: object) -> bool:
    """Whether the order of rows is a function of the epoch, so that all trials see the same."""
    return isinstance(loader, DataLoader) and isinstance(loader.sampler, DistributedSampler) and not loader.num_workers


def _processes(fit: Trainer) -> dict[str, Any]:
    """Return the arguments of a Trainer on the processes of a fit, which are there already."""
    device = fit.strategy.root_device
    accelerator = "gpu" if device.type == "cuda" else device.type
    if fit.world_size == 1:
        devices: Any = 1 if device.index is None or device.type == "cpu" else [device.index]
        return {"accelerator": accelerator, "devices": devices, "plugins": [LightningEnvironment()]}
    wrapped = fit.strategy.model
    assert isinstance(wrapped, DistributedDataParallel)
    strategy = DDPStrategy(
        find_unused_parameters=wrapped.find_unused_parameters,
        static_graph=wrapped.static_graph,
        gradient_as_bucket_view=wrapped.gradient_as_bucket_view,
    )
    return {
        "accelerator": accelerator,
        "devices": fit.num_devices if device.type == "cpu" else fit.device_ids,
        "num_nodes": fit.num_nodes,
        "strategy": strategy,
        "plugins": [_RunningProcesses(fit)],
    }


class _RunningProcesses(ClusterEnvironment):
    """The processes of a fit, for one inside it: nobody has to start or to connect them."""

    def __init__(self, fit: Trainer) -> None:
        super().__init__()
        self._fit = fit

    creates_processes_externally = True
    main_address, main_port = "127.0.0.1", 0  # asked for by who connects

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._fit.world_size

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self._fit.global_rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self._fit.local_rank

    def node_rank(self) -> int:
        return self._fit.node_rank


PULSE = 60.0  # seconds between two messages of rank zero's at most, but while a trial is trained
PATIENCE = 300.0  # seconds that a rank waits for one, or for the others to end a trial


class RankedSearch:
    """Searches on rank zero of a fit, and trains the trials on all ranks.

    Rank zero alone has the study. It tells the others the values of each trial, and at last the result.

    Args:
        trainer: The trainer of the fit.
        runner: Trains a trial as one of the ranks.
    """

    def __init__(self, trainer: Trainer, runner: TrialRunner) -> None:
        self._trainer, self._runner = trainer, runner
        self._group: Any = None
        self._last = time.monotonic()

    def run(self, search: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Search; every rank must call this, and gets the result.

        Raises:
            SearchError: It failed on rank zero, which raises what it was; or a rank was lost.
        """
        if self._trainer.world_size == 1:
            return search()
        # Apart from the fit's own: it must not be waited for as long, and needs no device.
        self._group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE))
        try:
            return self._lead(search) if self._trainer.is_global_zero else self._follow()
        finally:
            distributed.destroy_process_group(self._group)
            self._group = None

    def _lead(self, search: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            result = search()
        except BaseException as error:
            with suppress(Exception):  # they may be gone already
                self._send({"failed": one_line(error)})
            raise
        self._send({"result": result})
        return result

    def pulse(self) -> None:
        """Give the others a sign of life if it is time; called on rank zero while no trial is trained."""
        if self._group is not None and time.monotonic() - self._last > PULSE:
            self._send({})

    def __call__(self, trial: "Trial", values: Mapping[str, Any]) -> list[float]:
        """Train a trial on all ranks; called on rank zero, as the runner is."""
        if self._group is None:
            return self._runner(trial, values)
        self._send({"values": dict(values), "number": trial.number})
        return self._train(trial, values, trial.number)

    def _follow(self) -> dict[str, Any]:
        while True:
            message = self._send({})
            if "failed" in message:
                raise SearchError(f"The search on rank zero ended: {message['failed']}")
            if "result" in message:
                result: dict[str, Any] = message["result"]
                return result
            if "values" in message:
                with suppress(_RaisedOnAllRanksError):
                    self._train(None, message["values"], message["number"])

    def _train(self, trial: "Trial | None", values: Mapping[str, Any], number: int) -> list[float]:
        learned = (lambda: self._runner.others_learn(trial.study)) if trial is not None else bool
        mine: Exception | None = None
        result: list[float] = []
        try:
            result = self._runner.train(trial, values, number=number, others_learn=learned)
        except Exception as error:  # noqa: BLE001  # whatever a fit raises; what it means the ranks say together
            mine = error
        told = [""] * self._trainer.world_size
        try:
            distributed.all_gather_object(told, "" if mine is None else one_line(mine), group=self._group)
        except Exception as error:
            # One rank is lost; or it has failed alone, and the others wait for it in the midst of a step.
            if trial is None and mine is not None:
                raise mine from error
            raise SearchError(f"A rank was lost in trial {number} ({one_line(mine or error)}).") from error
        self._last = time.monotonic()
        if trial is None and any(told):
            raise _RaisedOnAllRanksError
        if mine is not None:
            raise mine
        if lost := next((text for text in told if text), ""):
            raise RuntimeError(lost)
        return result

    def _send(self, message: dict[str, Any]) -> dict[str, Any]:
        """Broadcast rank zero's message; the others' own is not looked at."""
        self._last = time.monotonic()
        box = [message]
        distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]


class _RaisedOnAllRanksError(Exception):
    """A trial ended with an exception, of which rank zero tells the study."""
