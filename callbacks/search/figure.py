"""Draw a search: its trials over learning rate and batch size, and what they came to one after another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import isfinite
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from callbacks.diagnosis.verdict import Fit
from callbacks.host import number
from callbacks.loggers.figures import COLOURS, HIGHEST, QUIET, WIDE
from callbacks.search.results import TrialRow

_MARKS = {"COMPLETE": "o", "PRUNED": "v", "FAIL": "X"}
_WORDS = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
_WIDTH, _HEIGHT = 8.0, 5.2  # inches, as all that follow
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.85, 0.15, 0.36, 0.92
_BAR, _LABEL, _LETTER = 0.2, 0.35, 0.09  # the colour bar's width, what its name takes, and a letter of its numbers
_DECADES = 100.0  # largest over smallest from which on the powers of ten alone are marked, quicker by a quarter
_FEWEST = 5  # values from which on a surface says more than its points


def draw_search(
    rows: Sequence[TrialRow], *, x: str = "lr", y: str = "batch_size", monitor: str = "val_loss", mode: str = "min"
) -> Figure:
    """Draw the trials over two of their values, coloured by verdict, above the metric between them.

    A trial whose value of `x` or `y` is no number is left out. An axis is logarithmic where all are above 0; where no
    trial has `y`, the metric stands there instead. The figure is unknown to pyplot: nothing need be closed.
    """
    figure, axes = _figure()
    flat = not any(y in row.params for row in rows)
    if not any(x in row.params for row in rows):
        x, y, flat = y, monitor, True
    shown = [row for row in rows if _at(row, x) is not None and (_value(row) if flat else _at(row, y)) is not None]
    points = np.array([[_at(row, x), _value(row) if flat else _at(row, y)] for row in shown], dtype=float)
    _scale(axes, points, flat=flat)
    if not flat:
        _surface(figure, axes, shown, points, monitor=monitor, mode=mode)
    _mark(axes, shown, points)
    best = _best(shown, mode)
    if best is not None:
        look: dict[str, Any] = {"color": "white", "markeredgecolor": "black", "markersize": 19, "zorder": 6}
        axes.plot(*points[shown.index(best)][:, None], "*", **look)
        axes.set_title(f"best {monitor} {best.values[0]:.5g}, trial {best.number}", loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(monitor if flat else y)
    _legend(figure, axes, shown)
    return figure


def draw_history(rows: Sequence[TrialRow], *, monitor: str = "val_loss", mode: str = "min") -> Figure:
    """Draw what the trials came to by their number, and the best so far; the figure is unknown to pyplot.

    Those without a value stand at the bad edge, and so do those worse than all complete trials and than three in four
    of all: one that exploded would press the others flat.
    """
    figure, axes = _figure()
    rows = sorted(rows, key=lambda row: row.number)
    edge = _edge(rows, mode)
    within = min if mode == "min" else max
    heights = [edge if (value := _value(row)) is None else within(value, edge) for row in rows]
    _mark(axes, rows, np.array([[row.number, height] for row, height in zip(rows, heights, strict=True)], dtype=float))
    steps = _so_far(rows, mode)
    if steps:
        axes.step(*zip(*steps, strict=True), where="post", color="black", linewidth=1.4, label="best so far")
    drawn = [min(value, edge) for row in rows if (value := _value(row)) is not None]
    if mode == "min" and drawn and min(drawn) > 0 and max(drawn) / min(drawn) > WIDE:
        axes.set_yscale("log")
    axes.set_xlabel("trial")
    axes.set_ylabel(monitor)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, axes, rows)
    return figure


def _figure() -> tuple[Figure, Axes]:
    """Make a figure with margins of a fixed width: a layout that measures all words takes twice as long to draw."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=110)
    FigureCanvasAgg(figure)
    return figure, figure.add_axes(_box(_LEFT, _WIDTH - _RIGHT))


def _box(left: float, right: float) -> tuple[float, float, float, float]:
    """Turn inches into what matplotlib takes."""
    return left / _WIDTH, _BOTTOM / _HEIGHT, (right - left) / _WIDTH, (_HEIGHT - _BOTTOM - _TOP) / _HEIGHT


def _at(row: TrialRow, name: str) -> float | None:
    return number(row.params.get(name))


def _value(row: TrialRow) -> float | None:
    value = row.values[0] if row.values else None
    return value if value is not None and isfinite(value) and abs(value) < HIGHEST else None


def _best(rows: Sequence[TrialRow], mode: str) -> TrialRow | None:
    whole = [row for row in rows if row.state == "COMPLETE" and _value(row) is not None]
    return (min if mode == "min" else max)(whole, key=lambda row: row.values[0], default=None)


def _so_far(rows: Sequence[TrialRow], mode: str) -> list[tuple[int, float]]:
    whole = [(row.number, value) for row in rows if row.state == "COMPLETE" and (value := _value(row)) is not None]
    values = accumulate((value for _, value in whole), min if mode == "min" else max)
    steps = [(number, value) for (number, _), value in zip(whole, values, strict=True)]
    return [*steps, (rows[-1].number, steps[-1][1])] if steps else []


