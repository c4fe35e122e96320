"""`GroupedTrials`: the trials before a fit, trained together where the module offers that."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from pytorch_lightning import LightningModule
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from callbacks._search_group import Ended, Member
from callbacks._search_random import same_random_numbers
from callbacks._search_settings import put
from callbacks._search_trainer import TRAINING, Trials, baseline_of, callbacks_of, is_beaten, quiet
from callbacks._search_watch import TrialWatch

if TYPE_CHECKING:
    from optuna import Study, Trial

_MOST, _GENERATIONS = 16, 4  # trials at once; times at least that a study is asked, as each learns from those before
_USUAL = ("val_accuracy", "val_r2")


class Fits(Protocol):
    """Fits that are trained in step, named by their places. `curves` hold one number an epoch by name."""

    curves: Sequence[Mapping[str, Sequence[float]]]

    def run(self, epochs: int) -> None:
        """Train until so many epochs are done."""

    def keep(self, trials: Sequence[int]) -> None:
        """Go on with these alone."""


@runtime_checkable
class GroupsFits(Protocol):
    """A module that can train many fits of itself at once, each to the numbers it would come to alone."""

    def trials_at_once(self, rows: int) -> int:
        """How many, with mini-batches of so many rows; 0 if each is better trained alone."""

    def trial_group(self, rates: Sequence[Mapping[str, float]], **how: Any) -> Fits | None:
        """The fits from the weights as they are; None if the module cannot.

        Args:
            rates: For each fit the learning rate by the name `lr`.
            **how: `seed` of the run, `train` and `val` loaders, `monitor` and whether it is good when `high`, and
                further `curves` that are wanted.
        """


class GroupedTrials:
    """Trains the trials of a search: together where each comes out as it would alone, else one by one.

    Args:
        trials: How one is trained alone.
    """

    def __init__(self, trials: Trials) -> None:
        self._trials, self._recipe = trials, trials.recipe
        self._plain = _is_plain(trials)

    def __call__(self, trial: "Trial", values: Mapping[str, Any]) -> float:
        """Train one."""
        return self._trials(trial, values)

    def together(self, n_trials: int) -> int:
        """How many trials to ask for at once."""
        return max(2, min(_MOST, n_trials // _GENERATIONS)) if self._plain else 1

    def alike(self) -> list[str]:
        """What the trials of a group have in common."""
        return [self._recipe.batch_size_name]

    def epochs(self) -> int:
        """Epochs of a trial."""
        return self._recipe.max_epochs

    def groups(self, members: Sequence[Member], study: "Study") -> list["FitGroup"]:
        """Groups of those with one batch size."""
        alike: dict[Any, list[Member]] = {}
        for member in members:
            alike.setdefault(member.values.get(self._recipe.batch_size_name), []).append(member)
        with same_random_numbers(), quiet():
            return [group for rows, some in alike.items() for group in self._groups_of(rows, some, study)]

    def _groups_of(self, rows: int | None, members: Sequence[Member], study: "Study") -> list["FitGroup"]:
        try:
            module, data = self._trials.copies()
            if rows is not None:
                put(self._recipe.batch_size_name, rows, (module, data))
            assert data is not None
            assert isinstance(module, GroupsFits)
            train, val = data.train_dataloader(), data.val_dataloader()
            if not _is_ordered(train) or not val or (rows is not None and train.batch_size != rows):
                return []
            size = module.trials_at_once(train.batch_size)
            if not size:
                return []
            made = []
            for at in range(0, len(members), size):
                some = members[at : at + size]
                fits = module.trial_group(
                    [_rates(member, self._recipe.lr_name) for member in some],
                    seed=torch.initial_seed(),
                    train=train,
                    val=val,
                    monitor=self._recipe.monitor,
                    high=self._recipe.mode == "max",
                    curves=_USUAL,
                )
                if fits is None:
                    return []
                made.append(FitGroup(self._trials, some, study, fits, module))
        except Exception:  # noqa: BLE001  # each of them will meet it alone, and say so
            return []
        return made


def _rates(member: Member, name: str) -> dict[str, float]:
    return {"lr": member.values[name]} if name else {}


def _is_ordered(loader: object) -> bool:
    """Whether the order of rows is a function of the epoch, so that all trials see the same."""
    return isinstance(loader, DataLoader) and isinstance(loader.sampler, DistributedSampler) and not loader.num_workers


def _is_plain(trials: Trials) -> bool:
    """Whether the trials are fits with nothing but epochs, on one CPU."""
    fit, recipe = trials.trainer, trials.recipe
    usual = (
        fit.precision == "32-true"
        and (fit.max_steps, fit.limit_train_batches, fit.limit_val_batches) == (-1, 1.0, 1.0)
        and (fit.val_check_interval, fit.check_val_every_n_epoch, fit.accumulate_grad_batches) == (1.0, 1, 1)
        and not fit.gradient_clip_val
        and not fit.overfit_batches  # type: ignore[attr-defined]  # a connector's
    )
    alone = fit.world_size == 1 and fit.strategy.root_device.type == "cpu" and recipe.max_epochs > 0
    shaped = any(isinstance(each, TRAINING) for each in callbacks_of(fit))
    offers = isinstance(trials.module, GroupsFits) and recipe.lr_name in ("", "lr")
    data = getattr(fit, "datamodule", None)
    return usual and alone and not shaped and offers and data is not None


class FitGroup:
    """Trials that are trained in step.

    Args:
        trials: How the search trains.
        members: The trials.
        study: The study.
        fits: Their fits, in the same order.
        module: What they are fits of.
    """

    def __init__(
        self, trials: Trials, members: Sequence[Member], study: "Study", fits: Fits, module: LightningModule
    ) -> None:
        self.members = members
        self._trials, self._fits = trials, fits
        mode = trials.recipe.mode
        self._places = {member.number: place for place, member in enumerate(members)}
        self._left = list(self._places)
        self._watches = {
            number: TrialWatch(
                trials.recipe.monitor,
                mode,
                baseline=baseline_of(module),
                is_beaten=lambda value: is_beaten(study, mode, value),
                pulse=trials.pulse,
            )
            for number in self._places
        }

    def run(self, epochs: int) -> None:
        """Train those that are left until so many epochs are done."""
        self._fits.run(epochs)
        self._trials.pulse()
        for number in self._left:
            self._watches[number].take(self._fits.curves[self._places[number]])

    def reports(self, number: int) -> list[float]:
        """The metric after each epoch."""
        return self._watches[number].values

    def hopeless(self, number: int) -> str:
        """Why a trial is ended at once; empty if it is not."""
        watch = self._watches[number]
        lost = watch.values[-1]
        if lost - lost != 0:  # no finite number
            return f"{watch.monitor} is {lost} at step {len(watch.values) - 1}"
        return watch.hopeless()

    def keep(self, numbers: Sequence[int]) -> None:
        """Go on with these alone."""
        self._left = list(numbers)
        self._fits.keep([self._places[number] for number in numbers])

    def end(self, number: int, reason: str) -> Ended:
        """What became of a trial."""
        watch, member = self._watches[number], self.members[self._places[number]]
        result = watch.best() if self._trials.recipe.keeps_best else watch.last()
        verdict, cause = watch.fate()
        self._trials.tell(member, member.values, watch, None if reason else result, None)
        return Ended([result], {"verdict": verdict, "cause": cause, "epochs": watch.epochs})
