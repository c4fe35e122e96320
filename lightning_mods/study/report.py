"""The last word of a study: the best trials, what mattered, and where the verdicts fall."""

import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import log
from pathlib import Path
from typing import Any

from callbacks.host import replacing
from callbacks.search.results import Progress, TrialRow
from lightning_mods.cli.class_paths import short
from lightning_mods.console.terminal import say
from lightning_mods.study.space import short_names, shown
from lightning_mods.study.trial_cli import StudyCLI

BEST = "best.yaml"
RUN = "study"  # the run of the study itself, beside those of its trials


def write_best(cli: StudyCLI, folder: Path, row: TrialRow, words: str) -> Path:
    """Write the whole configuration of a trial's fit, to be given to `fit --config`.

    Args:
        cli: The command.
        folder: The study's folder.
        row: The trial.
        words: What it is, for the file's first line.
    """
    config = cli.config_with(row.params, cli.base_seed)
    for own in ("study", "space", "config"):
        config.pop(own, None)
    text = cli.parser.dump(config, skip_validation=True, skip_unset=False)
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / BEST) as partial:
        partial.write_text(f"# {words}\n{body}\n", encoding="utf-8")
    return folder / BEST


def write_pictures(folder: Path, rows: Sequence[TrialRow], report: str, *, axes: Sequence[str], **how: str) -> Path:
    """Draw the search into PNG files, and into the Images tab of the study's run with the report in its Text tab.

    Args:
        folder: The study's folder.
        rows: Its trials.
        report: What became of it, as text.
        axes: Two names of parameters (or one), the first to the right and the second upwards.
        **how: `monitor`, the metric's name, and `mode`, `min` or `max`.

    Returns:
        The picture of the trials over both axes.
    """
    from torch.utils.tensorboard import SummaryWriter

    pictures = import_module("lightning_mods.callbacks.search.figure")
    x, y = [*axes, *axes][:2]
    figures = {"search": pictures.draw_search(rows, x=x, y=y, **how), "history": pictures.draw_history(rows, **how)}
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / RUN, ignore_errors=True)  # what an earlier start of the same study drew
    writer = SummaryWriter(str(folder / RUN))
    try:
        for name, figure in figures.items():
            drawn = import_module("lightning_mods.callbacks.loggers.figures").png(figure)  # once: it takes as long as many fits
            with replacing(folder / f"{name}.png") as partial:
                partial.write_bytes(drawn)
            _add_png(writer, name, drawn)
        writer.add_text("report", "".join(f"    {line}\n" for line in report.splitlines()), 0)
    finally:
        writer.close()
    return folder / "search.png"


