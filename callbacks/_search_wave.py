"""A wave: trials that are asked for at once, trained in groups, compared at the same epochs, and told when they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from callbacks._search_group import Group
from callbacks._search_halving import best_so_far, rungs, survivors
from callbacks._search_tell import Told

if TYPE_CHECKING:
    from optuna import Study


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
        tell: Callable[[Sequence[Told]], None],
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
            told.append(Told(number, reason, found.values, found.attrs, list(groups[number].reports(number))))
        for group in {id(group): group for group in groups.values()}.values():
            group.keep([number for number, its in self._left.items() if its is group])
        self._tell(told)
