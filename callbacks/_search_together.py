"""Claims trials by the wave, trains them together, and tells the study what came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from callbacks._search_draw import IN_MEMORY, Draw
from callbacks._search_engines import make_sampler
from callbacks._search_error import SearchError
from callbacks._search_group import Member, SortsTrials, TrainsTogether
from callbacks._search_plan import Plan
from callbacks._search_recovery import PLACE, Desk
from callbacks._search_shares import Shares
from callbacks._search_space import Space, decode
from callbacks._search_study import is_storage_trouble
from callbacks._search_tell import Told
from callbacks._search_wave import Wave

if TYPE_CHECKING:
    from optuna import Study, Trial


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
        desk: Desk,
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
        draw = Draw(self._study, self._space, sampled_by, shares=self._shares(width))
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

    def _tell(self, ended: Sequence[Told]) -> None:
        self._desk.tell(ended)
        self._progress()
