"""Draw gradient flow: layers from the input (top) to the output, training from left to right."""

from __future__ import annotations

from math import ceil, floor, isnan, log10
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from callbacks.gradients.flow import GradientFlow

ZERO, BROKEN, ABSENT = "#9aa0a6", "#e0115f", "#ffffff"
LETTER = 8.5  # points of height that a label needs to be read
DECADES = 2.0  # the least the colours span, or noise would look like a difference
LONGEST = 34  # letters of a layer's name that are shown: the last ones tell layers apart


def draw_gradient_flow(flow: GradientFlow) -> Figure:
    """Draw what reached each layer over time in a figure of its own, unknown to pyplot: nothing need be closed.

    Zero norms are grey, norms that are not finite red, and no gradient is left white.
    """
    means = flow.means()
    high = min(max(2.3 + 0.27 * len(means), 3.4), 11.0)
    figure = Figure(figsize=(9.0, high), dpi=110, layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    scale = _scale(means)
    colours = colormaps["viridis"]
    pixels = [[_colour(value, scale, colours) for value in row] for row in means]
    image = np.asarray(pixels, dtype=float).reshape(len(means), len(flow.columns), 3)
    if image.size:
        axes.imshow(image, aspect="auto", interpolation="nearest")
    _rows(axes, flow, high)
    _columns(axes, flow)
    axes.set_title("Gradient flow", fontsize=13, fontweight="bold", loc="left", pad=22)
    text = "dark: little reaches the layer · bright: much"
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    axes.annotate(text, (0, 1), (0, 6), fontsize=8.5, color="#555555", **place)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, pad=0.015, fraction=0.05)
    bar.set_label("norm of the layer's gradient, before clipping", fontsize=8.5)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    _legend(figure, means)
    return figure


def _scale(means: list[list[float | None]]) -> LogNorm:
    # From the 1st to the 99th of a hundred norms: one outlier shall not press the rest flat.
    seen = [value for row in means for value in row if value is not None and value > 0]
    low, high = (log10(value) for value in np.percentile(seen, [1, 99])) if seen else (-1.0, 1.0)
    lacking = max(DECADES - (high - low), 0.0)
    return LogNorm(10 ** max(low - lacking / 2, -300.0), 10 ** min(high + lacking / 2, 300.0), clip=True)


def _colour(value: float | None, scale: LogNorm, colours: Any) -> tuple[float, float, float]:
    if value is None or isnan(value) or value == 0:
        return to_rgb(ABSENT if value is None else ZERO if value == 0 else BROKEN)
    return to_rgb(colours(float(scale(value))))


def _rows(axes: Axes, flow: GradientFlow, high: float) -> None:
    count = len(flow.layers)
    step = max(ceil(count * LETTER / ((high - 1.4) * 72)), 1)
    shown = range(0, count, step)
    axes.set_yticks(list(shown), [_short(flow.layers[row]) for row in shown], fontsize=7.5 if step == 1 else 6.5)
    some = f" ({count} of {flow.of})" if flow.of > count else ""
    axes.set_ylabel(f"output  ←  layer{some}  ←  input", fontsize=9)
    axes.spines[:].set_visible(False)


def _short(name: str) -> str:
    if len(name) <= LONGEST:
        return name
    last = name[1 - LONGEST :]
    _, dot, whole = last.partition(".")  # not half a word first
    return f"…{whole if dot else last}"


def _columns(axes: Axes, flow: GradientFlow) -> None:
    # Some columns are named, at round steps: each stands where the first column reaches that step.
    steps = [column.first for column in flow.columns]
    axes.set_xlabel("optimizer step", fontsize=9)
    if not steps:
        axes.set_xticks([])
        return
    wide = _round_step((steps[-1] - steps[0]) / 7)
    marks = range(-(-steps[0] // wide) * wide, steps[-1] + 1, wide)
    places = np.interp(list(marks), steps, range(len(steps))) if len(steps) > 1 else [0.0] * len(marks)
    axes.set_xticks(list(places), [f"{mark:,}".replace(",", " ") for mark in marks], fontsize=8)


def _round_step(least: float) -> int:
    if least <= 1:
        return 1
    decade = 10 ** floor(log10(least))
    return int(next(decade * factor for factor in (1, 2, 5, 10) if decade * factor >= least))


def _legend(figure: Figure, means: list[list[float | None]]) -> None:
    values = [value for row in means for value in row]
    kinds = (
        (ZERO, "exactly zero", any(value == 0 for value in values)),
        (BROKEN, "not finite", any(value is not None and isnan(value) for value in values)),
    )
    found = [Patch(color=colour, label=label) for colour, label, there in kinds if there]
    if found:
        figure.legend(handles=found, loc="outside lower left", ncols=2, frameon=False, fontsize=8)
