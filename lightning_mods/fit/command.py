"""The verb `fit`: what is said when training has ended, the command to run next, and the chain of `--improve`."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from callbacks import FitMonitor, GradientMonitor, OptunaSearch
from callbacks.diagnosis.names import plain
from callbacks.diagnosis.report import FitPart, advised, report
from callbacks.diagnosis.words.advice import Advice
from callbacks.host.packages import Callback
from datamodules import TabularDataModule
from lightning_mods.cli.command_line import CommandLine, UsageError, without_secrets_in
from lightning_mods.cli.lightning_cli import ModsCLI
from lightning_mods.cli.verbs import has_set, mistakes_in_one_line, run, train
from lightning_mods.loggers.terminal import RunSummary, say
from lightning_mods.runs.checkpoints import known_folder_of_run
from lightning_mods.runs.improving import ChainedFit, Flags, best_of, chain_table, improve, tried_from


@dataclass(frozen=True)
class EndedFit:
    """A fit that is over, and what is to be said of it."""

    summary: RunSummary
    parts: Sequence[object]  # that the monitors left for us to say
    line: CommandLine  # as it was typed
    folder: Path  # of the run

    @property
    def loss(self) -> tuple[float | None, float | None]:
        """Return the validation loss of the best epoch, of an ensemble its own, and its standard error, if known."""
        found, certainty = self.summary.results.get("val", {}), self.summary.certainty.get("val")
        losses = (name for name in found if plain(name).removeprefix("val_") == "loss")
        name = "ensemble_loss" if "ensemble_loss" in found else next(losses, None)
        if name is None:
            return None, None
        return found[name], certainty.errors.get(name) if certainty else None

    @property
    def headline(self) -> str:
        """Return the verdict in a few words."""
        return next((part.headline for part in self.parts if isinstance(part, FitPart)), "")

    def told(self, tried: Mapping[tuple[tuple[str, str], ...], str] | None = None) -> str:
        """Return the table and the last word; of what was tried already also what became of it."""
        said = report(self.parts, lambda flags: _command_of(self.again(flags)), tried)
        return f"{self.summary}\n\n{said}\n" if said else f"{self.summary}\n"

    def again(self, flags: Sequence[tuple[str, str]]) -> CommandLine:
        """Return the command line of the same fit, from its beginning, with some flags set."""
        is_whole = self.line.said("ckpt_path") is None  # else the checkpoint knows what is not on the line
        line = self.line if is_whole else CommandLine.parse("fit", [f"--config={self.folder}/config.yaml"])
        for name, _ in flags:
            line = line.without(name)
        return line.extended(after=[f"--{name}={value}" for name, value in flags])


def _command_of(line: CommandLine) -> str:
    """Return a command line as it was typed, without its secrets, to be pasted into a shell."""
    typed = replace(line, flags=tuple(replace(flag, words=flag.typed or flag.words) for flag in line.flags))
    return shlex.join(["python", "-m", f"lightning_mods.{line.verb}", *without_secrets_in(typed)])


def _ended(cli: ModsCLI, checkpoint: Path | None) -> EndedFit | None:
    """Train; return what is to be said of it, on rank zero."""
    summary = train(cli, checkpoint)
    if summary is None or not cli.trainer.is_global_zero:
        return None
    callbacks: list[Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]  # a connector's
    parts = [c.closing_part for c in callbacks if isinstance(c, FitMonitor | GradientMonitor)]
    return EndedFit(summary, parts, cli.asked, known_folder_of_run(cli.trainer))


def fit(line: CommandLine) -> None:
    """Train, and train again as often as `--improve` says."""
    with mistakes_in_one_line("fit", line):
        times = _improvements(line)
    if times:
        _improve(line.without("improve").without_sections("improve"), times)
    else:
        run(line, _print_fit)


def _print_fit(cli: ModsCLI, checkpoint: Path | None) -> None:
    if (ended := _ended(cli, checkpoint)) is not None:
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
        run(line, lambda cli, path: found.append(_ended(_improvable(cli), path)))
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
            say(f"improve: the best so far is {best.folder}; this fit: {_command_of(line)} --ckpt_path=last")
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
