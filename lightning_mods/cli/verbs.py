"""The verbs `fit`, `validate`, `test` and `predict`: the checkpoint that is meant, the work, and what is said of it."""

import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import Any, Literal

import torch

from callbacks import FitMonitor
from callbacks.diagnosis.names import TEST, VAL, is_validation, unstaged
from callbacks.fit.reader import baseline_of, baselines_on
from callbacks.health.nonfinite import NonFiniteError
from callbacks.host import logged
from callbacks.host.lightning import MisconfigurationException
from callbacks.host.packages import PACKAGES, Callback, LightningDataModule, LightningModule, Trainer, is_overridden
from callbacks.host.rendezvous import ranks_meet_here
from callbacks.loggers.dispatch import write_scalars
from datamodules import DataError, TabularDataModule
from datamodules.tabular import drift
from lightning_mods.cli.command_line import (
    CommandLine,
    UsageError,
    causes_of,
    disk_error,
    error_line,
    naming_its_origin,
    raised_in,
    words_of,
)
from lightning_mods.cli.lightning_cli import ModsCLI
from lightning_mods.cli.loggers import LOGGER_FLAG
from lightning_mods.cli.siblings import OUR_PACKAGES
from lightning_mods.loggers.progress import EpochTimer, close_loggers, how_to_look
from lightning_mods.loggers.terminal import STAGES, Certainty, RunSummary, is_leading, quiet, say, writers_report_once
from lightning_mods.models.fused.group import SMALL_STEP, step_operations
from lightning_mods.models.fused.lightning_internals import epochs_done
from lightning_mods.models.module import MLPModule
from lightning_mods.runs import RunError, find_checkpoint, run_of
from lightning_mods.runs.checkpoints import LastCheckpoint, known_folder_of_run, metrics_in, read_checkpoint
from lightning_mods.runs.claim import RunClaim
from lightning_mods.runs.inspection.intervals import checked_level
from lightning_mods.runs.inspection.report import Inspection, look
from lightning_mods.runs.inspection.residuals import Residuals
from lightning_mods.runs.inspection.uncertainty import coverage_line, learn_uncertainty
from lightning_mods.runs.predicting import PredictionWriter, let_keep
from lightning_mods.runs.predictions import check_format, check_output, said_of, writing_predictions
from lightning_mods.runs.reference import ReferenceFit
from lightning_mods.runs.restoring import check_weights, restoring


def run(line: CommandLine, act: Callable[[ModsCLI, Path | None], None], folder: Path | None = None) -> None:
    """Parse, instantiate and act for a verb, with the CLI and the checkpoint that `--ckpt_path` means.

    A `folder` is that of a fit which is part of a run, of which somebody else takes care.
    """
    with mistakes_in_one_line(line.verb, line):
        quiet()
        line = line.without_sections("study", "space")
        path = _checkpoint_path(line)
        checkpoint = read_checkpoint(path) if path else None
        with RunClaim(leads=is_leading()) as claim, writers_report_once(), restoring(path):
            cli = _cli(line, checkpoint, path, claim, folder)
            if checkpoint is not None:
                check_weights(cli.model, checkpoint, path)
            del checkpoint  # as large as the model
            with ranks_meet_here(cli.trainer):
                act(cli, path)


def _cli(
    line: CommandLine, checkpoint: dict[str, Any] | None, path: Path | None, claim: RunClaim, folder: Path | None
) -> ModsCLI:
    """Make the CLI; what the parser refuses, and nobody said, comes from the checkpoint."""
    resumed = path if line.verb == "fit" else None
    try:
        return ModsCLI(line, checkpoint=checkpoint, resumed=resumed, claim=claim, folder=folder)
    except (UsageError, ArgumentError) as error:
        said = error_line(error)
        flag = re.match(r"--(model|data)\.[\w.]+", said)
        if path is None or flag is None or line.said(flag[0].removeprefix("--")) is not None:
            raise
        raise RunError(f"{path} holds settings that cannot be: {said}") from error


_MISTAKES = (UsageError, RunError, DataError, ArgumentError, MisconfigurationException, NonFiniteError, OSError)


