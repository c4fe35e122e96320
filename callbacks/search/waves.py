"""Run waves of trials: drawn one after the other, trained in step by who can, pruned and ended together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf, prod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from callbacks.search.optuna_internals import PLACE, FinishedTrial
from callbacks.search.plan import Plan, best_so_far, rungs, survivors
from callbacks.search.space import Choice, IntRange, Space, decode

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler


@dataclass(frozen=True)
class SampledTrial:
    """A trial that has its values, and is to be trained together with others.

    Args:
        number: Its number in the study.
        values: Its values by name.
        attrs: The user attributes it was started with.
    """

    number: int
    values: Mapping[str, Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialOutcome:
    """What a trial came to.

    Args:
        values: What is optimized, one for each direction.
        attrs: User attributes to be stored with it.
    """

    values: Sequence[float]
    attrs: Mapping[str, Any]


class TrialGroup(Protocol):
    """Trials that are trained in step. They are named by their numbers."""

    members: Sequence[SampledTrial]

    def run(self, epochs: int) -> None:
        """Train those that are left until so many epochs are done."""

    def reports(self, number: int) -> Sequence[float]:
        """Return what pruning goes by: one value for each epoch that was trained."""

    def hopeless(self, number: int) -> str:
        """Return why a trial is to be ended now, whatever the others do; empty if it is not."""

    def keep(self, numbers: Sequence[int]) -> None:
        """Go on with these alone."""

    def end(self, number: int, reason: str) -> TrialOutcome:
        """Return what a trial came to that is left or was just dropped.

        Args:
            number: The trial.
            reason: Why it was pruned; empty if it was trained to the end.
        """


@runtime_checkable
class TrainsTogether(Protocol):
    """A train function that can also train several trials at once.

    With a method `alike` it names the values that the trials of a group must have in common.
    """

    def together(self, n_trials: int) -> int:
        """Return how many trials of a study of so many to ask for at once; 1 to train one after the other."""

    def epochs(self) -> int:
        """Return the epochs of a trial, over all of its fits."""

    def groups(self, members: Sequence[SampledTrial], study: Study) -> Sequence[TrialGroup]:
        """Return groups of those trials that can be trained in step; those in none are trained alone."""


def _count(dimension: object) -> float:
    if isinstance(dimension, Choice):
        return len(dimension.options)
    return dimension.high - dimension.low + 1 if isinstance(dimension, IntRange) else inf


# The others keep what they know in the storage (cmaes, qmc), and have to see it there.
_IN_MEMORY = ("tpe", "gp", "random", "grid")


def suits_waves(train: TrainsTogether, plan: Plan) -> bool:
    """Return whether a search may ask for several trials at once."""
    known = plan.sampler in _IN_MEMORY and plan.pruner in ("halving", "none")
    return known and train.together(plan.n_trials) > 1


class WaveSampler:
    """Draws the places of a wave one after the other; each draw sees those before it as trials that run.

    Values that the trials of a group have in common (`names`) are drawn for the first place of a wave, by a sampler
    that chooses among all, and taken over by the others. Not in the first wave, whose places are all drawn; and only
    where there are so few values that the sampler tries each twice or so. Which place is the first depends on the place
    alone, so that a study that was killed while it drew a wave goes on as it would have.
    """

    def __init__(
        self, study: Study, space: Space, sampled_by: Callable[[int], BaseSampler], names: Sequence[str], *, width: int
    ) -> None:
        import optuna

        self._space, self._sampled_by, self._width = space, sampled_by, width
        found = [name for name in names if name in space]
        self._shared = found if 1 < prod(_count(space[name]) for name in found) <= width // 2 else []
        self._firsts: dict[int, dict[str, Any]] = {}  # what is shared, by the first place of a wave
        for trial in study.get_trials(deepcopy=False):
            if PLACE in trial.user_attrs:
                self._note(trial.user_attrs[PLACE], decode(space, trial.params))
        self._copy = optuna.create_study(directions=study.directions)  # the study itself is not changed
        # What waits would be drawn again.
        self._copy.add_trials([one for one in study.get_trials(deepcopy=False) if one.state.name != "WAITING"])

    def __call__(
        self, place: int, params: dict[str, Any], distributions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return all parameters and distributions of a trial, as the study holds them, from those that are given."""
        self._copy.sampler = self._sampled_by(place)
        taken = self._firsts.get(place - place % self._width, {})
        known = params or {self._space[name].key(name): self._space[name].store(taken[name]) for name in taken}
        if known:
            self._copy.enqueue_trial(known)
        trial = self._copy.ask()
        values = {name: dimension.suggest(trial, name) for name, dimension in self._space.items()}
        self._note(place, values)
        return dict(trial.params), dict(trial.distributions)

    def _note(self, place: int, values: Mapping[str, Any]) -> None:
        if place >= self._width and place % self._width == 0 and all(name in values for name in self._shared):
            self._firsts[place] = {name: values[name] for name in self._shared}


class Wave:
    """Trains the groups of a wave in step, epoch by epoch."""

    def __init__(
        self,
        study: Study,
        groups: Sequence[TrialGroup],
        *,
        epochs: int,
        halving: bool,  # whether successive halving prunes
        finish: Callable[[Sequence[FinishedTrial]], None],  # called with the trials that end together
    ) -> None:
        self._study, self._epochs, self._finish = study, epochs, finish
        self._rungs = rungs(epochs) if halving and len(study.directions) == 1 else []
        self._high = study.directions[0].name == "MAXIMIZE"
        self._left = {member.number: group for group in groups for member in group.members}

    @property
    def left(self) -> list[int]:
        """Return the numbers of the trials that have not ended."""
        return list(self._left)

    def run(self) -> None:
        """Train all to their ends."""
        for epoch in range(1, self._epochs + 1):
            for group in _distinct(self._left.values()):
                group.run(epoch)
            reasons = {number: group.hopeless(number) for number, group in self._left.items()}
            reasons = {number: reason for number, reason in reasons.items() if reason}
            if epoch in self._rungs:
                reasons |= self._beaten(epoch, set(reasons))
            self._end(reasons)
            if not self._left:
                return
        self._end(dict.fromkeys(self._left, ""))

    def _beaten(self, epoch: int, without: set[int]) -> dict[int, str]:
        """Return the trials that do not go on behind a rung, and why."""
        best = partial(best_so_far, high=self._high)
        values = {n: best(group.reports(n)) for n, group in self._left.items() if n not in without}
        trials = self._study.get_trials(deepcopy=False)
        ended = [trial.intermediate_values for trial in trials if trial.state.is_finished()]
        others = [best([told[step] for step in told if step < epoch]) for told in ended if epoch - 1 in told]
        kept = set(survivors(values, others, high=self._high))
        why = "halving: at best {:.6g} up to step {}"
        return {n: why.format(value, epoch - 1) for n, value in values.items() if n not in kept}

    def _end(self, reasons: Mapping[int, str]) -> None:
        if not reasons:
            return
        groups = {number: self._left.pop(number) for number in reasons}
        finished = []
        for number, group in groups.items():
            outcome, reports = group.end(number, reasons[number]), list(group.reports(number))
            finished.append(FinishedTrial(number, reasons[number], outcome.values, outcome.attrs, reports))
        for group in _distinct(groups.values()):
            group.keep([number for number, its in self._left.items() if its is group])
        self._finish(finished)


def _distinct(groups: Iterable[TrialGroup]) -> list[TrialGroup]:
    return list({id(group): group for group in groups}.values())
