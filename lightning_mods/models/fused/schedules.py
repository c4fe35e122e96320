"""Schedules of the learning rate that go by the step: stepped where Lightning's loop is not asked, and put back."""

import copy
from collections.abc import Mapping
from typing import Any

from torch.optim import lr_scheduler

from callbacks.host.packages import Trainer
from lightning_mods.models.schedule import CosineSchedule


def steps_alone(scheduler: Any) -> bool:
    """Return whether a schedule's steps depend on nothing but their number: one of torch's, or ours."""
    if type(scheduler) is CosineSchedule:
        return True
    if type(scheduler).__module__ != lr_scheduler.__name__ or isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        return False
    return all(map(steps_alone, getattr(scheduler, "_schedulers", ())))  # of `SequentialLR` and `ChainedScheduler`


def step_schedule(trainer: Trainer) -> Any:
    """Return the schedule that goes by the step, if it is the only one and of a kind that `steps_alone`; else None."""
    configs = trainer.lr_scheduler_configs
    if len(configs) != 1 or configs[0].interval != "step" or configs[0].frequency != 1:
        return None
    return configs[0].scheduler if steps_alone(configs[0].scheduler) else None


class Course:
    """What a schedule makes of an optimizer's settings over some coming steps; nothing where there is none."""

    def __init__(self, trainer: Trainer) -> None:
        self._scheduler, self._taken = step_schedule(trainer), 0
        self._group = trainer.optimizers[0].param_groups[0]
        if self._scheduler is not None:
            rest = {name: value for name, value in self._group.items() if name != "params"}
            self._before = copy.deepcopy(self._scheduler.state_dict()), rest

    @property
    def goes_by_the_step(self) -> bool:
        """Return whether there is a schedule."""
        return self._scheduler is not None

    def settings(self, step: int) -> Mapping[str, Any]:
        """Return the optimizer's settings for a coming step, 0 the next one; what comes before it has been taken."""
        while self._scheduler is not None and self._taken < step:
            self._scheduler.step()
            self._taken += 1
        return self._group

    def put_back(self) -> None:
        """Let no step have been taken."""
        if self._scheduler is not None:
            state, rest = self._before
            self._scheduler.load_state_dict(state)
            self._group.update(rest)