@contextmanager
def mistakes_in_one_line(verb: str, line: CommandLine | None = None) -> Iterator[None]:
    """End a person's mistake in one line, which begins with the verb, and exit code 2.

    It is one of the kinds above, or what Lightning or an optimizer of torch's refuses by itself, such as a callback
    that does not find the metric it was given; or a full disk, around which packages put an error of their own. What
    our own code or the user's raises goes on as it is.
    """
    try:
        yield
    except Exception as error:
        is_known = isinstance(error, _MISTAKES) or disk_error(error) is not None
        before = "" if is_known else _refusing(error)
        if before is None:
            raise
        is_said = isinstance(error, RunError) or isinstance(
            causes_of(error)[-1], UsageError | RunError | DataError | NonFiniteError | OSError
        )
        text = error_line(error if is_known else UsageError(before + words_of(error)))
        sys.stderr.write(f"{verb}: {text if is_said or line is None else naming_its_origin(text, line)}\n")
        raise SystemExit(2) from None


def _refusing(error: BaseException) -> str | None:
    """Return what to say before an error that a logger's service, Lightning or an optimizer raised; None for others."""
    inner = f"{raised_in(error)}."
    places = (f"{frame.f_globals.get('__name__')}." for frame, _ in walk_tb(error.__traceback__))
    if any(".loggers." in place for place in places) and inner.partition(".")[0] not in OUR_PACKAGES:
        return f"--{LOGGER_FLAG}: "
    return "" if inner.startswith(_REFUSING) else None


_REFUSING = ("torch.optim.", *(f"{name}." for each in PACKAGES.items() for name in each))


def _checkpoint_path(line: CommandLine) -> Path | None:
    is_fit = line.verb == "fit"
    # The file that a fit leaves says what it began from, which is not what is to be evaluated.
    which = line.said("ckpt_path") if is_fit else line.typed.get("ckpt_path") or "best"
    if which is None:
        return None
    root = Path(line.said("trainer.default_root_dir") or ".")
    found = find_checkpoint(str(which), root)
    if found is None and (not is_fit or which == "best"):
        raise RunError(f"--ckpt_path={which} needs a run of `lightning_mods.fit` with a checkpoint under {root}.")
    if found is None:
        say(f"note: there is no checkpoint under {root} yet; training starts anew.")
        return None
    if found.passed_over is not None:
        say(f"note: {found.passed_over}, the newest run, has no `{which}` checkpoint; {found.path} is taken.")
    return found.path


# ------------------------------------------------------------------ fit


def limit_threads(trainer: Trainer, model: object, data: object) -> None:
    """Train an `MLPModule` whose steps are small on one thread of a CPU, unless OMP_NUM_THREADS says otherwise.

    Any other module is left alone, as its parameters do not tell its cost; so is one whose data tell no batch size.
    """
    rows = getattr(data, "resolved_batch_size", None)
    is_free = "OMP_NUM_THREADS" not in os.environ and trainer.strategy.root_device.type == "cpu"
    if is_free and isinstance(model, MLPModule) and isinstance(rows, int):
        shapes = [parameter.shape for parameter in model.parameters()]
        if step_operations(shapes, rows) < SMALL_STEP:
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
        limit_threads(trainer, pl_module, getattr(trainer, "datamodule", None))


def train(cli: ModsCLI, checkpoint: Path | None) -> RunSummary | None:
    """Train, from a checkpoint where there is one, and return the table; None where nothing but the code was tried."""
    cli.trainer.callbacks.append(ThreadLimit())  # type: ignore[attr-defined]  # a connector's
    limit_threads(cli.trainer, cli.model, cli.datamodule)
    if _has_reference(cli):
        cli.trainer.callbacks.append(ReferenceFit())  # type: ignore[attr-defined]  # a connector's
    for monitor in cli.trainer.callbacks:  # type: ignore[attr-defined]  # a connector's
        if isinstance(monitor, FitMonitor):
            monitor.flags = _usable_flags(cli)
    if checkpoint is not None and isinstance(cli.datamodule, TabularDataModule):
        # Read and encode now what will be read anyway: a table that does not fit must not touch the run's folder.
        cli.datamodule.train_dataloader()
    if checkpoint is not None:
        done, most = cli.place.epochs or 0, cli.trainer.max_epochs
        if most is not None and -1 < most < done:
            raise RunError(
                f"--trainer.max_epochs={most} is less than the {done} epochs that {checkpoint} has behind it."
            )
        say(f"training goes on from {checkpoint}, with {done} epochs done.")
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        if cli.trainer.interrupted:
            # A search before the fit has said how it goes on.
            kept = any(isinstance(c, LastCheckpoint) and c.is_there for c in cli.trainer.callbacks)  # type: ignore[attr-defined]  # a connector's
            how = "; the same command with --ckpt_path=last goes on from its last checkpoint"
            say(f"stopped{how if kept else ' before there was a checkpoint'}.")
        raise
    if cli.trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
        return None
    return _fit_summary(cli, cli.trainer)


