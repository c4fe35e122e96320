"""A fit that is over: its table, its verdict, and the command to run next."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from callbacks import FitMonitor, GradientMonitor
from callbacks.diagnosis.names import plain
from callbacks.diagnosis.report import FitPart, report
from callbacks.host.packages import Callback, Trainer
from lightning_mods.cli.command_line import CommandLine, without_secrets_in
from lightning_mods.cli.lightning_cli import ModsCLI
from lightning_mods.cli.verbs import train
from lightning_mods.loggers.terminal import RunSummary
from lightning_mods.runs.checkpoints import known_folder_of_run


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
        return headline_in(self.parts)

    def told(self, tried: Mapping[tuple[tuple[str, str], ...], str] | None = None) -> str:
        """Return the table and the last word; of what was tried already also what became of it."""
        said = report(self.parts, lambda flags: command_of(self.again(flags)), tried)
        return f"{self.summary}\n\n{said}\n" if said else f"{self.summary}\n"

    def again(self, flags: Sequence[tuple[str, str]]) -> CommandLine:
        """Return the command line of the same fit, from its beginning, with some flags set."""
        is_whole = self.line.said("ckpt_path") is None  # else the checkpoint knows what is not on the line
        return with_flags(
            self.line if is_whole else CommandLine.parse("fit", [f"--config={self.folder}/config.yaml"]), flags
        )


def headline_in(parts: Iterable[object]) -> str:
    """Return the verdict in a few words; empty where there is none."""
    return next((part.headline for part in parts if isinstance(part, FitPart)), "")


def with_flags(line: CommandLine, flags: Sequence[tuple[str, str]]) -> CommandLine:
    """Return a command line with some flags set."""
    for name, _ in flags:
        line = line.without(name)
    return line.extended(after=[f"--{name}={value}" for name, value in flags])


def command_of(line: CommandLine) -> str:
    """Return a command line as it was typed, without its secrets, to be pasted into a shell."""
    typed = replace(line, flags=tuple(replace(flag, words=flag.typed or flag.words) for flag in line.flags))
    return shlex.join(["python", "-m", f"lightning_mods.{line.verb}", *without_secrets_in(typed)])


def ended_fit(cli: ModsCLI, checkpoint: Path | None) -> EndedFit | None:
    """Train; return what is to be said of it, on rank zero."""
    summary = train(cli, checkpoint)
    if summary is None or not cli.trainer.is_global_zero:
        return None
    return EndedFit(summary, closing_parts(cli.trainer), cli.asked, known_folder_of_run(cli.trainer))


def closing_parts(trainer: Trainer) -> list[object]:
    """Return what the monitors of a fit leave for its last word."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a connector's
    return [each.closing_part for each in callbacks if isinstance(each, FitMonitor | GradientMonitor)]
