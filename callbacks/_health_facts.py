"""What the judgement rests on: readings of a run as plain numbers. NaN means: could not be read."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class WeightStart:
    """A weight matrix before the first step.

    Args:
        name: Its module.
        fan_in: Inputs of each unit.
        size: Elements.
        rms: Root mean square.
        peak: Largest absolute value.
        rows_alike: Whether all units, at least two, hold the same weights.
        trainable: Whether it is to be trained.
    """

    name: str
    fan_in: int
    size: int
    rms: float
    peak: float
    rows_alike: bool
    trainable: bool


@dataclass(frozen=True)
class LayerReading:
    """A parameter around one optimizer step, as root mean squares over its elements.

    Args:
        name: Its full name.
        matrix: Whether it is the weight matrix of a linear or convolutional layer.
        weight: After the step.
        start: Before the first step of the run.
        gradient: What the step used; NaN without a gradient.
        update: What the step changed.
        travelled: Distance from where it started.
    """

    name: str
    matrix: bool
    weight: float
    start: float
    gradient: float
    update: float
    travelled: float


@dataclass(frozen=True)
class Reading:
    """All parameters around one step."""

    step: int
    layers: tuple[LayerReading, ...]


@dataclass(frozen=True)
class Units:
    """Units of one activation over a window of batches.

    Args:
        layer: The layer whose output goes into the activation.
        kind: `relu`, `sigmoid` or `tanh`.
        units: How many; 0 where they are not told apart.
        share: For `relu` the share of units that were zero for every sample, else the median share of flat values.
        batches: Batches looked at.
    """

    layer: str
    kind: str
    units: int
    share: float
    batches: int


@dataclass(frozen=True)
class OptimizerFacts:
    """One group of parameters of an optimizer, as it was set up.

    Args:
        kind: The optimizer's class.
        lr: Learning rate; NaN if there is none.
        eps: Term against division by zero; NaN if there is none.
        usual_eps: That class's default.
        decay: Weight decay.
    """

    kind: str
    lr: float
    eps: float
    usual_eps: float
    decay: float


@dataclass(frozen=True)
class Head:
    """The first loss against what a prediction that knows nothing would have.

    Args:
        loss: The first loss, without other terms that may be added to it; NaN if not known.
        ignorant: The loss of such a prediction, e.g. ln 10 for cross-entropy over ten classes; NaN if not known.
        outputs: Root mean square of the outputs of a regression; NaN if not known.
        targets: Root mean square of its targets.
    """

    loss: float
    ignorant: float
    outputs: float
    targets: float


@dataclass
class Facts:
    """All there is to judge by.

    Args:
        weights: The weight matrices at the start; empty if the run was resumed.
        optimizers: How the optimizers were set up.
        dropouts: From module name to the share that is dropped.
        frozen: Weight matrices that are not to be trained and still hold random initial values.
        strangers: Parameters that get gradients and stand in no optimizer.
        unreached: Parameters that are in an optimizer and never got a gradient other than zero.
        head: What the first loss was compared with.
        kept_gradients: Steps that used the gradients of the step before again.
        regularised: Whether dropout, weight decay or augmentation that can be seen is there.
        alone: Whether one optimizer minimises one loss, so that the loss can be judged.
        readings: The latest, oldest first, the very first ones kept.
        units: The latest window.
    """

    weights: tuple[WeightStart, ...] = ()
    optimizers: tuple[OptimizerFacts, ...] = ()
    dropouts: dict[str, float] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    head: Head | None = None
    kept_gradients: int = 0
    alone: bool = True
    regularised: bool = False
    readings: list[Reading] = field(default_factory=list)
    units: tuple[Units, ...] = ()