# What an optimizer or a schedule of the user's own takes the place of.
_OF_OPTIMIZER = ("model.lr", "model.momentum", "model.nesterov", "model.weight_decay", "model.lr_schedule")


def _usable_flags(cli: ModsCLI) -> dict[str, Any]:
    """Return the flags that do something in this fit, with their values."""
    flags = {name.replace(".init_args.", "."): value for name, value in cli.config.items()}
    dead: list[str] = []
    if cli.config_init.get("optimizer") is not None:
        dead += _OF_OPTIMIZER
    if cli.config_init.get("lr_scheduler") is not None:
        dead.append("model.lr_schedule")
    limits = cli.config.trainer
    if limits.max_steps != -1 or limits.max_time or limits.max_epochs == -1:
        dead.append("trainer.max_epochs")  # something else ends the fit
    if not isinstance(cli.model, MLPModule):
        dead.append("ensemble")
    data = cli.datamodule
    if not (isinstance(cli.model, MLPModule) and isinstance(data, TabularDataModule) and data.class_names):
        dead.append("calibrate")
    if isinstance(rows := getattr(cli.datamodule, "resolved_batch_size", None), int) and "data.batch_size" in flags:
        flags["data.batch_size"] = rows
    return {name: value for name, value in flags.items() if name not in dead}


def _has_reference(cli: ModsCLI) -> bool:
    """Whether the fit gets a reference of ours: for our models and tables, unless it is turned off."""
    ours = isinstance(cli.model, MLPModule) and isinstance(cli.datamodule, TabularDataModule)
    return bool(cli.config.reference and ours and not cli.trainer.fast_dev_run)  # type: ignore[attr-defined]  # set by a connector


def _fit_summary(cli: ModsCLI, trainer: Trainer) -> RunSummary:
    epochs = trainer.current_epoch  # an evaluation would count on
    timer = next(c for c in trainer.callbacks if isinstance(c, EpochTimer))  # type: ignore[attr-defined]  # a connector's
    path = Path(getattr(trainer.checkpoint_callback, "best_model_path", "") or "")
    best = path if path.is_file() else None
    kept = read_checkpoint(best) if best else None
    learned = _learn_uncertainty(cli, best, kept) if best is not None and kept is not None else False
    # The metrics of the best epoch stand in its checkpoint, unless the user's own callback wrote it.
    known = _of_stage(
        {n: value for n, value in metrics_in(kept).items() if is_validation(n)} if kept and not learned else {}, "val"
    )
    results = {"val": known or _validated(cli, best, epochs if learned else None), "test": evaluate(cli, best, "test")}
    if kept is not None:  # where nothing was evaluated, nothing was loaded
        cli.model.load_state_dict(kept["state_dict"])
    _inspect_fit(cli, [stage for stage, found in results.items() if found], (epochs_done(kept) if kept else epochs) - 1)
    close_loggers(trainer.loggers if trainer.is_global_zero else [])
    return RunSummary(
        results={stage: found for stage, found in results.items() if found},
        baselines={stage: _baseline(cli, stage) for stage, found in results.items() if found},
        references=next((c.scores for c in trainer.callbacks if isinstance(c, ReferenceFit)), {}),  # type: ignore[attr-defined]  # a connector's
        certainty={stage: _certainty(cli, stage) for stage, found in results.items() if found},
        best_epoch=epochs_done(kept) - 1 if kept else None,
        epochs=epochs,
        seconds=timer.seconds,
        checkpoint=best,
        views=how_to_look(trainer.loggers, Path(trainer.default_root_dir)) if trainer.is_global_zero else (),
    )


def _validated(cli: ModsCLI, best: Path | None, epochs: int | None) -> dict[str, float]:
    """Return validation metrics as `evaluate` does, without a point on the curves of the fit, which has ended.

    Where the model has changed since, loggers get them as results, after so many `epochs`.
    """
    trainer = cli.trainer
    loggers, trainer.loggers = trainer.loggers, []
    try:
        found = evaluate(cli, best, "val")
    finally:
        trainer.loggers = loggers
    if epochs is not None and loggers:
        write_scalars(trainer, {f"hp/val_{name}": value for name, value in found.items()}, epochs)
    return found


