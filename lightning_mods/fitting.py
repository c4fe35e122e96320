"""What `fit` does once the command line has been looked at: train, and end with a word on what became of it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning import Callback, Trainer

from callbacks import FitMonitor, GradientMonitor
from datamodules import TabularDataModule
from lightning_mods.checkpoints import epochs_done, metrics_in, read_checkpoint
from lightning_mods.cli import ModsCLI
from lightning_mods.evaluate import baseline, evaluate, of_stage
from lightning_mods.light_dispatch import pass_by_idle_hooks
from lightning_mods.logger_views import close_loggers, how_to_look
from lightning_mods.long_lived import LongLived
from lightning_mods.running import run
from lightning_mods.runs import find_checkpoint
from lightning_mods.summary import EpochTimer, RunSummary
from lightning_mods.terminal import say
from lightning_mods.threads import ThreadLimit, limit_threads


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
