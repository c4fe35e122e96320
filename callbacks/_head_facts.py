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
    """

    kind: str
    sign: int = 1
    shape: tuple[int, ...] = ()
    chain: tuple[Op, ...] = ()
    target: Target | None = None
    stretched: bool = False

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
