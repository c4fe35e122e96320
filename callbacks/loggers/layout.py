"""`TensorBoardLayout`: makes TensorBoard, and what else a run is looked at with, show it as a person wants."""

from collections.abc import Mapping, Sequence
from typing import Any

from callbacks.diagnosis.names import TEST, VAL, find_losses, is_validation, logged_as, unstaged
from callbacks.host import Guard, NamedByPlace, logged, number
from callbacks.host.packages import Callback, LightningModule, Trainer
from callbacks.loggers import dispatch

_LONG = 8  # more layers than a person compares by eye
_OF_OPTIMIZER = ("momentum", "weight_decay", "nesterov")


class TensorBoardLayout(NamedByPlace, Callback):
    """Both losses on one chart, and the hyperparameters with the results of the best epoch.

    The Custom Scalars tab gets a chart with training and validation loss, and one with each validation metric. The
    HParams tab gets the module's and the data module's hyperparameters with `hp/val_…` (the epoch in which
    `monitor` was best) and `hp/test_…`. Other loggers get the results, the hyperparameters and the configuration in
    their own manner; without a logger they are files in the root folder.

    Args:
        monitor: Name of the logged metric that tells which epoch is best; `val_loss` also finds a validation loss of
            another name. A NaN is never best.
        mode: `min` or `max`.
        config: Text of the run's configuration for the Text tab, or none.

    Raises:
        ValueError: `mode` is neither `min` nor `max`.
    """

    def __init__(self, monitor: str = "val_loss", *, mode: str = "min", config: str | None = None) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be `min` or `max`, not {mode!r}.")
        self.monitor, self.mode, self.config = monitor, mode, config
        self._best: float | None = None
        self._described = self._validated = False
        self._guard = Guard("TensorBoardLayout")

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best value of a checkpoint."""
        self._best = None if state_dict["best"] is None else float(state_dict["best"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take its place among others of its class."""
        self.take_place(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lay out the loss chart and write the configuration."""
        self._described = self._validated = False
        if self.config:
            with self._guard(trainer, "writing the configuration"):
                dispatch.write_text(trainer, "settings", self.config, 0)  # TensorBoard sorts: the verdict comes first

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results of the epoch if it is the best so far."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._validated = True
        results = {name: value for name, value in logged(trainer).items() if is_validation(name)}
        monitor = logged_as(self.monitor, results)
        if monitor in results and self._improves(results[monitor]):
            self._best = results[monitor]
            self._write_results(trainer, results)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Describe the run by what was logged in its first epoch with a validation."""
        if self._validated and not self._described:
            self._described = True
            self._describe(trainer, pl_module, sorted(filter(is_validation, logged(trainer))))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the test results beside those of the best epoch."""
        found = logged(trainer)
        self._write_results(trainer, {f"test_{short}": found[name] for short, name in unstaged(found, TEST).items()})

    def _improves(self, value: float) -> bool:
        if self._best is None or value != value:
            return value == value
        return value < self._best if self.mode == "min" else value > self._best

    def _describe(self, trainer: Trainer, pl_module: LightningModule, names: list[str]) -> None:
        every = logged(trainer)
        found = find_losses(every)
        train, val = found.train or "train_loss", found.val or "val_loss"
        losses = {"loss": [f"{name}_epoch" if f"{name}_epoch" in every else name for name in (train, val)]}
        others = {short: [name] for short, name in unstaged(names, VAL).items() if name != val}
        results = [f"hp/{name}" for name in names] + [f"hp/test_{short}" for short in unstaged(names, VAL)]
        with self._guard(trainer, "describing the run"):
            dispatch.write_charts(trainer, {"Fit": losses, "Metrics": others})
            dispatch.write_hyperparameters(trainer, _hyperparameters(trainer, pl_module), results)

    def _write_results(self, trainer: Trainer, results: dict[str, float]) -> None:
        tagged = {f"hp/{name}": value for name, value in results.items()}
        if tagged:
            with self._guard(trainer, "writing the results"):
                dispatch.write_scalars(trainer, tagged, trainer.current_epoch)


def _hyperparameters(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Both sets of hyperparameters as they are now, not as they were before a search, and what the optimizer has.

    A module or data module says in `resolved_hparams` what became of such values as "auto". What was left open says
    nothing, and a long list is a fact about the data rather than a setting.
    """
    data = getattr(trainer, "datamodule", None)
    found = {**_resolved(data), **_resolved(pl_module), **_of_optimizer(trainer)}
    return {name: value for name, value in found.items() if value is not None and not _is_long(value)}


def _resolved(module: Any) -> dict[str, Any]:
    found = getattr(module, "resolved_hparams", None)
    return dict(found if isinstance(found, Mapping) else getattr(module, "hparams", {}))


def _of_optimizer(trainer: Trainer) -> dict[str, Any]:
    if len(trainer.optimizers) != 1:
        return {}
    optimizer = trainer.optimizers[0]
    group = optimizer.param_groups[0]
    found = {"lr": group.get("initial_lr", group.get("lr")), **{name: group.get(name) for name in _OF_OPTIMIZER}}
    return {"optimizer": type(optimizer).__name__} | {name: number(value) for name, value in found.items()}


def _is_long(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > _LONG
