"""Claims trials by the wave, trains them together, and tells the study what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf, prod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from callbacks.search.claims import PLACE, FinishedTrial, TrialClaims
from callbacks.search.plan import Plan, SearchError, best_so_far, make_sampler, rungs, survivors
from callbacks.search.space import Choice, IntRange, PowersOfTwo, Space, decode
from callbacks.search.study import is_storage_trouble

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


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


class Shares:
    """Values that the places of a wave take over from its first one, for which the sampler chooses among all.

    Not in the first wave, whose places are all drawn; and only where there are so few values that it tries each twice
    or so. Who leads is a matter of the place, so that a study that was killed while it drew goes on as it would have.

    Args:
        space: What is searched.
        names: Those of its names that the trials of a group have in common.
        width: Places of a wave.
    """

    def __init__(self, space: Space, names: Sequence[str], *, width: int) -> None:
        found = [name for name in names if name in space]
        many = prod(_count(space[name]) for name in found)
        self._names = found if 1 < many <= width // 2 else []
        self._width = width
        self._leaders: dict[int, dict[str, Any]] = {}

    def note(self, place: int, values: Mapping[str, Any]) -> None:
        """Take note of what a place tries."""
        if place >= self._width and place % self._width == 0 and all(name in values for name in self._names):
            self._leaders[place] = {name: values[name] for name in self._names}

    def at(self, place: int) -> Mapping[str, Any]:
        """What a place takes over."""
        return self._leaders.get(place - place % self._width, {})


def _count(dimension: object) -> float:
    """How many values a dimension has."""
    if isinstance(dimension, Choice):
        return len(dimension.options)
    return dimension.high - dimension.low + 1 if isinstance(dimension, PowersOfTwo | IntRange) else inf


# The others keep what they know in the storage (cmaes, qmc), and have to see it there.
IN_MEMORY = ("tpe", "gp", "random", "grid")


class WaveSampler:
    """Draws the places of a wave one after the other; each draw sees those before it as trials that run.

    Args:
        study: The study; it is not changed.
        space: What is searched.
        sampled_by: Makes the sampler for a place.
        shares: What the places of a wave have in common.
    """

    def __init__(self, study: Study, space: Space, sampled_by: Callable[[int], BaseSampler], *, shares: Shares) -> None:
        import optuna

        self._space, self._sampled_by, self._shares = space, sampled_by, shares
        self._copy = optuna.create_study(directions=study.directions)
        self._copy.add_trials(_known(study.get_trials(deepcopy=False)))

    def __call__(
        self, place: int, params: dict[str, Any], distributions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """All parameters and distributions of a trial, as the study holds them.

        Args:
            place: The place of the trial.
            params: Those that are given.
            distributions: Theirs.
        """
        self._copy.sampler = self._sampled_by(place)
        taken = self._shares.at(place)
        known = params or {self._space[name].key(name): self._space[name].store(taken[name]) for name in taken}
        if known:
            self._copy.enqueue_trial(known)
        trial = self._copy.ask()
        values = {name: dimension.suggest(trial, name) for name, dimension in self._space.items()}
        self._shares.note(place, values)
        return dict(trial.params), dict(trial.distributions)


def _known(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials a sampler may learn from; what waits would be drawn again."""
    return [trial for trial in trials if trial.state.name != "WAITING"]


