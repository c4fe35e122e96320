"""The kinds of fault, the one right name of each, and what a fault and its healthy twin change in a base.

The names were fixed before any detector was run. The first 21 kinds are those of TheDeepChecker (Ben Braiek and Khomh,
"Testing Feedforward Neural Networks Training Programs", TOSEM 2023), the last five are ours. A second name is accepted
only where both say the same thing by definition; `why` says why.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from callbacks.health.faults import Fault

from .settings import Settings

Change = Callable[[Settings], dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Args:
        name: The right name.
        fault: What the fault changes.
        twin: What the healthy twin changes: a legitimate choice close to the fault.
        both: What both share, so that the fault can show on any base.
        also: A second right name.
        why: Why it is one.
        regression: The same for regressions where it differs; `None` in `left_out`.
    """

    name: Fault
    fault: Change
    twin: Change
    both: Change = lambda s: {}
    also: Fault | None = None
    why: str = ""


@dataclass(frozen=True)
class Case:
    """One training: settings, whether it is the healthy twin, and the names that are right."""

    kind: str
    healthy: bool
    settings: Settings
    names: tuple[Fault, ...]


def _batch_norm(s: Settings) -> dict[str, Any]:
    return {"norm": "batch"}


def _deep(s: Settings) -> dict[str, Any]:
    """Many layers: a net of two or three is healthy without a norm."""
    return (
        {} if len(s.widths) >= 8 else {"widths": (s.widths[0],) * (20 if s.network == "cnn1d" or not s.classes else 16)}
    )


def _shallow(s: Settings) -> dict[str, Any]:
    """The same layers, only six of them: no norm either, and none is needed."""
    return {"widths": s.widths[:6]}


def _few_rows(s: Settings) -> dict[str, Any]:
    """Few rows, some of them told wrongly: a wide network learns them by heart."""
    return {"rows": 90, "label_noise": 0.3, "epochs_at_most": 100, "weight_decay": 0.0}


