"""What is known of a loss and the head before it, in plain numbers and words."""

from dataclasses import dataclass

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
