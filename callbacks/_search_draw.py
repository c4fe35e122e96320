"""Draws the values of several trials at once, in memory: a storage would be written and read for each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from callbacks._search_shares import Shares
from callbacks._search_space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

# The others keep what they know in the storage (cmaes, qmc), and have to see it there.
IN_MEMORY = ("tpe", "gp", "random", "grid")


class Draw:
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