KINDS: dict[str, Kind] = {
    "flipped_loss_sign": Kind(
        Fault.LOSS_SIGN, lambda s: {"sign": -1.0}, lambda s: {"loss": "log_likelihood" if s.classes else "gaussian_nll"}
    ),
    "wrong_loss": Kind(
        Fault.WRONG_LOSS,
        lambda s: {"loss": "mse_one_hot" if s.classes else "bce"},
        lambda s: {"loss": "smoothed" if s.classes else "huber"},
    ),
    "lr_too_high": Kind(
        Fault.LEARNING_RATE_TOO_HIGH, lambda s: {"lr": 300 * s.lr}, lambda s: {"lr": 3 * s.lr}
    ),
    "lr_too_low": Kind(
        Fault.LEARNING_RATE_TOO_LOW, lambda s: {"lr": 1e-4 * s.lr}, lambda s: {"lr": s.lr / 3}
    ),
    "low_adam_epsilon": Kind(
        Fault.OPTIMIZER_EPSILON,
        lambda s: {"eps": 1e-16},
        lambda s: {"eps": 1e-6},
        both=lambda s: {"optimizer": "adam", "lr": min(s.lr, 3e-3)},
    ),
    "missing_scaling": Kind(
        Fault.INPUTS_UNSCALED, lambda s: {"scaling": "raw"}, lambda s: {"scaling": "symmetric"}
    ),
    "double_scaling": Kind(
        Fault.INPUTS_TOO_SMALL, lambda s: {"scaling": "twice"}, lambda s: {"scaling": "unit"}
    ),
    "missing_regularisation": Kind(
        Fault.UNDER_REGULARISED,
        _few_rows,
        lambda s: {"dropout": 0.3, "weight_decay": 1e-2 if s.optimizer == "sgd" else 1e-4},
        both=lambda s: {"widths": tuple(2 * w for w in s.widths)},
    ),
    "too_much_regularisation": Kind(
        Fault.OVER_REGULARISED, lambda s: {"weight_decay": 1.0}, lambda s: {"weight_decay": 1e-3}
    ),
    "missing_softmax": Kind(
        Fault.MISSING_SOFTMAX, lambda s: {"loss": "nll"}, lambda s: {"loss": "by_hand"}
    ),
    "redundant_softmax": Kind(
        Fault.REDUNDANT_SOFTMAX,
        lambda s: {"head": "softmax"},
        lambda s: {"head": "log_softmax", "loss": "nll"},
    ),
    "wrong_softmax": Kind(
        Fault.WRONG_SOFTMAX,
        lambda s: {"head": "softmax_over_batch", "loss": "nll_of_log"},
        lambda s: {"head": "softmax", "loss": "nll_of_log"},
    ),
    "wrong_activation": Kind(
        Fault.WRONG_ACTIVATION,
        lambda s: {"activation": "sigmoid", "initialisation": "he"},
        lambda s: {"activation": "gelu" if s.functional else "elu"},
        also=Fault.SATURATED_UNITS,
        why="the wrong activation is the sigmoid, and saturation is what is wrong with it",
    ),
    "wrong_initialisation": Kind(
        Fault.WRONG_INITIALISATION, lambda s: {"initialisation": "large"}, lambda s: {"initialisation": "orthogonal"}
    ),
    "constant_initialisation": Kind(
        Fault.CONSTANT_INITIALISATION,
        lambda s: {"initialisation": "constant"},
        lambda s: {"initialisation": "zero_last" if s.norm == "none" else "xavier"},
    ),
    "wrong_labels": Kind(
        Fault.LABELS_WRONG, lambda s: {"misaligned": True}, lambda s: {"label_noise": 0.05}
    ),
    "unbalanced_data": Kind(
        Fault.LABELS_UNBALANCED,
        lambda s: {"majority": 0.97},
        lambda s: {"majority": 2 / (s.classes + 1) if s.classes > 2 else 0.6},
    ),
    "wrong_augmentation": Kind(
        Fault.WRONG_AUGMENTATION,
        lambda s: {"augmentation": "turn" if s.network == "cnn2d" else "noise"},
        lambda s: {"augmentation": "shift" if s.network != "mlp" else "jitter"},
    ),
    "overscaled_outputs": Kind(
        Fault.OUTPUTS_OVERSCALED, lambda s: {"output_scale": 100.0}, lambda s: {"output_scale": 2.0}
    ),
    "missing_batch_norm": Kind(
        Fault.MISSING_NORMALISATION,
        lambda s: {"norm": "none"},
        lambda s: {"norm": "group"} if s.network == "cnn2d" else {"norm": "batch_after"} if s.classes else _shallow(s),
        both=_deep,
    ),
    "batch_norm_never_eval": Kind(
        Fault.BATCH_NORM_MODE,
        lambda s: {"validates_in": "train"},
        lambda s: {"validates_in": "preview"},
        both=_batch_norm,
    ),
    "dead_relu": Kind(
        Fault.DEAD_UNITS, lambda s: {"shifted_bias": -10.0}, lambda s: {"activation": "leaky_relu"}
    ),
    "nan_in_a_batch": Kind(
        Fault.NON_FINITE, lambda s: {"bad_row": "nan"}, lambda s: {"bad_row": "zero"}
    ),
    "ordered_unshuffled": Kind(
        Fault.UNSHUFFLED, lambda s: {"order": "sorted"}, lambda s: {"order": "stored"}
    ),
    "frozen_layer": Kind(
        Fault.NOT_UPDATING,
        lambda s: {"detached": True} if s.norm == "batch" else {"left_out": len(s.widths) - 1},
        lambda s: {"first_layer_lr": 0.3},
    ),
    "zero_grad_forgotten": Kind(
        Fault.GRADIENTS_NOT_ZEROED, lambda s: {"zero_grad": False}, lambda s: {"accumulate": 2}
    ),
}  # fmt: skip

_SOFTMAX_OF_ONE = "a softmax over one output is always 1: it is a softmax that should not be there, on a regression"
REGRESSION: dict[str, Kind | None] = {
    "missing_softmax": None,  # a regression misses none
    "redundant_softmax": Kind(
        Fault.WRONG_OUTPUT_ACTIVATION,
        lambda s: {"head": "softmax"},
        lambda s: {"head": "tanh", "target_scaling": "symmetric"},
        also=Fault.REDUNDANT_SOFTMAX,
        why=_SOFTMAX_OF_ONE,
    ),
    "wrong_softmax": Kind(
        Fault.WRONG_OUTPUT_ACTIVATION,
        lambda s: {"head": "relu"},
        lambda s: {"head": "softplus", "target_scaling": "unit"},
    ),
}


def cases(base: Settings, kind: str) -> list[Case]:
    """Return the faulty case and its twin, or nothing where the kind makes no sense on the base."""
    k = REGRESSION.get(kind, KINDS[kind]) if not base.classes else KINDS[kind]
    if k is None:
        return []
    shared = replace(base, **k.both(base))
    names = (k.name,) if k.also is None else (k.name, k.also)
    return [
        Case(kind, False, replace(shared, **k.fault(shared)), names),
        Case(kind, True, replace(shared, **k.twin(shared)), ()),
    ]
