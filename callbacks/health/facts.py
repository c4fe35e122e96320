"""What the judgement rests on: readings of a run as plain numbers. NaN means: could not be read."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Inputs:
    """What the first layer was given in the first steps.

    Args:
        layer: Its name.
        rows: Rows seen.
        columns: Different inputs of a row: columns of a table, or all pixels.
        largest: The largest absolute value.
        rms: Root of the mean square.
        column_rms: The same of the column where it is largest; of pictures the same as `rms`.
        spread: Largest deviation of a column within a batch.
        unit_rows: Whether all rows have length 1.
        from_batch: Whether they stand in the batch as they are, instead of being made in the step.
    """

    layer: str
    rows: int
    columns: int
    largest: float
    rms: float
    column_rms: float
    spread: float
    unit_rows: bool = False
    from_batch: bool = True


@dataclass(frozen=True)
class Labels:
    """The classes that one epoch of training batches holds.

    Args:
        counts: Rows of each class that occurs.
        within: Mean impurity (chance that two rows differ) within a batch, over that of the epoch; 1 if shuffled.
        runs: Stretches of batches with the same commonest class.
        batches: How many batches that was.
        weighted: Whether the loss weighs classes or rows.
    """

    counts: dict[int, int]
    within: float = 1.0
    runs: int = 0
    batches: int = 0
    weighted: bool = False


@dataclass(frozen=True)
class Numbers:
    """The targets of a regression in one epoch.

    Args:
        rows: How many.
        within: Mean variance within a batch over that of the epoch; 1 if shuffled.
        trend: Rank correlation of the batches' means with time, -1 to 1.
        batches: How many batches that was.
        apart: Largest difference of the distribution functions of training and validation targets, 0 to 1.
        narrower: Distance of the quartiles in training over that in validation.
    """

    rows: int
    within: float = 1.0
    trend: float = 0.0
    batches: int = 0
    apart: float = 0.0
    narrower: float = 1.0


@dataclass(frozen=True)
class Contrast:
    """How training rows differ from validation rows.

    Args:
        rows: Rows of the smaller of the two samples.
        effects: Difference of the means of a statistic of a row, in its standard deviations, by the statistic's name.
        likeness: Correlation of the mean training picture with the mean validation picture; None of tables.
        reliable: The least correlation of the mean pictures of two halves of one sample.
        label_shift: Half the sum of the differences between the shares of the classes, 0 to 1.
    """

    rows: int
    effects: dict[str, float]
    likeness: float | None = None
    reliable: float = 0.0
    label_shift: float = 0.0


@dataclass(frozen=True)
class Neighbours:
    """How often near rows have the same label (or of numbers, how near their ranks are, 0 to 1), in equal samples.

    Args:
        rows: Rows of each sample.
        train: The share among training rows.
        val: The same among validation rows.
        chance: The same for labels dealt at random.
        density: Distance of a training row's nearest neighbour over that of a validation row's.
    """

    rows: int
    train: float
    val: float
    chance: float
    density: float = 1.0


@dataclass(frozen=True)
class Dependence:
    """Whether labels have to do with inputs, in a run that does not learn.

    Args:
        rows: Training rows compared.
        neighbours: Standard deviations by which labels agree with those of near rows beyond chance.
        column: The same for the single column that tells most.
        best_val_loss: Least validation loss so far over that of the best constant.
        epochs: Epochs trained.
    """

    rows: int
    neighbours: float
    column: float
    best_val_loss: float
    epochs: int


# Operations that move or copy numbers and leave each as it is.
MOVES = frozenset({"View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "Permute", "T", "ToCopy"})
MOVES |= {"Clone", "Select", "Slice", "Alias", "Unbind", "AsStrided"}
AFFINE = frozenset({"Addmm", "Mm", "Convolution", "MkldnnConvolution", "Linear", "MkldnnLinear", "Addmv", "Mv"})


@dataclass(frozen=True)
class Op:
    """One operation of the graph, `dim` counted from the front, with the shape of its result where it is known."""

    name: str
    dim: int | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Target:
    """What a loss compares with.

    Args:
        shape: Its shape.
        integer: Whether its type is an integer.
        low: Its least value.
        high: Its greatest value.
        distinct: Different values in it, counted up to a bound.
        one_hot: Whether every row is one 1 among zeros.
        given: Whether it stands in the batch, instead of being made in the step.
        address: Where it lies in memory, to find it in the batch.
        beyond: Share of values below -0.05, above 1.05 and outside of ±1.05.
    """

    shape: tuple[int, ...] = ()
    integer: bool = False
    low: float = 0.0
    high: float = 0.0
    distinct: int = 0
    one_hot: bool = False
    given: bool = False
    address: int = 0
    beyond: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Term:
    """One term of a loss.

    Args:
        kind: nll, picked (log-probabilities of the classes picked by hand), soft (… weighted), bce, bce_logits,
            regression, or unknown.
        sign: 1 as it should be, -1 if turned, 0 if it cannot be told.
        shape: The shape of the prediction that it is given.
        chain: The operations before it, last first, down to the first affine one or where it can't be followed.
        target: What it compares with, if that can be seen.
        stretched: Whether prediction and target were broadcast into a square.
        weighted: Whether the loss weighs classes.
        ignored: The class that stands for none; torch's own word for it is -100.
    """

    kind: str
    sign: int = 1
    shape: tuple[int, ...] = ()
    chain: tuple[Op, ...] = ()
    target: Target | None = None
    stretched: bool = False
    weighted: bool = False
    ignored: int = -100

    @property
    def real(self) -> tuple[Op, ...]:
        """The chain without operations that only move numbers."""
        return tuple(op for op in self.chain if op.name not in MOVES)


@dataclass(frozen=True)
class Loss:
    """What one loss tensor is made of, and whether it is the only one that is minimised."""

    terms: tuple[Term, ...]
    alone: bool = True
    maximised: bool = False
    value: float = 0.0


@dataclass(frozen=True)
class Layer:
    """One affine layer of the graph.

    Args:
        convolution: Whether it is one.
        fed_by: What its inputs come from: an operation such as `Relu`, `affine`, `input`, or `?`.
        normed: Whether a norm stands between.
        inputs: Its inputs, 0 if not known.
        outputs: Its outputs, 0 if not known.
    """

    convolution: bool
    fed_by: str
    normed: bool = False
    inputs: int = 0
    outputs: int = 0


@dataclass(frozen=True)
class Structure:
    """The network behind a loss.

    Args:
        layers: Its affine layers, last first.
        linear: Whether nothing in it is known or suspected to be non-linear.
        normed: Whether there is a norm anywhere.
        skips: Whether branches are added or joined.
    """

    layers: tuple[Layer, ...] = ()
    linear: bool = False
    normed: bool = False
    skips: bool = False


@dataclass(frozen=True)
class BatchNorm:
    """One batch norm: its mode, and whether its running statistics are those it was made with."""

    name: str
    training: bool
    tracked: bool
    momentum: float | None = 0.1
    fresh: bool = False
    trainable: bool = True


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
