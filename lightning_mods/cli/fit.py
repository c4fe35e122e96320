"""What `fit` does once the command line has been looked at: train, and end with a word on what became of it."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks import FitMonitor, GradientMonitor
from datamodules import TabularDataModule
from lightning_mods.checkpoints import epochs_done, metrics_in, read_checkpoint
from lightning_mods.cli.evaluate import baseline, evaluate, of_stage
from lightning_mods.cli.lightning_cli import ModsCLI
from lightning_mods.cli.run import run
from lightning_mods.console.summary import EpochTimer, RunSummary
from lightning_mods.console.terminal import say
from lightning_mods.fused.overhead import LongLived, pass_by_idle_hooks
from lightning_mods.loggers.views import close_loggers, how_to_look
from lightning_mods.models.module import MLPModule
from lightning_mods.runs import find_checkpoint

# Floating-point operations of a step below which a second thread costs more than it gives: it takes part in products
# of some microseconds each, and waits between them. 1e9 are about 11 ms of one core.
SMALL_STEP = 1e9


def limit_threads(trainer: Trainer, model: object, rows: object) -> None:
    """Train an MLP whose steps are small on one thread, unless OMP_NUM_THREADS says otherwise.

    Args:
        trainer: Only a fit on the CPU is concerned.
        model: An `MLPModule`; any other module is left alone, as its parameters do not tell its cost.
        rows: Rows of a mini-batch, where known.
    """
    if "OMP_NUM_THREADS" in os.environ or trainer.strategy.root_device.type != "cpu":
        return
    if not isinstance(model, MLPModule) or not isinstance(rows, int):
        return
    # Forward, and backward to the inputs and to the weights: three products of 2 · parameters · rows each.
    operations = 6 * sum(parameter.numel() for parameter in model.parameters()) * rows
    if operations < SMALL_STEP:
        torch.set_num_threads(1)


class ThreadLimit(Callback):
    """Limits the threads anew where a search before the fit has found another batch size.

    Made before the threads are limited: their number then is what a larger batch gets.
    """

    def __init__(self) -> None:
        self._before = torch.get_num_threads()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count again; optimizers are made by now, and the search was over before them."""
        torch.set_num_threads(self._before)
        limit_threads(trainer, pl_module, getattr(getattr(trainer, "datamodule", None), "resolved_batch_size", None))


def fit(args: Sequence[str]) -> None:
    """Train a model on a table.

    Args:
        args: The flags.
    """
    run("fit", args, _fit)


def _fit(cli: ModsCLI, checkpoint: Path | None) -> None:
    ours = [ThreadLimit(), LongLived()]
    pass_by_idle_hooks(ours)
    cli.trainer.callbacks.extend(ours)  # type: ignore[attr-defined]  # a connector's
    limit_threads(cli.trainer, cli.model, getattr(cli.datamodule, "resolved_batch_size", None))
    if checkpoint is not None and isinstance(cli.datamodule, TabularDataModule):
        # Read and encode now what will be read anyway: a table that does not fit must not touch the run's folder.
        cli.datamodule.train_dataloader()
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        if cli.trainer.interrupted:
            # A search before the fit has said how it goes on.
            kept = find_checkpoint("last", cli.root) is not None
            how = "; the same command with --ckpt_path=last goes on from its last checkpoint"
            say(f"stopped{how if kept else ' before there was a checkpoint'}.")
        raise
    if not cli.trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
        summary = _summary(cli, cli.trainer)
        if cli.trainer.is_global_zero:
            sys.stdout.write(f"\n{summary}\n{_verdict(cli.trainer)}")


def _verdict(trainer: Trainer) -> str:
    """What the monitors left for us to say; one that the user brought has said it already."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a connector's
    fits = [c.last_word for c in callbacks if isinstance(c, FitMonitor) and not c.closing]
    health = [f"health       {c.last_word}" for c in callbacks if isinstance(c, GradientMonitor) and not c.closing]
    return "".join(f"\n{word}\n" for word in [*fits, *health])


def _summary(cli: ModsCLI, trainer: Trainer) -> RunSummary:
    epochs = trainer.current_epoch
    timers = [c for c in trainer.callbacks if isinstance(c, EpochTimer)]  # type: ignore[attr-defined]  # a connector's
    path = Path(getattr(trainer.checkpoint_callback, "best_model_path", "") or "")
    best = path if path.is_file() else None
    kept = read_checkpoint(best) if best else None
    # The metrics of the best epoch stand in its checkpoint, unless the user's own callback wrote it.
    known = of_stage(metrics_in(kept) if kept else {}, "val")
    results = {"val": known or evaluate(cli, best, "val"), "test": evaluate(cli, best, "test")}
    close_loggers(trainer.loggers if trainer.is_global_zero else [])
    return RunSummary(
        results={stage: found for stage, found in results.items() if found},
        baselines={stage: baseline(cli, stage) for stage, found in results.items() if found},
        best_epoch=epochs_done(kept) - 1 if kept else None,
        epochs=epochs,
        seconds=timers[0].seconds,
        checkpoint=best,
        views=how_to_look(trainer.loggers, Path(trainer.default_root_dir)) if trainer.is_global_zero else (),
    )
