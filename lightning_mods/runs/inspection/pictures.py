"""Pictures of what one looks at after a fit; unknown to pyplot, so nothing need be closed.

Matplotlib takes half a second to load: import this file when something is drawn.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from callbacks.loggers.figures import QUIET, TRAIN, VAL
from lightning_mods.loggers.terminal import STAGES
from lightning_mods.runs.inspection.classes import ClassTable, Reliability
from lightning_mods.runs.inspection.importance import Importance
from lightning_mods.runs.inspection.residuals import Residuals

MOST_BARS = 20
MOST_NUMBERS = 15  # classes up to which the cells of a confusion matrix hold their counts
MOST_NAMES = 30  # classes on an axis; of more every so-manieth is named
MOST_POINTS = 3000  # drawn one by one; more become a map of how dense they are
_COLOURS = {"val": VAL, "test": TRAIN}
_NAME = 18  # characters of a name on an axis


def draw_importance(found: Importance) -> Figure:
    """Draw bars of what shuffling the most important columns does to the loss and to accuracy or R²."""
    n = min(MOST_BARS, len(found.columns))
    figure = _figure(8.0, 1.4 + 0.24 * n)
    measures = {"loss rises by": found.loss, f"{found.score_name} falls by": found.score}
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (label, values) in zip(panels, measures.items(), strict=True):
        means, spread = values[:n].mean(axis=1), values[:n].std(axis=1)
        axes.barh(range(n), means, xerr=spread, color=TRAIN, height=0.7, error_kw={"ecolor": QUIET, "elinewidth": 1.2})
        axes.axvline(0, color=QUIET, linewidth=0.8)
        axes.set_xlabel(label)
        _plain(axes, "x")
    panels[0].set_yticks(range(n), [_short(name, 28) for name in found.columns[:n]], fontsize=8.5)
    panels[0].set_ylim(n - 0.4, -0.6)
    more = f", the {n} most important of {len(found.columns)} columns" if n < len(found.columns) else ""
    rows = f"{found.rows:,} {STAGES[found.stage]} rows"
    figure.suptitle(f"Importance: each column shuffled among {rows}{more}", fontsize=11)
    return figure


def draw_confusion(table: ClassTable, stage: str) -> Figure:
    """Draw the confusion matrix, each row shaded by the shares of its class."""
    assert table.confusion is not None
    n = len(table.names)
    size = 3.2 + min(0.36 * n, 5.0)
    figure = _figure(size + 0.9, size)
    axes = figure.subplots()
    shares = table.confusion / np.maximum(table.true, 1)[:, None]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    at = range(0, n, ceil(n / MOST_NAMES))
    names = [_short(table.names[i]) for i in at]
    upright = 90 if n > 6 or max(map(len, names)) > 8 else 0
    axes.set_xticks(at, names, rotation=upright, fontsize=8.5)
    axes.set_yticks(at, names, fontsize=8.5)
    if n <= MOST_NUMBERS:
        for (row, column), count in np.ndenumerate(table.confusion):
            if count:
                ink = "white" if shares[row, column] > 0.55 else "#222222"
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    right = table.right.sum() / table.true.sum()
    axes.set_title(f"{table.true.sum():,} {STAGES[stage]} rows, accuracy {right:.3f}", fontsize=11)
    return figure


def draw_calibration(curves: Mapping[str, Reliability]) -> Figure:
    """Draw how often predictions are right by how sure they are, a curve for each set, and how many rows are how sure.

    A point's area grows with its rows: a point of few rows says little.
    """
    figure = _figure(5.4, 5.6)
    axes, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle="--", label="as sure as right")
    edges = np.linspace(0, 1, len(next(iter(curves.values())).rows) + 1)
    for stage, curve in curves.items():
        has, colour = curve.rows > 0, _COLOURS[stage]
        label = f"{STAGES[stage]}: expected calibration error {curve.error:.3f}"
        axes.plot(curve.confidence[has], curve.accuracy[has], color=colour, linewidth=1.4, label=label)
        share = curve.rows[has] / curve.rows.sum()
        axes.scatter(curve.confidence[has], curve.accuracy[has], s=12 + 150 * share, color=colour, zorder=3)
        below.stairs(curve.rows / curve.rows.sum(), edges, color=colour, linewidth=1.4)
    axes.set_ylabel("share that is right")
    axes.set_ylim(-0.03, 1.03)
    below.set_xlabel("probability of the predicted class")
    below.set_ylabel("share of rows")
    below.set_xlim(-0.02, 1.02)
    axes.set_title("Calibration: below the line is too sure", fontsize=11)
    axes.legend(frameon=False, fontsize=8.5, loc="upper left")
    _plain(axes, "y")
    _plain(below, "y")
    return figure


def draw_residuals(found: Residuals, stage: str) -> Figure:
    """Draw the predictions against the true numbers, and the residuals against the predictions."""
    figure = _figure(9.2, 4.5)
    left, right = figure.subplots(1, 2)
    low, high = (float(pick([pick(found.true), pick(found.predicted)])) for pick in (np.min, np.max))
    left.plot([low, high], [low, high], color=QUIET, linewidth=1, linestyle="--", zorder=3)
    _points(left, found.true, found.predicted)
    left.set_xlabel("true")
    left.set_ylabel("predicted")
    right.axhline(0, color=QUIET, linewidth=1, linestyle="--", zorder=3)
    _points(right, found.predicted, found.values)
    right.set_xlabel("predicted")
    right.set_ylabel("predicted minus true")
    for axes in (left, right):
        _plain(axes, "both")
    figure.suptitle(f"{len(found.true):,} {STAGES[stage]} rows", fontsize=11)
    return figure


def _points(axes: Axes, x: Any, y: Any) -> None:
    if len(x) <= MOST_POINTS:
        axes.scatter(x, y, s=14, color=VAL, alpha=0.5, linewidths=0)
    else:
        axes.hexbin(x, y, gridsize=60, bins="log", mincnt=1, cmap="Oranges", linewidths=0)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Axes, grid: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _short(name: str, most: int = _NAME) -> str:
    """Return a name as it is drawn: `$` begins a formula for matplotlib, which has no letters for what is no text."""
    text = name if len(name) <= most else f"{name[: most - 1]}…"
    return "".join(c if c.isprintable() else "?" for c in text).replace("$", r"\$")
