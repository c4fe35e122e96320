"""What a checkpoint reaches on the validation or test set, and what the trivial prediction does."""

import sys
from pathlib import Path

from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.utilities.model_helpers import is_overridden

from lightning_mods.checkpoints import epochs_done, read_checkpoint
from lightning_mods.cli import ModsCLI
from lightning_mods.runs import RunError
from lightning_mods.summary import RunSummary

_WORDS = {"val": "validation", "test": "test"}


def evaluate(cli: ModsCLI, checkpoint: Path | None, stage: str) -> dict[str, float]:
    """Metrics, by name without the stage, of a checkpoint (None: the weights as they are) on one set.

    Args:
        cli: The command with its model, data module and trainer.
        checkpoint: Where the weights come from.
        stage: `val` or `test`.

    Returns:
        Nothing where there is no such set, or the model has no step for it.
    """
    if not has_set(cli.model, cli.datamodule, stage):
        return {}
    bar = cli.trainer.progress_bar_callback
    if bar is not None:
        bar.disable()
    verb = cli.trainer.validate if stage == "val" else cli.trainer.test
    verb(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, verbose=False, weights_only=True)
    return of_stage({name: float(value) for name, value in cli.trainer.callback_metrics.items()}, stage)


def of_stage(metrics: dict[str, float], stage: str) -> dict[str, float]:
    """The metrics of one stage, without its name in theirs."""
    return {name.removeprefix(f"{stage}_"): value for name, value in metrics.items() if name.startswith(stage)}


def baseline(cli: ModsCLI, stage: str) -> dict[str, float]:
    """Metrics of the trivial prediction on one set, where the data module knows them."""
    known = getattr(cli.datamodule, "baseline", None)
    found = dict(known(stage)) if callable(known) else {}
    loss = getattr(cli.model, "baseline_loss", None)
    return {**found, "loss": float(loss)} if loss is not None else found


def has_set(model: LightningModule, data: LightningDataModule | None, stage: str) -> bool:
    """Whether the model can be evaluated on a stage and there are rows to do it with."""
    hook = f"{stage}_dataloader"
    owner = data if data is not None and is_overridden(hook, data, LightningDataModule) else model
    if not is_overridden(f"{'validation' if stage == 'val' else stage}_step", model):
        return False
    if not is_overridden(hook, owner):
        return False
    loaders = getattr(owner, hook)()
    return loaders is not None and not (isinstance(loaders, list | tuple) and not loaders)


def print_results(cli: ModsCLI, checkpoint: Path | None, stage: str) -> None:
    """Evaluate a checkpoint on one set and print the table.

    Raises:
        RunError: There is no such set.
    """
    found = evaluate(cli, checkpoint, stage)
    if not found:
        raise RunError(
            f"there is no {_WORDS[stage]} set: --data.{stage}_path=FILE or --data.{stage}_fraction makes one."
        )
    epoch = epochs_done(read_checkpoint(checkpoint)) - 1 if checkpoint else None
    summary = RunSummary({stage: found}, {stage: baseline(cli, stage)}, best_epoch=epoch, checkpoint=checkpoint)
    if cli.trainer.is_global_zero:
        sys.stdout.write(f"{summary}\n")
