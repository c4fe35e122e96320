"""`GroupedTrials`: the trials of a study, trained together where they are MLPs that differ in numbers alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from callbacks.search import Member
from datamodules import TabularDataModule
from lightning_mods.classifier import MLPClassifier
from lightning_mods.regressor import MLPRegressor
from lightning_mods.study_cli import StudyCLI
from lightning_mods.study_group import StudyGroup
from lightning_mods.study_trials import Trials
from lightning_mods.trial_group_network import MOST, RATES

if TYPE_CHECKING:
    from optuna import Study, Trial

_GENERATIONS = 4  # of trials that a study is asked for at least: each learns from those before
# Flags of the trainer that say where, how long and how loud; with any other, trials are trained by a Trainer.
_HARMLESS = {
    "max_epochs", "default_root_dir", "logger", "accelerator", "devices", "log_every_n_steps", "num_sanity_val_steps",
    "enable_progress_bar", "enable_checkpointing", "enable_model_summary",
}  # fmt: skip


class GroupedTrials:
    """Trains the trials of a study: together where each of them comes out as it would alone, else one by one.

    Args:
        trials: How one is trained alone.
    """

    def __init__(self, trials: Trials) -> None:
        self._trials = trials
        self._cli, self._study = trials.cli, trials.study
        self._templates: dict[tuple[str, int], StudyCLI] = {}
        self._obstacle = obstacle(trials.cli, trials.space)

    def __call__(self, trial: "Trial", values: Mapping[str, Any]) -> list[float]:
        """Train one."""
        return self._trials.train(trial, values)

    def together(self, n_trials: int) -> int:
        """How many trials to ask for at once."""
        if self._study.fused is False or self._obstacle:
            return 1
        return max(2, min(MOST, n_trials // (_GENERATIONS * self._study.workers)))

    def alike(self) -> list[str]:
        """What the trials of a group have in common: all but the rates."""
        return [name for name in self._trials.space if not _is_rate(name)]

    def epochs(self) -> int:
        """Epochs of a trial, over all its fits."""
        return self._study.fits * int(self._cli.trainer.max_epochs or 0)

    def groups(self, members: Sequence[Member], study: "Study") -> list[StudyGroup]:
        """Groups of those that differ in their rates alone."""
        alike: dict[str, list[Member]] = {}
        for member in members:
            alike.setdefault(_others(member.values), []).append(member)
        return [group for some in alike.values() for group in self._groups_of(some, study)]

    def _groups_of(self, members: Sequence[Member], study: "Study") -> list[StudyGroup]:
        others = _others(members[0].values)
        try:
            one = self._template(others, members[0].values, 0)
            rows = one.datamodule.resolved_batch_size
        except Exception:  # noqa: BLE001  # each of them will meet it alone, and say so
            return []
        size = one.model.trials_at_once(rows)
        if not size:
            return []
        parts = [members[at : at + size] for at in range(0, len(members), size)]
        return [
            StudyGroup(self._trials, part, study, lambda index: self._template(others, members[0].values, index))
            for part in parts
        ]

    def _template(self, others: str, values: Mapping[str, Any], index: int) -> StudyCLI:
        """The model, not to be changed, and the data of one of the fits of all trials that differ in rates alone."""
        if (others, index) not in self._templates:
            seed, held_out = divmod(index, max(self._study.folds, 1))
            held = held_out if self._study.folds else None
            one = self._cli.variant(values, self._cli.base_seed + seed, held_out=held)
            one.datamodule.prepare_data()
            one.datamodule.setup("fit")
            self._templates[others, index] = one
        return self._templates[others, index]


def _others(values: Mapping[str, Any]) -> str:
    """All values but the rates, as a key."""
    return json.dumps({name: value for name, value in values.items() if not _is_rate(name)}, sort_keys=True)


def _is_rate(name: str) -> bool:
    section, _, rate = name.partition(".")
    return section == "model" and rate in RATES


def obstacle(cli: StudyCLI, space: Iterable[str]) -> str:
    """Why the trials of a study cannot be trained together, in a few words; empty if they can."""
    ours = type(cli.model) in (MLPClassifier, MLPRegressor) and type(cli.datamodule) is TabularDataModule
    if not ours or cli.model.chain_rule() is None:
        return "the model or the data is not ours"
    if cli.config.get("optimizer") is not None or cli.config.get("lr_scheduler") is not None:
        return "an optimizer or a schedule of their own"
    if others := [name for name in space if not name.startswith("model.") and name != "data.batch_size"]:
        return f"{others[0]} is searched"
    if cli.trainer.strategy.root_device.type != "cpu" or cli.trainer.world_size > 1:
        return "not one CPU"
    given, usual = cli.config.trainer.as_dict(), cli.parser.get_defaults().trainer.as_dict()
    odd = [name for name in given if name not in _HARMLESS and given[name] != usual[name] and given[name] != []]
    if odd or given["logger"] not in (None, True, False) or not (given["max_epochs"] or 0) > 0:
        return f"trainer.{(odd or ['logger or max_epochs'])[0]}"
    known = {"val_loss", *(f"val_{name}" for name in cli.model.metric_names)}
    if not {*cli.study.metrics} <= known or (not cli.datamodule.val_fraction and not cli.datamodule.val_path):
        return "the metric"
    return ""
