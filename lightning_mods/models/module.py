"""`MLPModule`: what training an MLP with SGD has in common, whatever it predicts."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

import lightning_mods
from callbacks.host.packages import kinds
from lightning_mods.models.average import WeightAverage, taken_out
from lightning_mods.models.evaluated import Batch, EvaluatedModule, write
from lightning_mods.models.fused.chain_rule import ChainRule, LossRule
from lightning_mods.models.fused.group import TrialGroup, worth_together
from lightning_mods.models.fused.lightning_internals import mark_last_batch
from lightning_mods.models.fused.limits import BATCH_HOOKS
from lightning_mods.models.fused.schedules import step_schedule
from lightning_mods.models.fused.steps import (
    FastSteps,
    LossSums,
    add_loss,
    clip_of,
    mixed_seed,
    open_fast_steps,
    seed_batch,
)
from lightning_mods.models.metrics import scores_one_by_one
from lightning_mods.models.mlp import MLP, Activation, Schedule, check_course, check_sgd
from lightning_mods.models.schedule import CosineSchedule, TimeLimit

if TYPE_CHECKING:
    from callbacks.tuning.ensembles import GreedyEnsemble, KeptFit

_OF_SGD = ("lr", "momentum", "weight_decay", "nesterov", "lr_schedule")  # which another optimizer does without


class MLPModule(EvaluatedModule):
    """An MLP trained with stochastic gradient descent. Leaves say what the loss and the metrics are.

    The training loss is summed on the device and logged once an epoch, without a host sync in a step.
    What goes to the loggers goes there over the epoch, so that runs with different batch sizes line up.
    Dropout draws from a seed that is a function of (global seed, rank, epoch, batch): a resumed run draws what
    the uninterrupted one would have.

    Args:
        in_features: Width of the input rows.
        out_features: Width of the network's output.
        hidden_sizes: Widths of the hidden layers, first to last; empty for a linear model.
        activation: relu, leaky_relu, elu, gelu, silu, tanh, sigmoid or identity.
        dropout: Probability that a hidden unit is zeroed in training, in [0, 1).
        input_scaling: Whether to learn how much each input feature counts, see `ScaledLinear`.
        lr: Learning rate of SGD, above 0.
        momentum: Momentum of SGD, in [0, 1).
        weight_decay: L2 penalty of SGD, at least 0.
        nesterov: Nesterov's momentum; needs a momentum above 0.
        lr_schedule: `constant`, or `cosine`: the learning rate falls to zero over the fit, see `CosineSchedule`.
        ema_epochs: Epochs that the exponential moving average of the weights looks back over, see `WeightAverage`;
            0 for none. The averages are what is validated, kept and used to predict.

    Attributes:
        steps_per_execution: Mini-batches from one that passes through Lightning's loop and all its hooks to the next;
            the others are trained in between, with the same numbers. `auto`: as many as nobody has to see, on a CPU;
            `graph`: likewise on a GPU, by a CUDA graph.
        losses: Sums over the epoch so far: of the losses, each times its weight, and of the weights.
        average: The average of the weights, while a fit has one.
        metric_names: The names of all metrics, as they are logged behind the stage.
        reference_loss: Loss of another model, trained on the same rows, on the validation rows; None if there is none.

    Raises:
        ValueError: A number outside its range, with the range and what came.
    """

    metric_names: ClassVar[Sequence[str]]
    reference_loss: float | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden_sizes: Sequence[int],
        activation: Activation,
        dropout: float,
        input_scaling: bool,
        lr: float,
        momentum: float,
        weight_decay: float,
        nesterov: bool,
        lr_schedule: Schedule,
        ema_epochs: float,
    ) -> None:
        super().__init__()
        check_sgd(lr, momentum, weight_decay, nesterov)
        check_course(lr_schedule, ema_epochs)
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.nesterov = nesterov
        self.lr_schedule = lr_schedule
        self.ema_epochs = ema_epochs
        self.dropout = dropout
        self.network = MLP(
            in_features,
            out_features,
            hidden_sizes=hidden_sizes,
            activation=activation,
            dropout=dropout,
            input_scaling=input_scaling,
        )
        self.stage_metrics = nn.ModuleDict(
            {f"{stage}_metrics": nn.ModuleDict(self.metrics()) for stage in ("val", "test")}
        )
        self.example_input_array = torch.zeros(1, in_features)
        self.uncertainty = {}
        self._seed: int | None = None
        self._epoch_lr: float | None = None
        self.losses: LossSums = (0.0, 0.0)
        self.average: WeightAverage | None = None
        self._kept_average: tuple[int, dict[str, Tensor]] | None = None
        self._time_limit: TimeLimit | None = None
        self.steps_per_execution: int | Literal["auto", "graph"] = "auto"
        self._fast_steps: FastSteps | None = None

    @property
    @abstractmethod
    def baseline_loss(self) -> float | None:
        """Loss, in the units that are logged, of the best constant prediction on the training rows."""

    @property
    def resolved_hparams(self) -> dict[str, Any]:
        """Return the hyperparameters that count: not those of SGD where the module was given another optimizer."""
        return in_use(self, self.hparams)

    # ------------------------------------------------------------------ predictions of others

    @property
    def class_weights(self) -> NDArray[np.float64] | None:
        """Return the weight of each class in the loss, shape (classes,); None where amounts are predicted."""
        return None

    @property
    def constants(self) -> tuple[Tensor, Tensor] | None:
        """Return the constant predictions of a row that suit the training rows best: by the loss, and by the metrics.

        None where the training rows are not known.
        """
        return None

    def outputs_of(self, predictions: Tensor) -> Any:
        """Return the outputs of a network that would make these `predictions`."""
        raise NotImplementedError

    def scores_of(self, predictions: Tensor, y: Tensor, weight: Tensor | None = None) -> dict[str, float]:
        """Return loss and metrics, as they are logged, of others' predictions for targets `[B]`, on this rank alone."""
        predictions, y = predictions.to(self.device), y.to(self.device)
        weight = None if weight is None else weight.to(self.device)
        scores = {"loss": float(self.logged_loss(self.mean_loss(self.outputs_of(predictions), y, weight)))}
        for name, metric in self.metrics().items():
            metric.distributed_available_fn = lambda: False
            metric.to(self.device).update(predictions.float(), y)
            found = metric.compute()
            found = found if isinstance(found, dict) else {name: found}
            scores |= {key: float(value) for key, value in found.items()}
        return scores

    def baseline_on(self, y: Tensor, weight: Tensor | None = None) -> dict[str, float]:
        """Return loss and metrics of the trivial prediction for targets `[B]`; empty where it is not known."""
        if self.constants is None or not len(y):
            return {}
        for_loss, for_metrics = (self.scores_of(each.expand(len(y), *each.shape), y, weight) for each in self.constants)
        return for_metrics | {name: for_loss[name] for name in ("loss", "ensemble_loss") if name in for_loss}

    def training_settings(self) -> dict[str, Any]:
        """Return what a verdict weighs and no optimizer tells, by the names in `callbacks.diagnosis.evidence`."""
        layers = [parameter.shape for parameter in self.network.parameters() if parameter.ndim == 2]
        return {
            "dropout": self.dropout,
            "hidden_sizes": [outputs for outputs, _ in layers[:-1]],
            "ema_epochs": self.ema_epochs,
            "members": 1,
            "in_features": layers[0][1],
            "classes": getattr(self, "num_classes", 0),
        }

    # ------------------------------------------------------------------ steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of a mini-batch."""
        x, y, *weight = batch
        trainer = self.trainer
        if self._time_limit is not None:
            self._time_limit.keep(trainer.strategy.broadcast)
        seed_batch(self, self._seed, batch_idx)
        loss = self.mean_loss(self.network(x), y, *weight)
        self.losses = add_loss(self.losses, loss.detach(), self.loss_weight(y, *weight))
        if self._fast_steps is not None and batch_idx + 1 == trainer.num_training_batches:
            mark_last_batch(trainer)
        if trainer.is_last_batch:  # a `self.log` in each step would cost more than the step
            mean = self.logged_loss(torch.as_tensor(self.losses[0] / self.losses[1]))
            if trainer.world_size > 1:
                self.log("train_loss", mean, on_step=False, on_epoch=True, logger=False, sync_dist=True)
            else:
                trainer.callback_metrics["train_loss"] = mean.detach()
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the step, and let the average follow."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update()

    # ------------------------------------------------------------------ steps that Lightning's loop does not see

    def loss_rule(self) -> LossRule | None:
        """Return the loss with its derivative written out; None where autograd has to find it."""
        return None

    def chain_rule(self) -> ChainRule | None:
        """Return a training step written out, if it is the one of this class and has nothing that is not known."""
        own = ("training_step", "optimizer_step", "lr_scheduler_step", "backward", "chain_rule")
        transfers = ("on_before_batch_transfer", "on_after_batch_transfer", "transfer_batch_to_device")
        kept = (*own, *BATCH_HOOKS, *transfers, "optimizer_zero_grad", "configure_gradient_clipping")
        if any(getattr(type(self), name) is not getattr(MLPModule, name) for name in kept):
            return None
        rule = self.loss_rule()
        plain = rule is not None and type(self.network) is MLP and not (self.dropout and self.device.type != "cpu")
        return ChainRule.of(self.network.layers, rule) if rule is not None and plain else None

    def scores(
        self, predictions: Sequence[Tensor], targets: Sequence[Tensor], names: Sequence[str]
    ) -> dict[str, Tensor]:
        """Return some of `metric_names`, `[T]` each, from each batch's predictions `[T, B, ...]` and targets `[B]`."""
        return scores_one_by_one(self.metrics(), predictions, targets, names)

    def greedy_ensemble(self, fits: "Sequence[KeptFit]", batches: Sequence[Batch]) -> "GreedyEnsemble":
        """Pick an ensemble by the loss on validation batches among fits that differ in `values`, the best first."""
        return lightning_mods.MLPEnsemble.pick(self, fits, batches)

    def trials_at_once(self, rows: int) -> int:
        """Return how many trials to put into a `trial_group`, with mini-batches of so many rows; 0 for none."""
        return worth_together([parameter.shape for parameter in self.network.parameters()], rows)

    def trial_group(
        self,
        rates: Sequence[Mapping[str, float]],
        *,
        seed: int,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
        optimizers: Sequence[tuple[Optimizer, Any]] | None = None,
        **how: Any,
    ) -> TrialGroup | None:
        """Make a group of fits from the weights as they are, trained together; None if the way to train is not known.

        `rates` has for each fit the lr, momentum, weight_decay or dropout that differs from the module's own; `seed` is
        that of the run, for the dropout; the clipping is that of a `Trainer`, and `how` as for `TrialGroup`. Fits whose
        optimizers are not the module's own come with those and their schedules by the epoch, see `OwnOptimizers`.

        Raises:
            ValueError: The optimizers are not of one known kind, or differ in more than rates.
        """
        rule = self.loss_rule()
        # A subclass of somebody's may have hooks, which a group would not call.
        ours = type(self).__module__.startswith(f"{__package__}.")
        # On the CPU only: each trial there is, to the last bit, what it would be alone.
        plain = (_makes_own_optimizer(self) or optimizers is not None) and self.chain_rule() is not None
        known = ours and plain and not getattr(how["train"], "is_weighted", False)
        if rule is None or not known or self.device.type != "cpu":
            return None
        clip = clip_of(gradient_clip_val, gradient_clip_algorithm)
        how |= {"seed": mixed_seed(seed, 0), "clip": clip, "optimizers": optimizers}  # 0: of rank zero
        return TrialGroup(self, rule, rates, **how)

    # ------------------------------------------------------------------ epochs

    def on_train_start(self) -> None:
        """Remember the run's seed, unless it was resumed, before dropout reseeds the generator; open the fast steps."""
        if self._seed is None:
            self._seed = torch.initial_seed()
        trainer, found = self.trainer, step_schedule(self.trainer)
        schedule = found if isinstance(found, CosineSchedule) else None
        if self.ema_epochs:
            steps = trainer.num_training_batches / trainer.accumulate_grad_batches
            parameters = {f"network.{name}": each for name, each in self.network.named_parameters()}
            self.average = WeightAverage(parameters, self.ema_epochs * steps, self._kept_average)
        self._kept_average = None
        timers = [c for c in trainer.callbacks if isinstance(c, kinds(".callbacks.Timer"))]  # type: ignore[attr-defined]
        if schedule is not None:
            schedule.plan(trainer.estimated_stepping_batches)
        self._time_limit = TimeLimit(schedule, timers[0]) if schedule and timers else None
        self._fast_steps = None  # a fit that raised tears down neither its module nor its loader
        begin = partial(seed_batch, self, self._seed)
        self._fast_steps = open_fast_steps(trainer, self, most=self.steps_per_execution, begin_batch=begin)

    def on_train_epoch_start(self) -> None:
        """Note the learning rate of the epoch's first step."""
        optimizers = self.trainer.optimizers
        if self._epoch_lr is None and optimizers:  # it is known already in an epoch that was resumed
            self._epoch_lr = float(optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self) -> None:
        """Write the epoch's training loss and learning rate, and start the next epoch's sums."""
        logged = self.trainer.callback_metrics
        row = {} if self._epoch_lr is None else {"lr": self._epoch_lr}
        if "train_loss" in logged:
            row["train_loss"] = float(logged["train_loss"])
        write(self, row)
        self.losses = (0.0, 0.0)
        self._epoch_lr = None

    def on_train_end(self) -> None:
        """Leave the average as the fitted weights."""
        if self.average is not None:
            self.average.show(True)

    # ------------------------------------------------------------------ state

    def teardown(self, stage: str) -> None:
        """Let go of the loader, and let the next fit of this module draw from the seed of its own time."""
        if stage == "fit":
            self._seed = self._epoch_lr = self.average = None
        if self._fast_steps is not None:
            self._fast_steps.close()
            self._fast_steps = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the averages as the weights, those in training beside them, and what a resumed epoch needs."""
        kept: dict[str, Any] = {"seed": self._seed, "train_loss_sums": [float(each) for each in self.losses]}
        if self._epoch_lr is not None:
            kept["lr"] = self._epoch_lr
        if self.average is not None:
            kept["average"] = self.average.put_into(checkpoint["state_dict"])
        if self.uncertainty:
            kept["uncertainty"] = self.uncertainty
        checkpoint["mlp_module"] = kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what `on_save_checkpoint` kept; a fit goes on with the weights in training."""
        kept = checkpoint.get("mlp_module", {"train_loss_sums": (0.0, 0.0), "seed": None})
        total, weight = kept["train_loss_sums"]
        self.losses = (float(total), float(weight))
        self._seed = None if kept["seed"] is None else int(kept["seed"])
        self._epoch_lr = None if kept.get("lr") is None else float(kept["lr"])
        goes_on = self._trainer is not None and self.trainer.state.fn == "fit"
        self.uncertainty = {} if goes_on else dict(kept.get("uncertainty", {}))  # it is of the weights as they are
        if "average" in kept and goes_on:
            checkpoint["state_dict"] = dict(checkpoint["state_dict"])
            self._kept_average = taken_out(checkpoint["state_dict"], kept["average"])

    def configure_optimizers(self) -> Any:
        """Make SGD with the model's lr, momentum, weight_decay and nesterov, and its schedule."""
        sgd = torch.optim.SGD(
            self.parameters(), self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )
        if self.lr_schedule == "constant":
            return sgd
        # Its plan is made when training starts: to ask for the number of steps now would spoil a resumed epoch's order.
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": CosineSchedule(sgd), "interval": "step"}}


def in_use(module: MLPModule, hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return those hyperparameters that count in a fit of the module."""
    return {name: value for name, value in hparams.items() if _makes_own_optimizer(module) or name not in _OF_SGD}


def _makes_own_optimizer(module: MLPModule) -> bool:
    # A subclass may make another one, and a command line puts its own in place of the method.
    own = type(module).configure_optimizers is MLPModule.configure_optimizers
    return own and "configure_optimizers" not in vars(module)
