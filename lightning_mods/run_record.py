"""`RunRecord`: what a run's folder says about the run."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback

from lightning_mods.checkpoints import folder_of_run
from lightning_mods.classes import OURS
from lightning_mods.files import replacing


class RunRecord(SaveConfigCallback):
    """Writes a run's config.yaml, and names its classes in its checkpoints."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write config.yaml when the fit begins; a kill in between must not lose the one of a resumed run."""
        folder = folder_of_run(trainer)  # asks all ranks
        if stage == "fit" and trainer.is_global_zero and folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / self.config_filename) as partial:
                partial.write_text(self.parser.dump(self.config, skip_none=False), encoding="utf-8")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note which class the hyperparameters belong to."""
        data = getattr(trainer, "datamodule", None)
        names = {"model": type(pl_module).__name__, "data": type(data).__name__}
        checkpoint["lightning_mods"] = {key: name for key, name in names.items() if name in OURS}
