"""What a person at the terminal reads and is spared: notes, the table at the end of a fit, other people's warnings."""

import logging
import math
import statistics
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from callbacks import host


def say(text: str) -> None:
    """Tell the person at the terminal, once, where no trainer shows its progress."""
    host.say(None, text)


def is_leading() -> bool:
    """Return whether this process is rank zero, as its launcher or `speak_as` says; a lone one is."""
    from lightning_utilities.core.rank_zero import rank_zero_only

    return not getattr(rank_zero_only, "rank", 0)


def speak_as(rank: int) -> None:
    """Take a rank, as torch's launchers give it before anything is imported; all but rank zero are silent."""
    from lightning_utilities.core.rank_zero import rank_zero_only

    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # a function's attribute


@contextmanager
def writers_report_once() -> Iterator[None]:
    """Keep TensorBoard's writer thread from printing the traceback of a full disk.

    It keeps the error and raises it again in the main thread at the next write, where it becomes one line.
    """
    before = threading.excepthook

    def report(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, OSError):
            before(args)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before


_LIGHTNING = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")


@contextmanager
def quietly() -> Iterator[None]:
    """Do in a block what `quiet` does, and undo it at its end: for a process that is somebody else's."""
    levels = {name: logging.getLogger(name).level for name in _LIGHTNING}
    with warnings.catch_warnings():
        quiet()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def quiet() -> None:
    """Silence what Lightning says about itself; its warnings about the user's own code stay."""
    for name in _LIGHTNING:
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",  # a gather from memory is faster than handing batches between processes
        ".*smaller than the logging interval.*",  # our modules log by the epoch
        ".*Checkpoint directory .* exists and is not empty.*",  # so it is when a run is resumed
        ".*Experiment logs directory .* exists and is not empty.*",  # our files lie beside the table
        ".*isinstance\\(treespec, LeafSpec\\).*",  # Lightning's own use of a deprecated torch name
        ".*You requested to overfit.*",  # so it is, as asked
        "IProgress not found.*",  # tqdm without ipywidgets in a notebook: it does without a bar, as we say ourselves
        ".*Total length of `list` across ranks is zero.*",  # a set the user did without
        ".*callbacks used to create the checkpoint need to be provided.*",  # only a fit goes on with them
    ):
        warnings.filterwarnings("ignore", message=message)


_ROWS = {"loss": "loss of the mean member", "ensemble_loss": "loss of the ensemble"}  # where there is one
STAGES = {"val": "validation", "test": "test"}  # as metrics are named, and in words
SMALL = 50  # rows of a set on which a share is known to ±0.07 at best


@dataclass(frozen=True)
class Certainty:
    """How far the rows of a set let the numbers in its column be trusted."""

    rows: int | None = None  # None where nobody counted them
    errors: Mapping[str, float] = field(default_factory=dict)  # standard errors over the rows, by metric
    more: str = ""  # what makes the set larger

    def __str__(self) -> str:
        return "" if self.rows is None else f" ({self.rows:,} rows)"

    def line(self, names: Collection[str]) -> list[str]:
        """Return a line with the errors of some metrics; none where there are none."""
        known = [f"{name} ±{self.errors[name]:.2g}" for name in names if 0 < self.errors.get(name, 0) < math.inf]
        return [f"standard errors over {self.rows:,} rows: {', '.join(known)}"] if known else []

    def note(self, stage: str) -> list[str]:
        """Return a line that says what a small set is good for; none for a larger one."""
        if self.rows is None or self.rows >= SMALL:
            return []
        known = [name for name in ("accuracy", "r2", "rmse", "loss") if 0 < self.errors.get(name, 0) < math.inf]
        told = f"{known[0]} is known to ±{self.errors[known[0]]:.2g} only" if known else "they tell little"
        return [f"note: {self.rows:,} {stage} rows: {told}{self.more and '; '}{self.more}"]


@dataclass(frozen=True)
class RunSummary:
    """Prints as the table at the end of a verb."""

    results: Mapping[str, Mapping[str, float]]  # stage (`val`, `test`) to metric name (without the stage) to its value
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of the largest class or the mean
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of another model, where there is one
    certainty: Mapping[str, Certainty] = field(default_factory=dict)  # of the results, where it is known
    best_epoch: int | None = None  # epoch of the best checkpoint, the first being 0; None when none was written
    epochs: int = 0  # trained, in this process and before
    seconds: Sequence[float] = ()  # that each epoch of this process took
    checkpoint: Path | None = None  # the best
    views: Sequence[str] = ()  # commands and addresses that show what the run has logged

    def __str__(self) -> str:
        """Put the table and the lines below it in one text."""
        return "\n".join([*self._table(), *self._lines()])

    def _table(self) -> list[str]:
        stages = [stage for stage in STAGES if self.results.get(stage)]
        if not stages:
            return []
        names = list(dict.fromkeys(name for stage in stages for name in self.results[stage]))
        columns: list[tuple[str, Mapping[str, str]]] = []
        for stage in stages:
            errors, words = self._of(stage).errors, STAGES[stage]
            cells = {name: number_text(value, errors.get(name)) for name, value in self.results[stage].items()}
            columns.append((f"{words}{self._of(stage)}", cells))
            others = {"trivial baseline": self.baselines.get(stage, {}), "reference": self.references.get(stage)}
            for of, values in others.items():
                # With as much in it a table has no room for more words.
                head = of.partition(" ")[0] if self.certainty else f"{words}, {of}"
                columns += (
                    [] if values is None else [(head, {name: number_text(value) for name, value in values.items()})]
                )
        rows = [["", *(head for head, _ in columns)]]
        for name in names:
            label = _ROWS.get(name, name) if "ensemble_loss" in names else name
            rows.append([label, *(cells.get(name, "–") for _, cells in columns)])
        return aligned(rows, left=[0])

    def _of(self, stage: str) -> Certainty:
        return self.certainty.get(stage, Certainty())

    def _lines(self) -> list[str]:
        shown = [stage for stage in STAGES if self.results.get(stage)]
        lines = []
        if any(self._of(stage).errors for stage in shown):
            lines.append("±            standard error over the rows: about as far as other rows would move the number")
        lines += [line for stage in shown for line in self._of(stage).note(STAGES[stage])]
        if self.best_epoch is not None:
            of = f" (of 0 to {self.epochs - 1})" if self.epochs else ""
            by = (
                ", by the loss of the ensemble"
                if any("ensemble_loss" in each for each in self.results.values())
                else ""
            )
            lines.append(f"epoch        {self.best_epoch}{of}{by}")
        if self.seconds:
            lines.append(f"an epoch     {statistics.median(self.seconds):.3g} s")
        if self.checkpoint:
            lines.append(f"checkpoint   {self.checkpoint}")
        return lines + [f"{'' if number else 'look at it':<13}{view}" for number, view in enumerate(self.views)]


def number_text(value: float | None, error: float | None = None) -> str:
    """Return a number with four digits and, where it is known, how far it is off with two; a dash for none."""
    if value is None:
        return "–"
    if error is None or not 0 < error < math.inf:  # 0 where all rows are alike, as with an auroc of 1
        return f"{value:.4g}"
    return f"{value:.4g} ± {error:.0f}" if error >= 100 else f"{value:.4g} ± {error:.2g}"


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = ()) -> list[str]:
    """Return the lines of a table, its columns as wide as they need be and flush right, but for those of `left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pads = [str.ljust if at in left else str.rjust for at in range(len(widths))]
    padded = [[pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True)] for row in rows]
    return ["  ".join(row).rstrip() for row in padded]
