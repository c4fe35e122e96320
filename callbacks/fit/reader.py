"""Reads the losses of a run from what its module logs, each in the epoch it belongs to, equal on all ranks."""

from contextlib import ExitStack, suppress
from math import ceil, isnan, nan
from typing import Any

import torch
from torch import Tensor

from callbacks.diagnosis.names import find_losses, find_metric, is_validation
from callbacks.fit.record import FitRecord
from callbacks.host import Fresh, Guard, few, logged, number, say
from callbacks.host.packages import LightningModule, Trainer, isolated_random_numbers
from callbacks.readers.twin import Twins, shared_state_kept

# Rows of training whose loss is evaluated in the end: as many as take 2 % of the time that the fit's took, a forward
# pass being a third of a step; and no more than tell a mean well.
FAIR_SHARE, FAIR_ROWS = 0.06, 4096


def baseline_of(module: object) -> float | None:
    """Return the module's own loss of the trivial prediction; None if it does not know it, or fails to say it."""
    return _said(module, "baseline_loss")


def reference_of(module: object) -> float | None:
    """Return the loss on the validation rows that the module says can be had; None if it does not, or fails to."""
    return _said(module, "reference_loss")


def _said(module: object, name: str) -> float | None:
    with suppress(Exception):  # a stranger's property may do anything
        return number(getattr(module, name, None))
    return None


def baselines_on(module: object, loader: object) -> dict[str, float]:
    """Return loss and metrics of the trivial prediction for the rows of a loader; empty where these cannot be told.

    The module's `baseline_on(targets)` tells them, and the loader's `dataset.y` has the targets; where its rows count
    differently, `dataset.weight` says how much, and is a second argument.
    """
    with suppress(Exception):  # as above
        dataset: Any = loader.dataset  # type: ignore[attr-defined]  # who has none, has none
        weight = getattr(dataset, "weight", None)
        about = (dataset.y,) if weight is None else (dataset.y, weight)
        found: dict[str, float] = module.baseline_on(*about)  # type: ignore[attr-defined]
        return found
    return {}


