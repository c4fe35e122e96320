"""What a search asks of those who can train several trials at once. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from optuna import Study


@dataclass(frozen=True)
class Member:
    """A trial that is to be trained together with others.

    Args:
        number: Its number in the study.
        values: Its values by name.
        attrs: The user attributes it was started with.
    """

    number: int
    values: Mapping[str, Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """What became of a trial.

    Args:
        values: What is optimized, one for each direction.
        attrs: User attributes to be stored with it.
    """

    values: Sequence[float]
    attrs: Mapping[str, Any]


class Group(Protocol):
    """Trials that are trained in step. They are named by their numbers."""

    members: Sequence[Member]

    def run(self, epochs: int) -> None:
        """Train those that are left until so many epochs are done."""

    def reports(self, number: int) -> Sequence[float]:
        """What pruning goes by: one value for each epoch that was trained."""

    def hopeless(self, number: int) -> str:
        """Why a trial is to be ended now, whatever the others do; empty if it is not."""

    def keep(self, numbers: Sequence[int]) -> None:
        """Go on with these alone."""

    def end(self, number: int, reason: str) -> Ended:
        """What became of a trial that is left or was just dropped.

        Args:
            number: The trial.
            reason: Why it was pruned; empty if it was trained to the end.
        """


@runtime_checkable
class TrainsTogether(Protocol):
    """A train function that can also train several trials at once."""

    def together(self, n_trials: int) -> int:
        """How many trials of a study of so many to ask for at once; 1 to train one after the other."""

    def epochs(self) -> int:
        """Epochs of a trial, over all of its fits."""

    def groups(self, members: Sequence[Member], study: Study) -> Sequence[Group]:
        """Groups of those trials of a study that can be trained in step; who is in none is trained alone."""


@runtime_checkable
class SortsTrials(Protocol):
    """Who trains together only trials that have some values in common."""

    def alike(self) -> Sequence[str]:
        """The names whose values the trials of a group have in common."""
