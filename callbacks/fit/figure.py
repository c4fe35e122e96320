"""A picture of a run: its curves with the best epoch, the onset of overfitting and the verdict drawn in."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from callbacks.diagnosis.verdict import Diagnosis, Fit
from callbacks.fit.record import FitRecord
from callbacks.loggers.figures import COLOURS, HIGHEST, QUIET, TRAIN, VAL, WIDE

Values = Sequence[float | None]

METRIC = "#4d8f5b"


def draw_fit(
    train_loss: Values,
    val_loss: Values,
    diagnosis: Diagnosis,
    val_metric: Values | None = None,
    title: str | None = None,
    levels: Mapping[str, float | None] | None = None,
) -> Figure:
    """Draw the curves of a run, one value an epoch from epoch 0 on, with the verdict that `diagnose` made of them.

    The training loss may be empty; a metric is drawn below the losses; a title, e.g. the name of the run, is put before
    the verdict; `levels` are losses to compare with, by what they are of, drawn where they are within the view. `None`,
    NaN, infinity and what comes near it are drawn past: the line goes on to the next number.
    The figure is unknown to pyplot: nothing need be closed.
    """
    metric = None if val_metric is None else _numbers(val_metric)
    below = metric is not None and bool(np.isfinite(metric).any())
    figure = Figure(figsize=(8.0, 5.6 if below else 4.6), dpi=110, layout=ConstrainedLayoutEngine(h_pad=0.06))
    FigureCanvasAgg(figure)
    heights = [0.16, 3, 1] if below else [0.16, 3]
    rows = figure.subplots(len(heights), 1, gridspec_kw={"height_ratios": heights})
    _head(rows[0], diagnosis, title)
    _probabilities(rows[0], diagnosis)
    _losses(rows[1], _numbers(train_loss), _numbers(val_loss), diagnosis, levels or {})
    if below and metric is not None:
        rows[2].sharex(rows[1])
        rows[1].tick_params(labelbottom=False)
        _line(rows[2], metric, METRIC, "metric")
        rows[2].set_ylabel("metric")
        _marks(rows[2], diagnosis, len(metric))
        _plain(rows[2])
    rows[-1].set_xlabel("epoch")
    return figure


def draw_record(record: FitRecord, diagnosis: Diagnosis, levels: Mapping[str, float | None] | None = None) -> Figure:
    """Draw what `FitMonitor` recorded of a run, the metric under its own name."""
    train, val, metric = record.paired()
    figure = draw_fit(train, val, diagnosis, metric, levels=levels)
    if metric is not None:
        figure.axes[-1].set_ylabel(record.names.get("metric", "metric"))  # another rank may have logged it
    return figure


def _head(axes: Axes, diagnosis: Diagnosis, title: str | None) -> None:
    """The verdict, and the reason below it."""
    verdict = f"{diagnosis.fit.value}: {diagnosis.cause.replace('_', ' ')}"
    lines = textwrap.wrap(diagnosis.reason, 115)
    looks: dict[str, Any] = {"color": COLOURS[diagnosis.fit], "fontsize": 14, "fontweight": "bold", "loc": "left"}
    axes.set_title(f"{title} – {verdict}" if title else verdict, pad=12 + 12 * len(lines), **looks)
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    axes.annotate("\n".join(lines), (0, 1), (0, 6), fontsize=8.5, color="#333333", **place)


def _probabilities(axes: Axes, diagnosis: Diagnosis) -> None:
    """One bar, divided as the probabilities are."""
    left = 0.0
    for fit, probability in diagnosis.probabilities.items():
        axes.barh(0, probability, left=left, height=1.0, color=COLOURS[fit], edgecolor="white")
        if probability > 0.15:  # narrower, and the word would not stand within
            text = f"{fit.value} {100 * probability:.0f} %"
            axes.text(left + probability / 2, 0, text, ha="center", va="center", fontsize=7.5, color="white")
        left += probability
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.5, 0.5)
    axes.axis("off")


def _losses(axes: Axes, train: Any, val: Any, diagnosis: Diagnosis, levels: Mapping[str, float | None]) -> None:
    _line(axes, train, TRAIN, "training loss")
    _line(axes, val, VAL, "validation loss")
    seen = [float(v) for v in (val if np.isfinite(val).any() else train) if isfinite(v)]
    if seen and min(seen) > 0 and max(seen) / min(seen) > WIDE:
        axes.set_yscale("log")
    elif len(seen) > 2:  # a training loss that began far above would press all the rest flat
        later = [float(v) for v in (*train[1:], *val) if isfinite(v)]
        low, high = min(later), max(later)
        if low < high:
            axes.set_ylim(low - 0.05 * (high - low), high + 0.08 * (high - low))
    _levels(axes, levels)
    _marks(axes, diagnosis, max(len(train), len(val)))
    best = diagnosis.best_epoch
    if best is not None and best < len(val) and isfinite(val[best]):
        axes.plot([best], [val[best]], "o", color=VAL, markeredgecolor="white", markersize=8, zorder=5)
    axes.set_ylabel("loss")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8.5, loc="best")
    _plain(axes)


def _levels(axes: Axes, levels: Mapping[str, float | None]) -> None:
    """Level lines of losses, named beside the axes; one that lies outside would press the curves together."""
    low, high = axes.get_ylim()
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    for name, level in levels.items():
        if level is not None and low <= level <= high:
            axes.axhline(level, color=QUIET, linewidth=1, linestyle=":", zorder=0)
            axes.annotate(f"{name}\n{level:.4g}", (1, level), (4, 0), fontsize=7.5, color=QUIET, **place)


def _line(axes: Axes, values: Any, colour: str, label: str) -> None:
    epochs = np.flatnonzero(np.isfinite(values))
    if len(epochs):
        marker = "." if len(epochs) <= 30 else ""
        axes.plot(epochs, values[epochs], color=colour, linewidth=1.6, marker=marker, label=label)


def _marks(axes: Axes, diagnosis: Diagnosis, epochs: int) -> None:
    if diagnosis.best_epoch is not None:
        label = f"best: epoch {diagnosis.best_epoch}"
        axes.axvline(diagnosis.best_epoch, color=QUIET, linewidth=1, linestyle="--", label=label, zorder=0)
    if diagnosis.onset_epoch is not None:
        label = f"worse from epoch {diagnosis.onset_epoch}"
        end = max(epochs - 1, diagnosis.onset_epoch)
        axes.axvspan(diagnosis.onset_epoch, end, color=COLOURS[Fit.OVERFIT], alpha=0.09, lw=0, label=label, zorder=0)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _numbers(values: Values) -> Any:
    drawable = [value is not None and abs(value) < HIGHEST for value in values]  # NaN is not
    return np.asarray([value if can else np.nan for value, can in zip(values, drawable, strict=True)], dtype=float)