# ------------------------------------------------------------------ validate, test, predict


def evaluate(cli: ModsCLI, checkpoint: Path | None, stage: str) -> dict[str, float]:
    """Return metrics, by name without the stage, of a checkpoint (None: of the weights as they are) on `val` or `test`.

    None where there is no such set, or the model has no step for it.
    """
    if not has_set(cli.model, cli.datamodule, stage):
        return {}
    bar = cli.trainer.progress_bar_callback
    if bar is not None:
        bar.disable()
    verb = cli.trainer.validate if stage == "val" else cli.trainer.test
    verb(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, verbose=False, weights_only=True)
    return _of_stage(logged(cli.trainer), stage)


def _of_stage(metrics: dict[str, float], stage: str) -> dict[str, float]:
    """Metrics of one stage alone, by name without it."""
    return {short: metrics[name] for short, name in unstaged(metrics, _WORDS[stage]).items()}


_WORDS = {"val": VAL, "test": TEST}


def _learn_uncertainty(cli: ModsCLI, best: Path, kept: dict[str, Any]) -> bool:
    """Learn from the validation rows how sure predictions are; whether that changes them."""
    model, data, calibrate = cli.model, cli.datamodule, cli.config.calibrate
    if not (isinstance(model, MLPModule) and isinstance(data, TabularDataModule)):
        if calibrate:
            say("note: --calibrate is not used, it is for our MLPs on a TabularDataModule.")
        return False
    if cli.trainer.world_size > 1 or not _is_whole(cli.trainer, "val") or not has_set(model, data, "val"):
        if calibrate:
            say("note: --calibrate goes by all validation rows, in one process; there is none here.")
        return False
    model.load_state_dict(kept["state_dict"])
    for line in learn_uncertainty(model, data, best, calibrate=calibrate):
        say(line)
    return "temperature" in model.uncertainty


def _is_whole(trainer: Trainer, stage: str) -> bool:
    """Whether a set is evaluated as a whole; else so many batches are, or a share: who knows of how many rows."""
    limit = getattr(trainer, f"limit_{stage}_batches")
    return not isinstance(limit, int) and limit == 1.0


def _inspect_fit(cli: ModsCLI, stages: list[str], epoch: int) -> None:
    """Leave in the run's folder what one looks at after a fit: our models' predictions, and what columns count."""
    ours = isinstance(cli.model, MLPModule) and isinstance(cli.datamodule, TabularDataModule)
    if not ours or not cli.trainer.is_global_zero:
        return
    watched = any(isinstance(c, FitMonitor) and c.plot for c in cli.trainer.callbacks)  # type: ignore[attr-defined]  # a connector's
    inspection = Inspection(cli.trainer, cli.model, cli.datamodule, known_folder_of_run(cli.trainer), epoch)
    whole = [stage for stage in stages if _is_whole(cli.trainer, stage)]
    inspection.after_fit(whole, pictures=watched, importance=cli.config.importance)


def _inspect_set(cli: ModsCLI, checkpoint: Path | None, stage: str) -> list[str]:
    """Return lines about our model's predictions for a set, and with `--importance` write what the columns count."""
    ours = isinstance(cli.model, MLPModule) and isinstance(cli.datamodule, TabularDataModule)
    if not ours or not _is_whole(cli.trainer, stage):
        return []
    found = look(cli.model, cli.datamodule, stage)
    if cli.config.importance and checkpoint is not None:
        folder = run_of(checkpoint) or checkpoint.parent
        inspection = Inspection(cli.trainer, cli.model, cli.datamodule, folder, 0)
        inspection.say_importance(stage, "importance" if stage == "val" else f"importance_{stage}")
    if found is None:
        return []
    more = coverage_line(cli.model, found) if isinstance(found, Residuals) else []
    return [*found.lines(), *more]


def _certainty(cli: ModsCLI, stage: str) -> Certainty:
    """Return how sure the weights' metrics on a set are."""
    data, more = cli.datamodule, ""
    if not _is_whole(cli.trainer, stage):
        return Certainty()
    is_share = isinstance(data, TabularDataModule) and getattr(data, f"{stage}_path") is None
    if is_share and not (stage == "val" and data.folds):
        more = f"a --data.{stage}_fraction above {getattr(data, f'{stage}_fraction'):g} holds out more"
    with suppress(Exception):  # loaders and models of a stranger's
        if isinstance(cli.model, MLPModule) and isinstance(data, TabularDataModule):
            return Certainty(*cli.model.standard_errors(getattr(data, f"{stage}_dataloader")()), more)
        return Certainty(len(getattr(cli.trainer, f"{stage}_dataloaders").dataset), {}, more)
    return Certainty()


