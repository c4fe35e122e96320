"""What a run keeps of how it was begun: its config.yaml, and the classes and settings in its checkpoints."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from callbacks.host.files import replacing
from callbacks.host.lightning import CSVLogger, LightningModule, SaveConfigCallback, Trainer
from lightning_mods.cli.classes import OURS
from lightning_mods.cli.command_line import short_class_paths
from lightning_mods.loggers.table import take_up
from lightning_mods.loggers.tensorboard import EventLogger
from lightning_mods.runs.checkpoints import folder_of_run
from lightning_mods.runs.restoring import check_optimizers, check_states


class RunRecord(SaveConfigCallback):
    """Writes a run's config.yaml, and names its classes and settings in its checkpoints."""

    _restored: Mapping[str, Any] | None = None
    _moment = 0.0  # at which the checkpoint was written that a fit goes on from

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write nothing yet."""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """See that the states in a checkpoint are such as this fit has."""
        if trainer.state.fn != "fit":  # the best one is evaluated
            return
        check_states(trainer, checkpoint)
        self._restored = checkpoint
        saved = checkpoint.get("lightning_mods", {}).get("time")
        self._moment = float(saved or Path(str(trainer.ckpt_path)).stat().st_mtime)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See the same of the optimizers, which are there by now and not yet restored."""
        if self._restored is not None:
            check_optimizers(trainer, self._restored)
            self._restored = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write config.yaml, now that all states are restored: a fit that fails before changes no earlier run.

        What a killed one has logged after its last checkpoint goes, as it is logged again.
        """
        folder = folder_of_run(trainer)  # asks all ranks
        if trainer.is_global_zero and folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / self.config_filename) as partial:
                partial.write_text(self.parser.dump(self.config, skip_none=False), encoding="utf-8")
        for logger in trainer.loggers if self._moment else []:
            if isinstance(logger, EventLogger):
                logger.forget_after(self._moment, trainer.current_epoch)
            elif isinstance(logger, CSVLogger):
                take_up(logger, trainer.current_epoch, trainer.global_step)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note which class the hyperparameters belong to, and what a resume must know."""
        for logger in trainer.loggers:
            if isinstance(logger, EventLogger):
                logger.flush()  # a run that goes on from here writes only what comes after
        data = getattr(trainer, "datamodule", None)
        kinds = {"model": type(pl_module), "data": type(data)}
        checkpoint["lightning_mods"] = {key: k.__name__ for key, k in kinds.items() if OURS.get(k.__name__) is k}
        kept = {"recipe": self.config.recipe, "settings": kept_settings(self.config), "time": time.time()}
        checkpoint["lightning_mods"] |= kept


def flat_settings(config: Namespace, sections: Sequence[str]) -> dict[str, Any]:
    """Return what a configuration says in some sections, flag to value; a section of a class also names it."""
    found: dict[str, Any] = {}
    for section in sections:
        chosen = config.get(section)
        if chosen is None:
            continue
        plain = chosen.as_dict()
        if "class_path" in plain:
            found[section] = plain["class_path"]
            plain = plain.get("init_args", {})
        found |= {f"{section}.{key}": value for key, value in plain.items()}
    return found


def as_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as they are kept, to be compared with those of a later start."""
    return {name: short_class_paths(repr(value)) for name, value in settings.items()}


def kept_settings(config: Namespace) -> dict[str, str]:
    """Return what a checkpoint keeps beside the hyperparameters, flag to text: what would come out otherwise."""
    return as_texts({"seed_everything": config.seed_everything} | flat_settings(config, ("optimizer", "lr_scheduler")))
