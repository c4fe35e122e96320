"""What `predict` does once the command line has been looked at: predict the rows of a file and write a CSV."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.utilities.model_helpers import is_overridden

from datamodules import DataError
from lightning_mods.checkpoints import epochs_done, read_checkpoint
from lightning_mods.cli.lightning_cli import ModsCLI
from lightning_mods.cli.predictions import prediction_rows, write_csv
from lightning_mods.cli.run import run
from lightning_mods.console.summary import RunSummary
from lightning_mods.console.terminal import say
from lightning_mods.runs import RunError

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


def validate(args: Sequence[str]) -> None:
    """Evaluate a checkpoint on the validation set."""
    run("validate", args, _validate)


def test(args: Sequence[str]) -> None:
    """Evaluate a checkpoint on the test set."""
    run("test", args, _test)


def _validate(cli: ModsCLI, checkpoint: Path | None) -> None:
    print_results(cli, checkpoint, "val")


def _test(cli: ModsCLI, checkpoint: Path | None) -> None:
    print_results(cli, checkpoint, "test")


def predict(args: Sequence[str]) -> None:
    """Predict the rows of a file.

    Args:
        args: The flags.
    """
    run("predict", args, _predict)


def _predict(cli: ModsCLI, checkpoint: Path | None) -> None:
    if getattr(cli.datamodule, "predict_path", "") is None:
        raise DataError("--data.predict_path is needed: a file with the rows to predict.")
    outputs = cli.trainer.predict(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    if not cli.trainer.is_global_zero:
        return
    header, rows = prediction_rows(outputs or [], getattr(cli.datamodule, "class_names", None))
    count = write_csv(Path(cli.config.output), header, rows)
    say(f"{count} predictions in {cli.config.output}")