def _edge(rows: Sequence[TrialRow], mode: str) -> float:
    """Return the worst value that is drawn where it is."""
    sign = 1.0 if mode == "min" else -1.0
    values = [(sign * value, row.state) for row in rows if (value := _value(row)) is not None]
    if not values:
        return 0.0
    whole = [value for value, state in values if state == "COMPLETE"]
    three_in_four = float(np.quantile([value for value, _ in values], 0.75, method="lower"))
    return sign * max([three_in_four, *whole])


def _mark(axes: Axes, rows: Sequence[TrialRow], points: Any) -> None:
    """Put a mark on the place of each trial; those that look alike are one artist, as each of them takes its time."""
    alike: dict[tuple[str, str], list[int]] = {}
    for i, row in enumerate(rows):
        alike.setdefault((_MARKS.get(row.state, "o"), _colour(row)), []).append(i)
    look: dict[str, Any] = {"markeredgecolor": "white", "markersize": 9, "linestyle": "", "zorder": 4}
    for (mark, colour), those in alike.items():
        axes.plot(*points[those].T, mark, color=colour, **look)


def _colour(row: TrialRow) -> str:
    verdict = row.attrs.get("verdict")
    return COLOURS.get(Fit(verdict), QUIET) if verdict in set(Fit) else QUIET


def _scale(axes: Axes, points: Any, *, flat: bool) -> None:
    if not len(points):
        return
    if points[:, 0].min() > 0:
        axes.set_xscale("log")
        if points[:, 0].max() / points[:, 0].min() >= _DECADES:
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
    if flat:
        if points[:, 1].min() > 0 and points[:, 1].max() / points[:, 1].min() > WIDE:
            axes.set_yscale("log")
    elif points[:, 1].min() > 0:
        axes.set_yscale("log", base=2)
        levels = np.unique(points[:, 1])
        if len(levels) <= 12:
            axes.set_yticks(levels, [f"{level:g}" for level in levels])
            axes.yaxis.set_minor_locator(NullLocator())


def _surface(figure: Figure, axes: Axes, rows: Sequence[TrialRow], points: Any, *, monitor: str, mode: str) -> None:
    """Draw the metric between the trials: the mean of its ranks, weighted by nearness (Nadaraya 1964, Watson 1964)."""
    known = [(place, value) for row, place in zip(rows, points, strict=True) if (value := _value(row)) is not None]
    if len(known) < _FEWEST or points.min() <= 0 or (np.ptp(points, axis=0) == 0).any():
        return
    places, values = np.log([place for place, _ in known]), np.array([value for _, value in known])
    low, high = np.log(points).min(axis=0), np.log(points).max(axis=0)
    margin = 0.06 * (high - low)
    low, high = low - margin, high + margin
    x, y = (np.linspace(low[i], high[i], 80) for i in (0, 1))
    grid = np.stack(np.meshgrid(x, y), axis=-1)[:, :, None, :]
    apart = (((grid - places) / (high - low)) ** 2).sum(axis=-1)
    near = np.exp(-apart / (2 * 0.08**2)) + 1e-12
    # By rank, since one trial that exploded would make all others look alike.
    ranks = values.argsort().argsort() / max(1, len(values) - 1)
    shade = (near * ranks).sum(axis=-1) / near.sum(axis=-1)
    colours = "viridis_r" if mode == "min" else "viridis"
    # Paler than the marks upon it; by alpha it would show the seams of its cells.
    pale = ListedColormap(0.45 + 0.55 * colormaps[colours](np.linspace(0, 1, 256))[:, :3])
    mesh = axes.pcolormesh(np.exp(x), np.exp(y), shade, cmap=pale, vmin=0, vmax=1, shading="gouraud", zorder=0)
    ticks = np.linspace(0, 1, 5)
    labels = [f"{value:.3g}" for value in np.quantile(values, ticks)]
    edge = _WIDTH - _RIGHT - _LABEL - _LETTER * max(map(len, labels))
    axes.set_position(_box(_LEFT, edge - 2 * _BAR))
    bar = figure.colorbar(mesh, cax=figure.add_axes(_box(edge - _BAR, edge)))
    bar.set_ticks(list(ticks), labels=labels)
    bar.set_label(monitor)
    axes.set_xlim(np.exp(low[0]), np.exp(high[0]))
    axes.set_ylim(np.exp(low[1]), np.exp(high[1]))


def _legend(figure: Figure, axes: Axes, rows: Sequence[TrialRow]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    handles: list[Any] = list(axes.get_legend_handles_labels()[0])
    for fit in Fit:
        if any(row.attrs.get("verdict") == fit for row in rows):
            handles.append(Line2D([], [], marker="o", linestyle="", color=COLOURS[fit], label=fit.value))
    for state, mark in _MARKS.items():
        if any(row.state == state for row in rows):
            handles.append(Line2D([], [], marker=mark, linestyle="", color="black", label=_WORDS[state]))
    if handles:
        figure.legend(handles=handles, fontsize=8.5, frameon=False, ncols=len(handles), loc="lower left")
