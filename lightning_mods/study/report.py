"""Tells and draws what a study came to: its best trials, what mattered, where which verdict falls, what failed."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from callbacks.host.files import replacing
from callbacks.search.results import TrialRow, beyond, corners, counted
from callbacks.search.space import Space
from lightning_mods.loggers.terminal import aligned
from lightning_mods.study.trial_cli import short_names, shown


@dataclass(frozen=True)
class StudyReport:
    """What became of a study, as text."""

    name: str
    metrics: Sequence[str]
    directions: Sequence[str]  # `minimize` or `maximize`, one for each metric
    space: Space
    best: Sequence[TrialRow]  # best first; with several metrics the Pareto front
    rows: Sequence[TrialRow]  # all trials that count
    importances: Mapping[str, float]  # name to its share in the spread of the (first) objective, largest first

    @property
    def short(self) -> dict[str, str]:
        """Return the short names of what was searched."""
        return short_names(self.space)

    def short_rows(self) -> list[TrialRow]:
        """Return the trials with their parameters under short names."""
        return [replace(row, params={self.short[k]: value for k, value in row.params.items()}) for row in self.rows]

    def __str__(self) -> str:
        parts = [self._head(), self._table(), self._mattered(), self._verdicts(), self._failures()]
        return "\n\n".join(part for part in parts if part)

    def _head(self) -> str:
        epochs = sum(int(row.attrs.get("epochs", 0)) for row in self.rows)
        pareto = ", a Pareto front" if len(self.metrics) > 1 else ""
        of = f"{_count(len(self.rows), 'trial')} ({counted(self.rows)}), {_count(epochs, 'epoch')}"
        return f"study {self.name}: {of}{pareto}"

    def _table(self) -> str:
        if not self.best:
            return "No trial came to a value."
        rows = [["trial", *self.metrics, *self.short.values(), "verdict", "best epoch", "seconds"]]
        for row in self.best:
            values = [shown(row.params[name]) if name in row.params else "–" for name in self.space]
            seconds = "–" if row.seconds is None else f"{row.seconds:.1f}"
            verdict, epoch = str(row.attrs.get("verdict", "–")), str(row.attrs.get("best_epoch", "–"))
            rows.append([str(row.number), *(f"{v:.6g}" for v in row.values), *values, verdict, epoch, seconds])
        return "\n".join(aligned(rows))

    def _mattered(self) -> str:
        if not self.importances:
            return ""
        shares = ", ".join(f"{self.short[name]} {100 * share:.0f} %" for name, share in self.importances.items())
        of = f" for {self.metrics[0]}" if len(self.metrics) > 1 else ""
        return f"What mattered{of}: {shares}"

    def _verdicts(self) -> str:
        lines, edge = corners(self.short_rows()), ""
        if self.best and len(self.metrics) == 1:
            high = self.directions[0] == "maximize"
            edge = beyond(self.best[0], self.rows, self.space, high=high, flags=self._wider, shown=self.short)
        lines += [edge] if edge else []
        return "\n".join(["Where the verdicts fall:", *(f"  {line}" for line in lines)]) if lines else ""

    def _wider(self, spaces: Mapping[str, str]) -> str:
        """Return the flags that search wider: in a study of another name, for the space of this one is settled."""
        return " ".join([f"--study.name={self.name}_wider", *(f"--space.{k}='{text}'" for k, text in spaces.items())])

    def _failures(self) -> str:
        failed = Counter(row.reason or "its process was killed too often" for row in self.rows if row.state == "FAIL")
        return "\n".join(f"failed: {reason} ({_count(count, 'trial')})" for reason, count in failed.items())


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


_STUDY_RUN = "study"  # of TensorBoard: the run of the study itself, beside those of its trials


def write_pictures(folder: Path, report: StudyReport) -> Path:
    """Draw the search into PNG files, and into the Images tab of the study's run with the report in its Text tab.

    Returns the path of the picture of the search.
    """
    from torch.utils.tensorboard import SummaryWriter

    pictures = import_module("lightning_mods.callbacks.search.figure")
    png = import_module("lightning_mods.callbacks.loggers.figures").png
    axes = [report.short[name] for name in _axes(report.space, list(report.importances))]
    x, y = [*axes, *axes][:2]  # to the right, and upwards; of a single parameter twice the same
    how, rows = {"monitor": report.metrics[0], "mode": report.directions[0][:3]}, report.short_rows()
    figures = {"search": pictures.draw_search(rows, x=x, y=y, **how), "history": pictures.draw_history(rows, **how)}
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / _STUDY_RUN, ignore_errors=True)  # what an earlier start of the same study drew
    writer = SummaryWriter(str(folder / _STUDY_RUN))
    try:
        for name, figure in figures.items():
            drawn = png(figure)  # once: it takes as long as many fits
            with replacing(folder / f"{name}.png") as partial:
                partial.write_bytes(drawn)
            _add_png(writer, name, drawn)
        writer.add_text("report", "".join(f"    {line}\n" for line in str(report).splitlines()), 0)
    finally:
        writer.close()
    return folder / "search.png"


def _axes(space: Space, mattered: Sequence[str]) -> list[str]:
    """The learning rate over the batch size; what mattered most where these were not both searched."""
    rates = [name for name in ("optimizer.lr", "model.lr") if name in space]
    first = [*rates[:1], *(["data.batch_size"] if "data.batch_size" in space else [])]
    numbers = [name for name in [*mattered, *space] if not isinstance(space[name].levels(2)[0], str | list)]
    return list(dict.fromkeys([*first, *numbers, *space]))[:2]


def _add_png(writer: Any, name: str, png: bytes) -> None:
    """Put a PNG file's content into the Images tab."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # of the header, RFC 2083
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), 0)
