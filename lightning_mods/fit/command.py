"""The verb `fit`: one fit, one for each fold, or the chain of `--improve`."""

import sys
from pathlib import Path

from callbacks import FitMonitor, OptunaSearch
from callbacks.diagnosis.report import advised
from callbacks.diagnosis.words.advice import Advice
from callbacks.host.packages import Callback
from datamodules import TabularDataModule
from lightning_mods.cli.command_line import CommandLine, UsageError
from lightning_mods.cli.lightning_cli import ModsCLI
from lightning_mods.cli.verbs import has_set, mistakes_in_one_line, run
from lightning_mods.fit.ended import EndedFit, command_of, ended_fit
from lightning_mods.fit.folds import cross_validate, folds_asked
from lightning_mods.loggers.terminal import say
from lightning_mods.runs.improving import ChainedFit, Flags, best_of, chain_table, improve, tried_from


def fit(line: CommandLine) -> None:
    """Train; for each fold where there are `--data.folds`; and again as often as `--improve` says."""
    with mistakes_in_one_line("fit", line):
        times, folds = _improvements(line), folds_asked(line)
        if times and folds:
            raise UsageError("--improve goes by the validation rows of one fit; leave it out, or --data.folds.")
    if folds:
        cross_validate(line, folds)
    elif times:
        _improve(line.without("improve").without_sections("improve"), times)
    else:
        run(line, _print_fit)


def _print_fit(cli: ModsCLI, checkpoint: Path | None) -> None:
    if (ended := ended_fit(cli, checkpoint)) is not None:
        sys.stdout.write(f"\n{ended.told()}")


def _improvements(line: CommandLine) -> int:
    said = line.said("improve") or 0
    try:
        times = int(str(said))
    except ValueError:
        times = -1
    if times < 0:
        raise UsageError(f"--improve needs a whole number of fits of at least 0, such as 3, not {said}.")
    return times


def _improve(line: CommandLine, times: int) -> None:
    ended: dict[Path, EndedFit] = {}
    tries: list[Advice] = []

    def fitted(line: CommandLine, flags: Flags, changes: tuple[str, ...]) -> ChainedFit | None:
        found: list[EndedFit | None] = []
        run(line, lambda cli, path: found.append(ended_fit(_improvable(cli), path)))
        (each,) = found
        if each is None:  # another rank, or nothing but a test of the code
            return None
        ended[each.folder] = each
        return ChainedFit(each.folder, flags, changes, *each.loss, each.headline, tuple(advised(each.parts)))

    def refit(flags: Flags, advice: Advice, best: ChainedFit) -> ChainedFit | None:
        tries.append(advice)
        so_far = f"{best.verdict}; validation loss {best.loss:.4g}"
        say(f"\nimprove {len(tries)} of {times} ({so_far}): {advice.text}")
        line = ended[first.folder].again([*flags.items()])
        try:
            return fitted(line, flags, (*best.changes, advice.change))
        except SystemExit as stopped:
            if stopped.code == 2:  # a mistake, which has been said
                return None
            say(f"improve: the best so far is {best.folder}; this fit: {command_of(line)} --ckpt_path=last")
            raise

    begun = fitted(line, {}, ())
    if begun is None:
        return
    first = begun
    if first.loss is None:
        say("note: --improve goes by the validation loss, and none was logged; there is one fit.")
    chain = improve(first, refit, 0 if first.loss is None else times)
    best = best_of(chain)
    is_over = len(chain) == 1 and first.loss is not None
    tail = "\nNothing is advised that flags can do and that is expected to gain." if is_over else ""
    told = ended[best.folder].told(tried_from(best, chain))
    sys.stdout.write(f"\n{chain_table(chain)}{tail}\n\n{told}")


def _improvable(cli: ModsCLI) -> ModsCLI:
    """Return the CLI of a fit that can be part of a chain; a UsageError says why it cannot."""
    callbacks: list[Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]  # a connector's
    if cli.trainer.world_size > 1:
        raise UsageError("--improve trains in one process; leave --trainer.devices out.")
    if any(isinstance(callback, OptunaSearch) for callback in callbacks):
        raise UsageError("--improve follows the verdict's advice, and OptunaSearch searches: take one of them.")
    if not any(isinstance(callback, FitMonitor) for callback in callbacks):
        raise UsageError("--improve follows FitMonitor's advice; let --watch name `fit`.")
    if isinstance(cli.datamodule, TabularDataModule) and not has_set(cli.model, cli.datamodule, "val"):
        how = "--data.val_fraction=0.15 or --data.val_path=FILE makes one"
        raise UsageError(f"--improve goes by the validation loss, and there is no validation set: {how}.")
    return cli