def obstacle(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Return why the loss on training rows cannot be evaluated, or None if it can."""
    if not callable(getattr(pl_module, "evaluation_loss", None)):
        return f"{type(pl_module).__name__} has no method `evaluation_loss(batch)`"
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return "the training data has no `dataset[row]` to take a fixed slice from"
    return None


def train_eval_loss(trainer: Trainer, pl_module: Any, rows: int, guard: Guard) -> float | None:
    """Evaluate the loss of `rows` training rows, evenly spaced and the same each time, in eval mode; None if it fails.

    The module's `evaluation_loss(batch)` tells the mean loss of a batch. A copy is asked, and
    copies of what reads and moves the rows: weights, metrics, counters and generators stay as they are, nothing is
    logged, and torch's, NumPy's and Python's random numbers are put back.
    """
    loader: Any = trainer.train_dataloader
    loss = None
    with guard(trainer, "evaluating the slice of training rows"), ExitStack() as stack:
        for context in (isolated_random_numbers(), torch.no_grad(), shared_state_kept(pl_module)):
            stack.enter_context(context)
        hooks = [_hook_owner(name, getattr(trainer, "datamodule", None), pl_module) for name in _TRANSFER]
        twins = Twins()
        module = twins.of(pl_module)
        dataset, collate, *hooks = twins.of([loader.dataset, loader.collate_fn, *hooks], share_large=True)
        module.log = module.log_dict = lambda *args, **kwargs: None
        batch = collate(_slice(dataset, rows))
        device = trainer.strategy.root_device
        for name, owner in zip(_TRANSFER, hooks, strict=True):
            batch = getattr(owner, name)(batch, *([device] if name == "transfer_batch_to_device" else []), 0)
        with trainer.precision_plugin.val_step_context():
            loss = float(module.eval().evaluation_loss(batch))
    return loss


def mean_of_ranks(trainer: Trainer, value: float | None) -> float | None:
    """Return the mean of a value over the ranks that have one; every rank must call this."""
    if trainer.world_size > 1:
        pair = torch.tensor([value or 0.0, float(value is not None)], dtype=torch.float64)
        pair = pair.to(trainer.strategy.root_device)
        total = trainer.strategy.reduce(pair, reduce_op="sum")
        assert isinstance(total, Tensor)
        value = float(total[0] / total[1]) if total[1] > 0 else None
    return value


def fair_train_loss(trainer: Trainer, pl_module: LightningModule, record: FitRecord, guard: Guard) -> float | None:
    """Evaluate the loss of training rows in the end, unless it was after every epoch; every rank must call this."""
    if record.has("fair_loss"):
        return next(value for value in reversed(record.curves["fair_loss"]) if value is not None)
    if trainer.fast_dev_run or obstacle(trainer, pl_module) is not None:  # type: ignore[attr-defined]  # a connector's
        return None
    rows = len(trainer.train_dataloader.dataset)  # type: ignore[union-attr]
    rows = min(FAIR_ROWS, ceil(FAIR_SHARE * trainer.current_epoch * rows))
    return mean_of_ranks(trainer, train_eval_loss(trainer, pl_module, rows, guard) if rows else None)


_TRANSFER = "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"


def _hook_owner(name: str, data: Any, pl_module: Any) -> Any:
    """Return whose hook Lightning calls: the data module's where it has one of its own."""
    home = getattr(getattr(type(data), name, None), "__module__", "core.hooks")
    return pl_module if home.endswith("core.hooks") else data


def _slice(dataset: Any, rows: int) -> Any:
    count = min(rows, len(dataset))
    indices = [i * len(dataset) // count for i in range(count)]
    gather = getattr(dataset, "__getitems__", None)
    return gather(indices) if gather else [dataset[i] for i in indices]


AUTO = "auto"
_LOSSES = "train_loss", "val_loss"


class FitReader:
    """Fills a `FitRecord` from the trainer's metrics.

    The names are those of the losses and of the metric; `train_loss` and `val_loss` stand for the losses under
    whatever names `find_losses` knows, `auto` for the first usual metric that is logged, None for none.
    """

    def __init__(self, train_loss: str, val_loss: str, metric: str | None) -> None:
        self.train_loss, self.val_loss, self.metric = train_loss, val_loss, metric
        self.record = FitRecord(names={"train_loss": train_loss, "val_loss": val_loss})
        self._fresh = Fresh()
        self.by_step = False  # the training loss is logged by the step alone
        self._sum: Tensor | float = 0.0
        self._count = 0
        self._summed = ""  # the name of what is summed
        self._outputs: Any = None  # of the latest step
        self._settled: set[str] = set()  # losses whose names are known
        self._validated = self._epoch_read = False
        self._new: dict[str, float | None] = {}  # what the latest validation logged that may be its loss
        self._others: tuple[str, ...] = ()  # that are as likely to be the validation loss
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
        total, count = state["sums"]
        self._sum, self._count = float(total), int(count)
        self.by_step = bool(state["by_step"])
        self._summed = self.record.names["train_loss"]
        self._settled = {curve for curve in _LOSSES if self.record.has(curve)}

    def _choose(self, trainer: Trainer) -> None:
        """Find the losses among what is logged; one that an epoch was read of is read on."""
        names = self.record.names
        if len(self._settled) < 2:
            asked = [names[curve] if curve in self._settled else getattr(self, curve) for curve in _LOSSES]
            found = find_losses(trainer.callback_metrics, *asked)
            names |= {c: name for c, name in zip(_LOSSES, (found.train, found.val), strict=True) if name is not None}
            self._others = found.others or self._others

    def step(self, trainer: Trainer, batch_idx: int, outputs: Any = None) -> None:
        """Add up a training loss that is logged by the step alone; no sync with the device."""
        self._outputs = outputs
        if batch_idx == 0:
            self._choose(trainer)
            self._sum, self._count, self._summed = 0.0, 0, self.record.names["train_loss"]
            self.by_step = f"{self._summed}_step" not in trainer.callback_metrics
        value = self._fresh.tensor(trainer, self._summed) if self.by_step else None
        if value is not None:
            self._sum, self._count = self._sum + value, self._count + 1
        elif batch_idx == 0:
            self.by_step = False

    def before_validation(self, trainer: Trainer) -> None:
        """Note what is there already: it is old."""
        for name in (*self._candidates(trainer), *([self.metric] if self.metric else [])):
            self._fresh.tensor(trainer, name)

    def _candidates(self, trainer: Trainer) -> list[str]:
        """Return what may turn out to be the validation loss, once the training loss of the epoch is known too."""
        if "val_loss" in self._settled or self.val_loss != "val_loss":
            return [self.record.names["val_loss"]]
        return [name for name in trainer.callback_metrics if is_validation(name)]

    def validation(self, trainer: Trainer) -> None:
        """Read a validation that has just ended; the last of an epoch stays."""
        read = {name: self._fresh.read(trainer, name) for name in self._candidates(trainer)}
        self._choose(trainer)
        self._new |= {name: value for name, value in read.items() if value is not None}
        value = read.get(self.record.names["val_loss"])
        if trainer.sanity_checking:
            self._new = {}
            if trainer.global_step == 0:
                self.record.loss_at_start = value
            return
        self._validated = True
        if value is not None:
            self.record.put("val_loss", trainer.current_epoch, value)
        if self.metric == AUTO:
            self.metric = find_metric(trainer.callback_metrics) or AUTO
        metric = self._fresh.read(trainer, self.metric) if self.metric else None
        if metric is not None:
            self.record.names["metric"] = str(self.metric)
            self.record.put("metric", trainer.current_epoch, metric)

    def epoch(self, trainer: Trainer, epoch: int) -> None:
        """Read the losses of an epoch that ends, and make all its values equal on all ranks."""
        self._epoch_read = True
        self._choose(trainer)
        names = self.record.names
        value = self._fresh.read(trainer, names["train_loss"])
        if self.by_step and self._count and self._summed == names["train_loss"]:
            value = float(self._sum) / self._count
        if value is None and self._is_lost():  # an epoch that is broken off for it logs none
            value = nan
        self._sum, self._count, self._outputs = 0.0, 0, None
        self.put(trainer, "train_loss", epoch, value)
        if not trainer.enable_validation:  # some evaluate in their training
            self._new = {names["val_loss"]: self._fresh.read(trainer, names["val_loss"])}
        self.put(trainer, "val_loss", epoch, self._new.get(names["val_loss"], self.record.at("val_loss", epoch)))
        self.put(trainer, "metric", epoch, self.record.at("metric", epoch))
        self._new = {}
        self._settled = {curve for curve in _LOSSES if self.record.has(curve)}

    def _is_lost(self) -> bool:
        """Whether the loss of the latest step is no number."""
        loss = number(self._outputs.get("loss") if isinstance(self._outputs, dict) else self._outputs)
        return loss is not None and isnan(loss)

    def late(self, trainer: Trainer, epoch: int) -> None:
        """Read a training loss that the module logged in its own `on_train_epoch_end`, which comes after ours."""
        self._choose(trainer)
        value = self._fresh.read(trainer, self.record.names["train_loss"])
        if epoch >= 0 and self.record.at("train_loss", epoch) is None:
            self.put(trainer, "train_loss", epoch, value)

    def put(self, trainer: Trainer, curve: str, epoch: int, value: float | None) -> None:
        """Record the mean of a value over the ranks that have one; every rank must call this."""
        value = mean_of_ranks(trainer, value)
        if value is not None:
            self.record.put(curve, epoch, value)

    def complain(self, trainer: Trainer, *, ended: bool = False) -> None:
        """Say once, in one line, which losses are not logged, what is, and what to do; or which of several is read."""
        if not ended and not (self._epoch_read and (self._validated or not trainer.enable_validation)):
            return
        stages = {"val_loss": "validation", "train_loss": "training"}
        missing = [curve for curve in stages if not self.record.has(curve) and curve not in self._complained]
        if missing:
            what = " and ".join(f"no {stages[c]} loss: `{getattr(self, c)}` is not logged" for c in missing)
            arguments = ", ".join(f"{curve}=NAME" for curve in missing)
            names = few(sorted(logged(trainer)), 20) or "nothing"
            advice = f"Log it with `self.log`, or FitMonitor({arguments}) reads another."
            say(trainer, f"FitMonitor finds {what}; logged: {names}. {advice}")
        elif self._others and "others" not in self._complained:
            taken, others = self.record.names["val_loss"], few(self._others)
            say(trainer, f"FitMonitor reads {taken}, not {others}; FitMonitor(val_loss=NAME) reads another.")
            missing = ["others"]
        self._complained.update(missing)
