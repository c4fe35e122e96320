"""Hold what the rules judge: readings of a run as plain numbers. NaN means: could not be read."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """What the first layer was given in the first steps."""

    layer: str
    rows: int  # rows seen
    largest: float  # the largest absolute value
    rms: float  # root of the mean square
    column_rms: float  # the same of the column where it is largest; of pictures the same as `rms`
    spread: float  # largest deviation of a column within a batch
    unit_rows: bool = False  # whether all rows have length 1
    from_batch: bool = True  # whether they stand in the batch as they are, instead of being made in the step


@dataclass(frozen=True)
class Labels:
    """The classes that one epoch of training batches holds."""

    counts: dict[int, int]  # rows of each class that occurs
    within: float = 1.0  # mean impurity (chance that two rows differ) of a batch over the epoch's; 1 if shuffled
    runs: int = 0  # stretches of batches with the same commonest class
    batches: int = 0  # how many batches that was
    weighted: bool = False  # whether the loss weighs classes or rows


@dataclass(frozen=True)
class Numbers:
    """The targets of a regression in one epoch."""

    rows: int  # how many
    within: float = 1.0  # mean variance within a batch over that of the epoch; 1 if shuffled
    trend: float = 0.0  # rank correlation of the batches' means with time, -1 to 1
    batches: int = 0  # how many batches that was
    apart: float = 0.0  # largest difference of the distribution functions of training and validation targets, 0 to 1
    narrower: float = 1.0  # distance of the quartiles in training over that in validation


@dataclass(frozen=True)
class Contrast:
    """How training rows differ from validation rows."""

    rows: int  # rows of the smaller of the two samples
    effects: dict[str, float]  # by name of a statistic of a row: difference of its means, in its standard deviations
    likeness: float | None = None  # correlation of the mean training picture with validation's; None of tables
    reliable: float = 0.0  # the least correlation of the mean pictures of two halves of one sample
    label_shift: float = 0.0  # half the sum of the differences between the shares of the classes, 0 to 1


@dataclass(frozen=True)
class Neighbours:
    """How often near rows have the same label (or of numbers, how near their ranks are, 0 to 1), in equal samples."""

    rows: int  # rows of each sample
    train: float  # the share among training rows
    val: float  # the same among validation rows
    chance: float  # the same for labels dealt at random
    density: float = 1.0  # distance of a training row's nearest neighbour over that of a validation row's


@dataclass(frozen=True)
class Dependence:
    """Whether labels have to do with inputs, in a run that does not learn."""

    rows: int  # training rows compared
    neighbours: float  # standard deviations by which labels agree with those of near rows beyond chance
    column: float  # the same for the single column that tells most
    best_val_loss: float  # least validation loss so far over that of the best constant
    epochs: int  # epochs trained


# Operations that move or copy numbers and leave each as it is.
MOVES = frozenset({"View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "Permute", "T", "ToCopy"})
MOVES |= {"Clone", "Select", "Slice", "Alias", "Unbind", "AsStrided"}
AFFINE = frozenset({"Addmm", "Mm", "Convolution", "MkldnnConvolution", "Linear", "MkldnnLinear", "Addmv", "Mv"})


@dataclass(frozen=True)
class OperationFacts:
    """One operation of the graph, `dim` counted from the front, with the shape of its result where it is known."""

    name: str
    dim: int | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Target:
    """What a loss compares with."""

    shape: tuple[int, ...] = ()
    low: float = 0.0
    high: float = 0.0
    distinct: int = 0  # different values in it, counted up to a bound
    one_hot: bool = False  # whether every row is one 1 among zeros
    given: bool = False  # whether it stands in the batch, instead of being made in the step
    address: int = 0  # where it lies in memory, to find it in the batch
    first: tuple[float, ...] = ()  # its first values, of one-hot rows their classes, to find it if it was cast
    seen: bool = True  # whether the loss shows it; else it is known by its shape alone
    beyond: tuple[float, float, float] = (0.0, 0.0, 0.0)  # share of values below -0.05, above 1.05 and outside of ±1.05

    def is_of(self, column: "Tensor") -> bool:
        """Whether a column of numbers holds the same, in another type."""
        whole = len(set(self.first)) > 1 and len(column) == (self.shape[0] if self.shape else 0)
        return whole and tuple(column[: len(self.first)].reshape(-1).float().tolist()) == self.first


@dataclass(frozen=True)
class Term:
    """One term of a loss."""

    kind: str  # nll, picked (log-probabilities picked by hand), soft (… weighted), bce, bce_logits, regression, unknown
    sign: int = 1  # 1 as it should be, -1 if turned, 0 if it cannot be told
    shape: tuple[int, ...] = ()  # the shape of the prediction that it is given
    chain: tuple[OperationFacts, ...] = ()  # before it, last first, down to an affine one or where it can't be followed
    target: Target | None = None  # what it compares with, if that can be seen
    stretched: bool = False  # whether prediction and target were broadcast into a square
    weighted: bool = False  # whether the loss weighs classes
    ignored: int = -100  # the class that stands for none; torch's own word for it is -100

    @property
    def real(self) -> tuple[OperationFacts, ...]:
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
    """One affine layer of the graph."""

    convolution: bool  # whether it is one
    fed_by: str  # what its inputs come from: an operation such as `Relu`, `affine`, `input`, or `?`
    normed: bool = False  # whether a norm stands between
    inputs: int = 0  # its inputs, 0 if not known
    outputs: int = 0  # its outputs, 0 if not known


@dataclass(frozen=True)
class Structure:
    """The network behind a loss."""

    layers: tuple[Layer, ...] = ()  # its affine layers, last first
    linear: bool = False  # whether nothing in it is known or suspected to be non-linear
    normed: bool = False  # whether there is a norm anywhere
    skips: bool = False  # whether branches are added or joined


@dataclass(frozen=True)
class Cut:
    """A place where a layer was given what the layer called before it had made, without its gradient."""

    before: tuple[str, ...]  # the layers called up to there whose outputs autograd follows, the one before last
    after: str  # the layer that was given it


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
    """A weight matrix before the first step."""

    name: str  # its module
    fan_in: int  # inputs of each unit
    size: int  # elements
    rms: float  # root mean square
    peak: float  # largest absolute value
    rows_alike: bool  # whether all units, at least two, hold the same weights
    trainable: bool  # whether it is to be trained
    units: int = 0  # what it gives to the next
    columns_alike: bool = False  # whether each unit weighs all its inputs alike


@dataclass(frozen=True)
class LayerReading:
    """A parameter around one optimizer step, as root mean squares over its elements."""

    name: str  # its full name
    matrix: bool  # whether it is the weight matrix of a linear or convolutional layer
    weight: float  # after the step
    start: float  # before the first step of the run
    gradient: float  # what the step used; NaN without a gradient
    update: float  # what the step changed
    travelled: float  # distance from where it started


@dataclass(frozen=True)
class Reading:
    """All parameters around one step."""

    step: int
    layers: tuple[LayerReading, ...]

    def state(self) -> list[Any]:
        """Return it as plain lists."""
        return [self.step, [[*vars(layer).values()] for layer in self.layers]]

    @classmethod
    def of(cls, state: list[Any]) -> "Reading":
        """Make it of plain lists."""
        return cls(state[0], tuple(LayerReading(*values) for values in state[1]))


@dataclass(frozen=True)
class Units:
    """Units of one activation over a window of batches."""

    layer: str  # the layer whose output goes into the activation
    kind: str  # `relu`, `sigmoid` or `tanh`
    units: int  # how many; 0 where they are not told apart
    share: float  # for `relu` the share of units that were zero for every sample, else the median share of flat values
    batches: int  # batches looked at


@dataclass(frozen=True)
class OptimizerFacts:
    """One group of parameters of an optimizer, as it was set up."""

    kind: str  # the optimizer's class
    lr: float  # learning rate; NaN if there is none
    eps: float  # term against division by zero; NaN if there is none
    usual_eps: float  # that class's default
    decay: float  # weight decay


@dataclass(frozen=True)
class Head:
    """The first loss against what a prediction that knows nothing would have."""

    loss: float  # the first loss, without other terms that may be added to it; NaN if not known
    ignorant: float  # the loss of such a prediction, e.g. ln 10 for cross-entropy over ten classes; NaN if not known
    outputs: float  # root mean square of the outputs of a regression; NaN if not known
    targets: float  # root mean square of its targets


@dataclass
class Facts:
    """All there is to judge by."""

    weights: tuple[WeightStart, ...] = ()  # the weight matrices at the start; empty if the run was resumed
    hidden: frozenset[str] = frozenset()  # layers whose output goes into another layer with weights
    optimizers: tuple[OptimizerFacts, ...] = ()  # how the optimizers were set up
    dropouts: dict[str, float] = field(default_factory=dict)  # from module name to the share that is dropped
    unoptimized: tuple[str, ...] = ()  # parameters of no optimizer that pass gradients on and stand still
    unreached: tuple[str, ...] = ()  # parameters of an optimizer that never got a gradient, ahead of a cut
    cut: Cut | None = None  # that cut
    head: Head | None = None  # what the first loss was compared with
    kept_gradients: int = 0  # steps that used the gradients of the step before again
    alone: bool = True  # whether one optimizer minimises one loss, so that the loss can be judged
    regularised: bool = False  # whether dropout, weight decay or augmentation that can be seen is there
    reachable: float = float("-inf")  # loss as it is minimised that another model reaches on the validation rows
    readings: list[Reading] = field(default_factory=list)  # the latest, oldest first, the very first ones kept
    units: tuple[Units, ...] = ()  # the latest window
