"""Reports a study: the best trials, what mattered, where the verdicts fall, the pictures and the best configuration."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from callbacks.host import replacing
from callbacks.search.results import TrialRow, corners
from lightning_mods.cli.command_line import short_class_paths
from lightning_mods.study.trial_cli import StudyCLI, short_names, shown

BEST = "best.yaml"
RUN = "study"  # the run of the study itself, beside those of its trials


def write_best(cli: StudyCLI, folder: Path, row: TrialRow, words: str) -> Path:
    """Write the whole configuration of a trial's fit, to be given to `fit --config`, under a line of words on it."""
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

    Returns the picture of the trials over two parameters (or one), the first to the right and the second upwards.
    `how` has the `monitor`, a metric's name, and the `mode`, `min` or `max`.
    """
    from torch.utils.tensorboard import SummaryWriter

    pictures = import_module("lightning_mods.callbacks.search.figure")
    png = import_module("lightning_mods.callbacks.loggers.figures").png
    x, y = [*axes, *axes][:2]
    figures = {"search": pictures.draw_search(rows, x=x, y=y, **how), "history": pictures.draw_history(rows, **how)}
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / RUN, ignore_errors=True)  # what an earlier start of the same study drew
    writer = SummaryWriter(str(folder / RUN))
    try:
        for name, figure in figures.items():
            drawn = png(figure)  # once: it takes as long as many fits
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
    """Return what trials have in common and may not change between two starts, flag to text; not what is searched."""
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
    return {name: short_class_paths(repr(value)) for name, value in found.items() if name not in names}


@dataclass(frozen=True)
class StudyReport:
    """What became of a study, as text."""

    name: str
    metrics: Sequence[str]
    names: Sequence[str]  # what was searched
    best: Sequence[TrialRow]  # best first; with several metrics the Pareto front
    rows: Sequence[TrialRow]  # all trials that count
    importances: Mapping[str, float]  # name to its share in the spread of the (first) objective, largest first

    @property
    def short(self) -> dict[str, str]:
        """Return the short names of what was searched."""
        return short_names(self.names)

    def short_rows(self) -> list[TrialRow]:
        """Return the trials with their parameters under short names."""
        return [replace(row, params={self.short[k]: value for k, value in row.params.items()}) for row in self.rows]

    def __str__(self) -> str:
        parts = [self._head(), self._table(), self._mattered(), self._verdicts(), self._failures()]
        return "\n\n".join(part for part in parts if part)

    def _head(self) -> str:
        states = [row.state for row in self.rows]
        epochs = sum(int(row.attrs.get("epochs", 0)) for row in self.rows)
        words = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
        counts = [f"{states.count(state)} {word}" for state, word in words.items() if state in states]
        pareto = ", a Pareto front" if len(self.metrics) > 1 else ""
        of = f"{_count(len(states), 'trial')} ({', '.join(counts)}), {_count(epochs, 'epoch')}"
        return f"study {self.name}: {of}{pareto}"

    def _table(self) -> str:
        if not self.best:
            return "No trial came to a value."
        rows = [["trial", *self.metrics, *self.short.values(), "verdict", "best epoch", "seconds"]]
        for row in self.best:
            values = [shown(row.params[name]) if name in row.params else "–" for name in self.names]
            seconds = "–" if row.seconds is None else f"{row.seconds:.1f}"
            verdict, epoch = str(row.attrs.get("verdict", "–")), str(row.attrs.get("best_epoch", "–"))
            rows.append([str(row.number), *(f"{v:.6g}" for v in row.values), *values, verdict, epoch, seconds])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.rjust, row, widths)).rstrip() for row in rows)

    def _mattered(self) -> str:
        if not self.importances:
            return ""
        shares = ", ".join(f"{self.short[name]} {100 * share:.0f} %" for name, share in self.importances.items())
        of = f" for {self.metrics[0]}" if len(self.metrics) > 1 else ""
        return f"What mattered{of}: {shares}"

    def _verdicts(self) -> str:
        lines = [f"  {part}" for part in corners(self.short_rows()).split("; ") if part]
        return "\n".join(["Where the verdicts fall:", *lines]) if lines else ""

    def _failures(self) -> str:
        failed = Counter(row.reason or "its process was killed too often" for row in self.rows if row.state == "FAIL")
        return "\n".join(f"failed: {reason} ({_count(count, 'trial')})" for reason, count in failed.items())


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