def _baseline(cli: ModsCLI, stage: str) -> dict[str, float]:
    """Loss and metrics of the trivial prediction on one set, as far as the model or the data module knows them."""
    known = getattr(cli.datamodule, "baseline", None)
    found = dict(known(stage)) if callable(known) else {}
    loss = baseline_of(cli.model)
    found |= {} if loss is None else {"loss": loss}
    return found | baselines_on(cli.model, getattr(cli.datamodule, f"{stage}_dataloader", lambda: None)())


def has_set(model: LightningModule, data: LightningDataModule | None, stage: str) -> bool:
    """Whether the model can be evaluated on a stage and there are rows to do it with."""
    step, hook = f"{STAGES[stage]}_step", f"{stage}_dataloader"
    owner = data if data is not None and is_overridden(hook, data) else model
    if not is_overridden(step, model) or not is_overridden(hook, owner):
        return False
    try:
        loaders = getattr(owner, hook)()
    except Exception:  # a stranger's may need its `setup` first, after which Lightning asks again
        if isinstance(data, TabularDataModule):
            raise
        return True
    return loaders is not None and not (isinstance(loaders, list | tuple) and not loaders)


def _print_results(cli: ModsCLI, checkpoint: Path | None, *, stage: Literal["val", "test"]) -> None:
    found = evaluate(cli, checkpoint, stage)
    if not found:
        how = f"--data.{stage}_path=FILE or --data.{stage}_fraction makes one."
        raise RunError(f"there is no {STAGES[stage]} set: {how}")
    epochs = epochs_done(read_checkpoint(checkpoint)) if checkpoint else 0  # an ensemble of a study has none
    epoch = epochs - 1 if epochs else None
    summary = RunSummary({stage: found}, {stage: _baseline(cli, stage)}, best_epoch=epoch, checkpoint=checkpoint)
    certainty = _certainty(cli, stage)
    if cli.trainer.is_global_zero:
        sys.stdout.write(f"{summary}\n")  # which scripts read, so it stays as it is
        moved = drift(cli.datamodule, stage) if isinstance(cli.datamodule, TabularDataModule) else []
        sure = [*certainty.line(found), *certainty.note(STAGES[stage])]
        for line in [*sure, *(f"warning: {each}" for each in moved), *_inspect_set(cli, checkpoint, stage)]:
            say(line)


_TABLES = ("predict_path", "path", "val_path", "test_path")


def _predict(cli: ModsCLI, checkpoint: Path | None) -> None:
    if getattr(cli.datamodule, "predict_path", "") is None:
        raise DataError("--data.predict_path is needed: a file with the rows to predict.")
    output = Path(cli.config.output)
    tables = [(f"--data.{name}", getattr(cli.datamodule, name, None)) for name in _TABLES]
    configs = [("--config", flag.config_file) for flag in cli.line.flags]
    check_output(output, [*tables, *configs, ("--ckpt_path", checkpoint)])
    check_format(output)
    level = None if cli.config.interval is None else checked_level(cli.config.interval)
    if re.search("spawn|fork|notebook", strategy := str(cli.asked.said("trainer.strategy"))):
        raise UsageError(f"--trainer.strategy={strategy} starts processes that hand no predictions back; ddp does.")
    let_keep(cli.datamodule, cli.config.keep or (), allow_missing=cli.config.allow_missing)
    how = {"datamodule": cli.datamodule, "ckpt_path": checkpoint, "weights_only": True, "return_predictions": False}
    if not cli.trainer.is_global_zero:
        cli.trainer.predict(cli.model, **how)
        return
    with writing_predictions(output, checkpoint) as file:
        writer = PredictionWriter(file, level)
        cli.trainer.callbacks.append(writer)  # type: ignore[attr-defined]  # a connector's
        cli.trainer.predict(cli.model, **how)
    for line in [said_of(file, output), *(f"warning: {each}" for each in writer.unusual)]:
        say(line)


# Each takes a `CommandLine`.
validate = partial(run, act=partial(_print_results, stage="val"))
test = partial(run, act=partial(_print_results, stage="test"))
predict = partial(run, act=_predict)
