"""What a fit knows beside its curves: the evidence that a verdict weighs, with None for whatever is missing.

Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """How a network is trained, as far as its module and trainer tell; None where they do not."""

    optimizer: str | None = None  # `sgd` or `adam`, the latter also for AdamW
    lr: float | None = None  # at the start of the fit
    momentum: float | None = None
    weight_decay: float | None = None
    dropout: float | None = None
    hidden_sizes: tuple[int, ...] | None = None
    batch_size: int | None = None
    max_epochs: int | None = None  # that were planned
    lr_schedule: str | None = None  # `constant`, `cosine`, or `other`
    ema_epochs: float | None = None  # horizon of the averaged weights; 0 for none
    clip: float | None = None  # norm that gradients are clipped to; 0 for none
    members: int | None = None  # of an ensemble; 1 for a single network
    train_rows: int | None = None
    in_features: int | None = None
    classes: int | None = None  # 0 for a regression


@dataclass(frozen=True)
class Evidence:
    """What is known of a fit beside its curves, in the units of its losses."""

    reference_loss: float | None = None  # of another model, trained on the same rows, on the validation rows
    baseline_metric: float | None = None  # the trivial prediction's, of the metric that the fit is watched by
    fair_train_loss: float | None = None  # of training rows in eval mode, with the weights at the end
    val_rows: int | None = None
    val_error: float | None = None  # standard error of the validation loss at the end, over its rows
    rise_error: float | None = None  # standard error of the rise since the best epoch: paired differences over rows
    keeps_best: bool = False  # the weights of the best epoch are kept in a checkpoint
    kept_epoch: int | None = None  # whose weights are; None where that is not known
    settings: Settings = field(default_factory=Settings)

    @property
    def tells_more(self) -> bool:
        """Whether there is more to weigh than curves: settings alone say nothing of what a fit came to."""
        return any(value is not None for value in (self.reference_loss, self.fair_train_loss, self.val_error))


@dataclass(frozen=True)
class Change:
    """One thing to do otherwise, with what it gained in runs like this one (`benchmarks/interventions`)."""

    name: str  # longer, shorter, lr_up, lr_down, wider, narrower, deeper, decay_off, decay_up, dropout_off, dropout_up,
    # batch_up, batch_down, cosine, averaged, ensemble
    lowers: float  # share of such runs in which it lowered the test loss
    raises: float  # share in which it raised it by more than 3 % of the room
    gain: float  # expected, as a share of the room between the trivial loss and the best that was found
    setting: str  # the name in `Settings` of what is changed
    value: float | int | str | tuple[int, ...] | None = None  # the new value, where the old one is known