def _add_png(writer: Any, name: str, png: bytes) -> None:
    """Put a PNG file's content into the Images tab."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # of the header, RFC 2083
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), 0)


def settings(cli: StudyCLI, names: Mapping[str, Any]) -> dict[str, Any]:
    """What the trials of a study have in common and must not change between two starts: flag to value as text.

    Args:
        cli: The command.
        names: What is searched, and so may differ.
    """
    apart = {"default_root_dir", "accelerator", "devices", "num_nodes", "logger", "profiler"}
    found: dict[str, Any] = {"seed_everything": cli.base_seed}
    for section in ("model", "data", "optimizer", "lr_scheduler", "trainer"):
        chosen = cli.config.get(section)
        if chosen is None:
            continue
        plain = chosen.as_dict()
        if "class_path" in plain:
            found[section] = plain["class_path"]
            plain = plain.get("init_args", {})
        kept = {k: v for k, v in plain.items() if k not in apart and not k.startswith("enable_")}
        found |= {f"{section}.{key}": value for key, value in kept.items()}
    study = cli.study
    found |= {"study.metric": study.metrics, "study.seeds": study.seeds, "study.folds": study.folds}
    if cli.trainer.world_size > 1:  # they share the rows of a step: another number of them is another fit
        found["trainer.devices"] = cli.trainer.world_size
    return {name: short(repr(value)) for name, value in found.items() if name not in names}


_WIDE = 20  # letters of the bar
EVERY = 5.0  # seconds between two plain lines, unless there is a new best


class StudyProgress:
    """Shows the progress that it is called with.

    Args:
        metrics: Names of the objectives.
        space: Names that are searched.
    """

    def __init__(self, metrics: list[str], space: Mapping[str, object]) -> None:
        self._metrics = metrics
        self._short = short_names(space)
        self._drawn = False
        self._said = -EVERY
        self._done = -1
        self._best: float | None = None
        self.last: Progress | None = None

    def __call__(self, now: Progress) -> None:
        """Show it, unless it is older than what stands there."""
        if self.last is not None and now.done < self.last.done:
            return
        self.last = now
        if sys.stderr.isatty():
            self._draw(now)
        else:
            self._write(now)

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        if self._drawn:
            sys.stderr.write("\n")
        self._drawn = False

    def _draw(self, now: Progress) -> None:
        full = _WIDE * now.done // now.total
        text = f"[{'=' * full}{' ' * (_WIDE - full)}] {now.done}/{now.total} trials {self._words(now)}"
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r{text[:width].ljust(width)}")
        sys.stderr.flush()
        self._drawn = True

    def _write(self, now: Progress) -> None:
        found = now.best.values[0] if now.best else None
        due = time.monotonic() - self._said >= EVERY or found != self._best or now.done == now.total
        if due and now.done != self._done and now.done:
            say(f"{now.done}/{now.total} trials: {self._words(now)}")
            self._said, self._done, self._best = time.monotonic(), now.done, found

    def _words(self, now: Progress) -> str:
        words = [f"{_clock(now.left)} left"] if now.left is not None and now.done < now.total else []
        if now.best is not None:
            values = ", ".join(f"{self._short[name]} {shown(value)}" for name, value in now.best.params.items())
            words.append(f"best {self._metrics[0]} {now.best.values[0]:.4g} ({values})")
        words += [f"{count} {word}" for count, word in ((now.pruned, "pruned"), (now.failed, "failed")) if count]
        return ", ".join(words)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


_FEWEST = 3  # trials of a verdict before it is said where they lie
_CORNER = 0.25  # how far from the middle of all trials, as a share of the range, the middle of a verdict's must lie


@dataclass(frozen=True)
class Report:
    """What became of a study, as text.

    Args:
        name: The study's name.
        metrics: Names of the objectives.
        names: What was searched.
        best: The best trials, best first; with several metrics the Pareto front.
        rows: All trials that count.
        importances: Name to its share in the spread of the (first) objective, largest first.
    """

    name: str
    metrics: Sequence[str]
    names: Sequence[str]
    best: Sequence[TrialRow]
    rows: Sequence[TrialRow]
    importances: Mapping[str, float]

    def __str__(self) -> str:
        """The text, several paragraphs."""
        parts = [self._head(), self._table(), self._mattered(), self._verdicts(), self._failures()]
        return "\n\n".join(part for part in parts if part)

    def _head(self) -> str:
        states = [row.state for row in self.rows]
        epochs = sum(int(row.attrs.get("epochs", 0)) for row in self.rows)
        counts = [
            f"{states.count(state)} {word}"
            for state, word in (("COMPLETE", "complete"), ("PRUNED", "pruned"), ("FAIL", "failed"))
            if states.count(state)
        ]
        pareto = ", a Pareto front" if len(self.metrics) > 1 else ""
        of = f"{_count(len(states), 'trial')} ({', '.join(counts)}), {_count(epochs, 'epoch')}"
        return f"study {self.name}: {of}{pareto}"

    def _table(self) -> str:
        if not self.best:
            return "No trial came to a value."
        short = short_names(self.names)
        head = ["trial", *self.metrics, *short.values(), "verdict", "best epoch", "seconds"]
        rows = [head]
        for row in self.best:
            values = [shown(row.params[name]) if name in row.params else "–" for name in short]
            seconds = "–" if row.seconds is None else f"{row.seconds:.1f}"
            verdict, epoch = str(row.attrs.get("verdict", "–")), str(row.attrs.get("best_epoch", "–"))
            rows.append([str(row.number), *(f"{v:.6g}" for v in row.values), *values, verdict, epoch, seconds])
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def _mattered(self) -> str:
        if not self.importances:
            return ""
        short = short_names(self.names)
        shares = ", ".join(f"{short[name]} {100 * share:.0f} %" for name, share in self.importances.items())
        of = f" for {self.metrics[0]}" if len(self.metrics) > 1 else ""
        return f"What mattered{of}: {shares}"

    def _verdicts(self) -> str:
        found: dict[str, list[TrialRow]] = {}
        for row in self.rows:
            if "verdict" in row.attrs:
                found.setdefault(str(row.attrs["verdict"]), []).append(row)
        lines = [
            f"  {verdict:<9} {_count(len(rows), 'trial'):>10}{self._corner(rows)}"
            for verdict, rows in sorted(found.items(), key=lambda item: -len(item[1]))
        ]
        return "\n".join(["Where the verdicts fall:", *lines]) if lines else ""

    def _corner(self, rows: Sequence[TrialRow]) -> str:
        """In which part of the space some trials lie, compared with all of them."""
        if len(rows) < _FEWEST or len(rows) == len(self.rows):
            return ""
        short = short_names(self.names)
        words = [
            f"{word} {short[name]} ({_span([row.params[name] for row in rows if name in row.params])})"
            for name in self.names
            if (word := self._side(name, rows))
        ]
        return f"  at {' and '.join(words)}" if words else "  all over"

    def _side(self, name: str, rows: Sequence[TrialRow]) -> str:
        all_of = _positions([row.params.get(name) for row in self.rows])
        if not all_of:
            return ""
        low, high = min(all_of.values()), max(all_of.values())
        if low == high:
            return ""
        middle = statistics.median(all_of[row.params[name]] for row in rows if name in row.params)
        apart = (middle - statistics.median(all_of[row.params[name]] for row in self.rows if name in row.params)) / (
            high - low
        )
        return "high" if apart > _CORNER else "low" if apart < -_CORNER else ""

    def _failures(self) -> str:
        failed: dict[str, int] = {}
        for row in self.rows:
            if row.state == "FAIL":
                failed[row.reason or "its process was killed too often"] = failed.get(row.reason, 0) + 1
        return "\n".join(f"failed: {reason} ({_count(count, 'trial')})" for reason, count in failed.items())


def _positions(values: Sequence[object]) -> dict[object, float]:
    """Numbers on a line, by their logarithms where they span more than a decade; nothing for what is no number."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len([value for value in values if value is not None]) or not numbers:
        return {}
    if min(numbers) > 0 and max(numbers) / min(numbers) > 10:
        return {value: log(value) for value in numbers}
    return {value: float(value) for value in numbers}


def _span(values: Sequence[object]) -> str:
    numbers = sorted(value for value in values if isinstance(value, int | float))
    low, high = f"{numbers[0]:.2g}", f"{numbers[-1]:.2g}"
    if all(isinstance(value, int) for value in numbers):
        low, high = str(numbers[0]), str(numbers[-1])
    return low if low == high else f"{low} to {high}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