class Wave:
    """Trains the groups of a wave in step, epoch by epoch.

    Args:
        study: The study.
        groups: Groups of its trials.
        epochs: Epochs of a trial.
        halving: Whether successive halving prunes.
        tell: Called with the trials that end together.
    """

    def __init__(
        self,
        study: Study,
        groups: Sequence[Group],
        *,
        epochs: int,
        halving: bool,
        tell: Callable[[Sequence[FinishedTrial]], None],
    ) -> None:
        self._study, self._epochs, self._tell = study, epochs, tell
        self._rungs = rungs(epochs) if halving and len(study.directions) == 1 else []
        self._high = study.directions[0].name == "MAXIMIZE"
        self._left = {member.number: group for group in groups for member in group.members}

    @property
    def left(self) -> list[int]:
        """Numbers of the trials that have not ended."""
        return list(self._left)

    def run(self) -> None:
        """Train all to their ends."""
        for epoch in range(1, self._epochs + 1):
            for group in self._groups():
                group.run(epoch)
            reasons = {number: group.hopeless(number) for number, group in self._left.items()}
            reasons = {number: reason for number, reason in reasons.items() if reason}
            if epoch in self._rungs:
                reasons |= self._beaten(epoch, set(reasons))
            self._end(reasons)
            if not self._left:
                return
        self._end(dict.fromkeys(self._left, ""))

    def _groups(self) -> list[Group]:
        return list({id(group): group for group in self._left.values()}.values())

    def _beaten(self, epoch: int, without: set[int]) -> dict[int, str]:
        """Those who do not go on behind a rung, and why."""
        values = {
            number: best_so_far(group.reports(number), high=self._high)
            for number, group in self._left.items()
            if number not in without
        }
        ended = [
            trial.intermediate_values for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()
        ]
        reached = [[value for step, value in told.items() if step < epoch] for told in ended if epoch - 1 in told]
        others = [best_so_far(values, high=self._high) for values in reached]
        kept = set(survivors(values, others, high=self._high))
        return {
            n: f"halving: at best {value:.6g} up to step {epoch - 1}" for n, value in values.items() if n not in kept
        }

    def _end(self, reasons: Mapping[int, str]) -> None:
        if not reasons:
            return
        groups = {number: self._left.pop(number) for number in reasons}
        told = []
        for number, reason in reasons.items():
            found = groups[number].end(number, reason)
            told.append(FinishedTrial(number, reason, found.values, found.attrs, list(groups[number].reports(number))))
        for group in {id(group): group for group in groups.values()}.values():
            group.keep([number for number, its in self._left.items() if its is group])
        self._tell(told)


class Together:
    """One process's waves of a study.

    Args:
        train: Who trains.
        space: What is searched.
        plan: How.
        study: The study.
        desk: Hands out its trials.
        alone: Runs one trial to its end, and tells the study.
        progress: Called when trials have ended.
    """

    def __init__(
        self,
        train: TrainsTogether,
        space: Space,
        plan: Plan,
        *,
        study: Study,
        desk: TrialClaims,
        alone: Callable[[Trial], None],
        progress: Callable[[], None],
    ) -> None:
        self._train, self._space, self._plan = train, space, plan
        self._study, self._desk, self._alone, self._progress = study, desk, alone, progress

    @staticmethod
    def suits(train: object, plan: Plan) -> bool:
        """Whether a search may ask for several trials at once."""
        known = plan.sampler in IN_MEMORY and plan.pruner in ("halving", "none")
        return isinstance(train, TrainsTogether) and known and train.together(plan.n_trials) > 1

    def next(self) -> bool:
        """Claim a wave and train it; False if there was nothing to claim."""
        width = self._train.together(self._plan.n_trials)
        sampled_by = partial(make_sampler, self._plan.sampler, self._plan.seed)
        draw = WaveSampler(self._study, self._space, sampled_by, shares=self._shares(width))
        numbers = self._desk.claim_many(width, draw)
        if not numbers:
            return False
        with self._desk.heart(*numbers):
            try:
                self._train_all(numbers)
            except BaseException:
                for number in numbers:
                    with suppress(Exception):
                        self._desk.lose(number)
                raise
        return True

    def _shares(self, width: int) -> Shares:
        alike = self._train.alike() if isinstance(self._train, SortsTrials) else ()
        found = Shares(self._space, alike, width=width)
        for trial in self._study.get_trials(deepcopy=False):
            if PLACE in trial.user_attrs:
                found.note(trial.user_attrs[PLACE], decode(self._space, trial.params))
        return found

    def _train_all(self, numbers: Sequence[int]) -> None:
        known = self._study.get_trials(deepcopy=False)
        members = [Member(n, decode(self._space, known[n].params), dict(known[n].user_attrs)) for n in numbers]
        groups = self._train.groups(members, self._study)
        wave = Wave(
            self._study,
            groups,
            epochs=self._train.epochs(),
            halving=self._plan.pruner == "halving",
            tell=self._tell,
        )
        try:
            wave.run()
        except SearchError:
            raise
        except Exception as error:  # whatever it was, each trial may meet it alone
            if is_storage_trouble(error):
                raise
        grouped = {member.number for group in groups for member in group.members}
        for number in [*wave.left, *(n for n in numbers if n not in grouped)]:
            self._alone(self._desk.take(number))
            self._progress()

    def _tell(self, ended: Sequence[FinishedTrial]) -> None:
        self._desk.tell(ended)
        self._progress()
