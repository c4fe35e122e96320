"""Reads the losses of a run from what its module logs, each in the epoch it belongs to, equal on all ranks."""

from typing import Any

import torch
from torch import Tensor

from callbacks.fit.record import FitRecord
from callbacks.host import Fresh, logged, say
from callbacks.host.packages import LightningModule, Trainer, isolated_random_numbers


def obstacle(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Return why the loss on training rows cannot be evaluated, or None if it can."""
    if not callable(getattr(pl_module, "evaluation_loss", None)):
        return f"{type(pl_module).__name__} has no method `evaluation_loss(batch)`"
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return "the training data has no `dataset[row]` to take a fixed slice from"
    return None


def train_eval_loss(trainer: Trainer, pl_module: Any, rows: int) -> float:
    """Evaluate the loss of `rows` training rows, evenly spaced and the same each time, in eval mode.

    The module's `evaluation_loss(batch)` tells the mean loss of a batch without logging or changing anything. Modes and
    random numbers are put back: training goes on as if this had not been.
    """
    modes = {module: module.training for module in pl_module.modules()}
    pl_module.eval()
    try:
        with isolated_random_numbers(), torch.no_grad(), trainer.precision_plugin.val_step_context():
            batch = trainer.strategy.batch_to_device(_slice(trainer.train_dataloader, rows))
            return float(pl_module.evaluation_loss(batch))
    finally:
        for module, mode in modes.items():
            module.training = mode


def _slice(loader: Any, rows: int) -> Any:
    dataset = loader.dataset
    count = min(rows, len(dataset))
    indices = [i * len(dataset) // count for i in range(count)]
    gather = getattr(dataset, "__getitems__", None)
    return loader.collate_fn(gather(indices) if gather else [dataset[i] for i in indices])


AUTO = "auto"
USUAL = ("val_accuracy", "val_acc", "val_f1", "val_r2")  # higher is better in all of them


class FitReader:
    """Fills a `FitRecord` from the trainer's metrics.

    The names are those of the losses and of the metric, `auto` for the first usual one that is logged, or none.
    """

    def __init__(self, train_loss: str, val_loss: str, metric: str | None) -> None:
        self.train_loss, self.val_loss, self.metric = train_loss, val_loss, metric
        self.record = FitRecord(names={"train_loss": train_loss, "val_loss": val_loss})
        self._fresh = Fresh()
        self.by_step = False  # the training loss is logged by the step alone
        self._sum: Tensor | float = 0.0
        self._count = 0
        self._validated = self._epoch_read = False
        self._complained: set[str] = set()

    def state(self) -> dict[str, Any]:
        """Return the record and the sums of the epoch that is running."""
        sums = [float(self._sum), self._count]
        return {"record": self.record.state(), "sums": sums, "by_step": self.by_step}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.record = FitRecord.of(state["record"])
        if self.metric == AUTO:
            self.metric = self.record.names.get("metric", AUTO)
        self._sum, self._count = state["sums"]
        self.by_step = state["by_step"]

    def step(self, trainer: Trainer, batch_idx: int) -> None:
        """Add up a training loss that is logged by the step alone; no sync with the device."""
        if batch_idx == 0:
            self._sum, self._count = 0.0, 0
            self.by_step = f"{self.train_loss}_step" not in trainer.callback_metrics
        value = self._fresh.tensor(trainer, self.train_loss) if self.by_step else None
        if value is not None:
            self._sum, self._count = self._sum + value, self._count + 1
        elif batch_idx == 0:
            self.by_step = False

    def before_validation(self, trainer: Trainer) -> None:
        """Note what is there already: it is old."""
        for name in (self.val_loss, *([self.metric] if self.metric else [])):
            self._fresh.tensor(trainer, name)

    def validation(self, trainer: Trainer) -> None:
        """Read a validation that has just ended; the last of an epoch stays."""
        value = self._fresh.read(trainer, self.val_loss)
        if trainer.sanity_checking:
            if trainer.global_step == 0:
                self.record.loss_at_start = value
            return
        self._validated = True
        if value is not None:
            self.record.put("val_loss", trainer.current_epoch, value)
        if self.metric == AUTO:
            self.metric = next((name for name in USUAL if name in trainer.callback_metrics), AUTO)
        metric = self._fresh.read(trainer, self.metric) if self.metric else None
        if metric is not None:
            self.record.names["metric"] = str(self.metric)
            self.record.put("metric", trainer.current_epoch, metric)

    def epoch(self, trainer: Trainer, epoch: int) -> None:
        """Read the training loss of an epoch that ends, and make all its values equal on all ranks."""
        self._epoch_read = True
        value = self._fresh.read(trainer, self.train_loss)
        if self.by_step and self._count:
            value = float(self._sum) / self._count
        self._sum, self._count = 0.0, 0
        self.put(trainer, "train_loss", epoch, value)
        for curve in ("val_loss", "metric"):
            self.put(trainer, curve, epoch, self.record.at(curve, epoch))

    def late(self, trainer: Trainer, epoch: int) -> None:
        """Read a training loss that the module logged in its own `on_train_epoch_end`, which comes after ours."""
        value = self._fresh.read(trainer, self.train_loss)
        if epoch >= 0 and self.record.at("train_loss", epoch) is None:
            self.put(trainer, "train_loss", epoch, value)

    def put(self, trainer: Trainer, curve: str, epoch: int, value: float | None) -> None:
        """Record the mean of a value over the ranks that have one; every rank must call this."""
        if trainer.world_size > 1:
            pair = torch.tensor([value or 0.0, float(value is not None)], dtype=torch.float64)
            pair = pair.to(trainer.strategy.root_device)
            total = trainer.strategy.reduce(pair, reduce_op="sum")
            assert isinstance(total, Tensor)
            value = float(total[0] / total[1]) if total[1] > 0 else None
        if value is not None:
            self.record.put(curve, epoch, value)

    def complain(self, trainer: Trainer, *, ended: bool = False) -> None:
        """Say once, in one line each, which loss is not logged, and what is."""
        if ended or (self._epoch_read and (self._validated or not trainer.enable_validation)):
            self._missing(trainer, "val_loss", self.val_loss)
        if ended or self._epoch_read:
            self._missing(trainer, "train_loss", self.train_loss)

    def _missing(self, trainer: Trainer, argument: str, name: str) -> None:
        if self.record.has(argument) or argument in self._complained:
            return
        self._complained.add(argument)
        names = ", ".join(sorted(logged(trainer))) or "nothing"
        what = f"no {'validation' if argument == 'val_loss' else 'training'} loss: `{name}` is not logged"
        say(trainer, f"FitMonitor finds {what}; logged: {names}. FitMonitor({argument}=NAME) reads another.")
