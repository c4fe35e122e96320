"""`MLPModule`: what training an MLP with SGD has in common, whatever it predicts."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_mods.fused.chain_rule import ChainRule, LossRule
from lightning_mods.fused.group import RATES, Rates, TrialGroup, worth_together
from lightning_mods.fused.group_ops import group_loss
from lightning_mods.fused.limits import BATCH_HOOKS
from lightning_mods.fused.overhead import known
from lightning_mods.fused.steps import FastSteps, Sums, opened, sums_with
from lightning_mods.models.metrics import scores_one_by_one
from lightning_mods.models.mlp import MLP, Activation, check_sgd


def mixed(seed: int, value: int) -> int:
    """A 63-bit seed from a seed and a number (splitmix64's finaliser: neighbours come out unrelated)."""
    z = (seed * 0x9E3779B97F4A7C15 + value + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) % 2**63


Batch = tuple[Tensor, Tensor]
Stage = Literal["val", "test"]


class MLPModule(LightningModule, ABC):
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
        lr: Learning rate of SGD, above 0.
        momentum: Momentum of SGD, in [0, 1).
        weight_decay: L2 penalty of SGD, at least 0.
        nesterov: Nesterov's momentum; needs a momentum above 0.

    Attributes:
        steps_per_execution: Mini-batches from one that passes through Lightning's loop and all its hooks to the next;
            the others are trained in between, with the same numbers. `auto`: as many as nobody has to see.
        losses: Sums over the epoch so far of the losses and of what they weigh.

    Raises:
        ValueError: A number outside its range, with the range and what came.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden_sizes: Sequence[int],
        activation: Activation,
        dropout: float,
        lr: float,
        momentum: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None:
        super().__init__()
        check_sgd(lr, momentum, weight_decay, nesterov)
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.nesterov = nesterov
        self.dropout = dropout
        self.network = MLP(in_features, out_features, hidden_sizes=hidden_sizes, activation=activation, dropout=dropout)
        self.stage_metrics = nn.ModuleDict(
            {f"{stage}_metrics": nn.ModuleDict(self.metrics()) for stage in ("val", "test")}
        )
        self.example_input_array = torch.zeros(1, in_features)
        self._seed: int | None = None
        self._epoch_lr: float | None = None
        self.losses: Sums = (0.0, 0.0)
        self.steps_per_execution: int | Literal["auto"] = "auto"
        self._fast_steps: FastSteps | None = None

    @abstractmethod
    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean loss of the network's outputs `[B, out_features]` against the targets `[B]`, a scalar to minimise."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """What the outputs `[B, out_features]` mean to a person: probabilities `[B, C]` or numbers `[B]`."""

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """A fresh set of torchmetrics by name, updated with `(predictions, y)`.

        One that computes a dict gives several metrics, by the names in it.
        """

    @property
    @abstractmethod
    def metric_names(self) -> Sequence[str]:
        """The names of all metrics, as they are logged behind the stage."""

    @property
    @abstractmethod
    def baseline_loss(self) -> float | None:
        """Loss, in the units that are logged, of the best constant prediction on the training rows."""

    def loss_weight(self, y: Tensor) -> Tensor | int:
        """How much a batch's mean loss counts in the epoch's mean: its number of rows."""
        return len(y)

    def logged_loss(self, loss: Tensor) -> Tensor:
        """The loss in the units in which it is logged."""
        return loss

    def evaluation_loss(self, batch: Batch) -> Tensor:
        """Mean loss of a batch as it is logged; logs and changes nothing."""
        return self.logged_loss(self.loss(self.network(batch[0]), batch[1]))

    def forward(self, x: Tensor) -> Tensor:
        """Predict rows `[B, in_features]`: class probabilities `[B, C]`, or numbers `[B]` in the target's units."""
        return self.predictions(self.network(x))

    def __setattr__(self, name: str, value: Any) -> None:
        """Put a word where one is at once: torch looks among parameters first, at every hook, as Lightning notes it."""
        if (value is None or isinstance(value, str)) and name in self.__dict__:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    # ------------------------------------------------------------------ steps

    @known
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One mini-batch: its mean loss."""
        x, y = batch
        self.begin_batch(batch_idx)
        loss = self.loss_of(x, y)
        self.losses = self.add_loss(self.losses, loss.detach(), y)
        if self._fast_steps is not None and batch_idx + 1 == self.trainer.num_training_batches:
            # Lightning knows the last batch by counting those it was handed.
            self.trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = True
        if self.trainer.is_last_batch:
            self._log_mean_loss()
        return loss

    @known
    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Nothing to do."""

    @known
    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Nothing to do."""

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Nothing where no gradient is left, as after each validation."""
        own = "zero_grad" in vars(optimizer) or type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad
        if own or any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def _log_mean_loss(self) -> None:
        """Once an epoch: a `self.log` in each step would cost more than the step."""
        mean = self.logged_loss(torch.as_tensor(self.losses[0] / self.losses[1]))
        if self.trainer.world_size > 1:
            self.log("train_loss", mean, on_step=False, on_epoch=True, logger=False, sync_dist=True)
        else:
            self.trainer.callback_metrics["train_loss"] = mean.detach()

    @known
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch of the validation set."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch of the test set."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Tensor | Batch, batch_idx: int) -> Tensor:
        """Predict a batch of rows; targets that come along are ignored."""
        out: Tensor = self(batch if isinstance(batch, Tensor) else batch[0])
        return out

    def _evaluate(self, batch: Batch, stage: Stage) -> None:
        x, y = batch
        outputs = self.network(x)
        sums = self._eval_sums
        weight = self.loss_weight(y)
        sums[0] += self.loss(outputs, y) * weight
        sums[1] += weight
        predictions = self.predictions(outputs)
        for metric in self._metrics_of(stage).values():
            metric.update(predictions, y)

    def _metrics_of(self, stage: Stage) -> dict[str, Metric]:
        return dict(self.stage_metrics[f"{stage}_metrics"].items())  # type: ignore[operator]

    # ------------------------------------------------------------------ steps that Lightning's loop does not see

    def loss_rule(self) -> LossRule | None:
        """The loss with its derivative written out; None where autograd has to find it."""
        return None

    def chain_rule(self) -> ChainRule | None:
        """A training step written out, if it is the one of this class and has nothing that is not known."""
        own = ("training_step", "optimizer_step", "backward", "loss_of", "begin_batch", "add_loss", "chain_rule")
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
        """Some of the metrics for many trials, as they are logged for one.

        Args:
            predictions: Of each batch, `[T, B, ...]`.
            targets: Of each batch, `[B]`.
            names: Which ones, of `metric_names`.

        Returns:
            Name to `[T]`.
        """
        return scores_one_by_one(self.metrics(), predictions, targets, names)

    def trials_at_once(self, rows: int) -> int:
        """How many trials to put into a `trial_group`, with mini-batches of so many rows; 0 for none."""
        return worth_together([parameter.shape for parameter in self.network.parameters()], rows)

    def trial_group(self, rates: Sequence[Mapping[str, float]], **how: Any) -> "TrialGroup | None":
        """Fits from the weights as they are that differ in lr, momentum, weight_decay or dropout, trained together.

        Args:
            rates: For each fit, what differs from the module's own, by name.
            **how: As for `TrialGroup`; `seed` is that of the run, for the dropout.

        Returns:
            The group; None if the module trains in a way that is not known.
        """
        rule = self.loss_rule()
        own = type(self).configure_optimizers is MLPModule.configure_optimizers
        plain = own and "configure_optimizers" not in vars(self)  # where a command line puts an optimizer of its own
        # A subclass of somebody's may have hooks, which a group would not call.
        ours = type(self).__module__.startswith(f"{__package__}.")
        # On the CPU only: each trial there is, to the last bit, what it would be alone.
        if rule is None or not ours or not plain or self.chain_rule() is None or self.device.type != "cpu":
            return None
        mine = {name: getattr(self, name) for name in RATES}
        seed = mixed(how.pop("seed"), 0)  # of rank zero
        return TrialGroup(
            self,
            self.network.layers,
            group_loss(rule),
            [Rates(**{**mine, **each}) for each in rates],
            seed_of=lambda epoch, batch: mixed(mixed(seed, epoch), batch),
            **how,
        )

    def loss_of(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a mini-batch, to minimise."""
        return self.loss(self.network(x), y)

    def begin_batch(self, batch_idx: int) -> None:
        """Draw dropout from a seed that is the mini-batch's own."""
        if self.dropout > 0 and self._seed is not None:
            seed = mixed(mixed(self._seed, self.global_rank), self.current_epoch)
            torch.manual_seed(mixed(seed, batch_idx))

    def add_loss(self, sums: Sums, loss: Tensor, y: Tensor) -> Sums:
        """The sums over the epoch with one mini-batch more."""
        weight = self.loss_weight(y)
        return sums[0] + loss * weight, sums[1] + weight

    def add_losses(self, sums: Sums, losses: Tensor, targets: Sequence[Tensor]) -> Sums:
        """The sums over the epoch with some mini-batches more, to the bit as if `add_loss` had added one by one."""
        weights = [self.loss_weight(y) for y in targets]
        if (added := sums_with(sums, losses, weights)) is not None:
            return added
        for loss, y in zip(losses, targets, strict=True):
            sums = self.add_loss(sums, loss, y)
        return sums

    # ------------------------------------------------------------------ epochs

    def on_train_start(self) -> None:
        """Note the learning rate: a run resumed in the middle of an epoch sees no epoch start."""
        self._note_lr()
        self._fast_steps = None  # a fit that raised tears down neither its module nor its loader
        self._fast_steps = opened(self.trainer, self, learner=self, most=self.steps_per_execution)

    def on_train_epoch_start(self) -> None:
        """Note the learning rate the epoch begins with; at its end the scheduler has stepped already."""
        self._note_lr()

    def _note_lr(self) -> None:
        optimizers = self.trainer.optimizers
        self._epoch_lr = float(optimizers[0].param_groups[0]["lr"]) if optimizers else None

    def on_train_epoch_end(self) -> None:
        """Write the epoch's training loss and learning rate, and start the next epoch's sums."""
        logged = self.trainer.callback_metrics
        row = {} if self._epoch_lr is None else {"lr": self._epoch_lr}
        if "train_loss" in logged:
            row["train_loss"] = float(logged["train_loss"])
        self._write(row)
        self._reset_sums()

    def on_validation_epoch_start(self) -> None:
        """Start the validation sums."""
        self._eval_sums = torch.zeros(2, device=self.device)

    def on_test_epoch_start(self) -> None:
        """Start the test sums."""
        self._eval_sums = torch.zeros(2, device=self.device)

    def on_validation_epoch_end(self) -> None:
        """Log the validation loss and metrics, equal on all ranks."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Log the test loss and metrics, equal on all ranks."""
        self._finish("test")

    def _finish(self, stage: Stage) -> None:
        total = self.trainer.strategy.reduce(self._eval_sums, reduce_op="sum")
        assert isinstance(total, Tensor)
        row = {f"{stage}_loss": self.logged_loss(total[0] / total[1])}
        for name, metric in self._metrics_of(stage).items():
            found = metric.compute()
            for key, value in found.items() if isinstance(found, dict) else [(name, found)]:
                row[f"{stage}_{key}"] = value
            metric.reset()
        # Ranks agree already (reduced above, torchmetrics syncs in compute).
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.log_dict(row, sync_dist=False)
            return
        # `self.log` would put them there too, and take as long as some training steps for it.
        self.trainer.callback_metrics.update(row)
        if not self.trainer.sanity_checking:
            self._write({name: float(value) for name, value in row.items()})

    def _write(self, row: dict[str, float]) -> None:
        epoch = self.current_epoch
        for logger in self.loggers:
            logger.log_metrics({**row, "epoch": float(epoch)}, step=epoch)

    # ------------------------------------------------------------------ state

    def _reset_sums(self) -> None:
        self.losses = (0.0, 0.0)

    def on_fit_start(self) -> None:
        """Remember the run's seed before dropout reseeds the generator; a resumed run brings its own."""
        if self._seed is None:
            self._seed = torch.initial_seed()

    def on_fit_end(self) -> None:
        """Let the next fit of this module draw from the seed of its own time."""
        self._seed = None

    def teardown(self, stage: str) -> None:
        """Let go of the loader."""
        if self._fast_steps is not None:
            self._fast_steps.close()
            self._fast_steps = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the seed of the dropout, and the sums of an epoch that a checkpoint cuts in two."""
        sums = [float(each) for each in self.losses]
        checkpoint["mlp_module"] = {"train_loss_sums": sums, "seed": self._seed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the seed of the dropout, and the sums of an epoch that a checkpoint cut in two."""
        kept = checkpoint.get("mlp_module", {"train_loss_sums": (0.0, 0.0), "seed": None})
        self.losses = tuple(kept["train_loss_sums"])
        self._seed = kept["seed"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with the model's lr, momentum, weight_decay and nesterov."""
        return torch.optim.SGD(
            self.parameters(), self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )
