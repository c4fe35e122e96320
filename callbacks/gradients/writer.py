"""Turns what was read on the device into numbers by name, and hands them to the loggers."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from pytorch_lightning import Trainer

from callbacks.gradients.flow import GradientFlow
from callbacks.gradients.probe import NONZERO, PER_HISTOGRAM, UPDATE, WEIGHT, Array, Moment, Probe, shown
from callbacks.loggers import dispatch
from callbacks.loggers.base import Histogram

BINS = 30  # TensorBoard's Histograms tab lays what it gets over 30 bins of its own

Whole = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def histograms(values: Array, sizes: Sequence[int]) -> list[Histogram | None]:
    """One for each of the groups of `sizes` that `values` consists of, none of them empty.

    Counts are of the finite values, between the smallest and the largest; None where there are none, or where they lie
    further apart than a number can tell. Bins are as many as Rice's rule says, twice the cube root of the numbers
    (https://en.wikipedia.org/wiki/Histogram#Rice_rule), and at most 30.
    """
    starts = np.cumsum([0, *sizes[:-1]])
    lows, highs = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    with np.errstate(over="ignore", invalid="ignore"):
        spans = highs - lows
    if np.isfinite(spans).all():
        return list(_finite(values, np.asarray(sizes), starts, lows=lows, highs=highs))
    found: list[Histogram | None] = []  # broken ones are dear, and rare
    for group in np.split(values, starts[1:]):
        kept = group[np.isfinite(group)]
        with np.errstate(over="ignore"):
            tellable = len(kept) > 0 and bool(np.isfinite(np.ptp(kept)))
        found += histograms(kept, [len(kept)]) if tellable else [None]
    return found


def _finite(values: Array, sizes: Whole, starts: Whole, *, lows: Array, highs: Array) -> list[Histogram]:
    margins = np.where(lows == highs, np.maximum(np.abs(lows) * 1e-3, 1e-12), 0.0)  # one value stands in the middle
    lows, highs = lows - margins, highs + margins
    bins = np.array([bins_for(int(size)) for size in sizes])
    firsts = np.cumsum(bins) - bins
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        places = ((values - np.repeat(lows, sizes)) * np.repeat(bins / (highs - lows), sizes)).astype(np.int64)
        squares = np.add.reduceat(values * values, starts).tolist()
    places = np.clip(places, 0, np.repeat(bins - 1, sizes)) + np.repeat(firsts, sizes)
    counts = np.bincount(places, minlength=int(bins.sum())).tolist()
    totals = np.add.reduceat(values, starts).tolist()
    edges = zip(lows.tolist(), highs.tolist(), firsts.tolist(), bins.tolist(), strict=True)
    return [
        Histogram(low, high, counts[first : first + many], total, square)
        for (low, high, first, many), total, square in zip(edges, totals, squares, strict=True)
    ]


def bins_for(size: int) -> int:
    """How many bins so many numbers get."""
    return min(math.ceil(2 * math.cbrt(size)), BINS)


QUANTITIES = ("grad_norm", "grad_norm_clipped", "weight_norm", "update_ratio", "grad_zeros")


class GradientWriter:
    """Writes moments; remembers the tags, which are the same from moment to moment.

    Args:
        write_every: Steps whose moments are written together: their means and the largest total.
    """

    def __init__(self, write_every: int) -> None:
        self._write_every = write_every
        self._tags: dict[tuple[Probe, str], dict[str, list[str]]] = {}

    def write(self, trainer: Trainer, moments: Sequence[Moment]) -> list[tuple[int, dict[str, float]]]:
        """Write moments, oldest first; gives the step and the gradient norm of each layer of each."""
        groups: dict[tuple[int, str, Probe], list[Moment]] = {}
        for moment in moments:
            groups.setdefault((moment.step // self._write_every, moment.total, moment.probe), []).append(moment)
        flows = []
        for together in sorted(groups.values(), key=lambda group: group[-1].step):
            norms = self._write(trainer, together)
            layers = together[0].probe.layers
            flows += [(m.step, dict(zip(layers, row, strict=False))) for m, row in zip(together, norms, strict=True)]
        return sorted(flows, key=lambda flow: flow[0]) if len(groups) > 1 else flows

    def _write(self, trainer: Trainer, moments: list[Moment]) -> list[list[float]]:
        last = moments[-1]
        norms, values = _numbers(moments)
        tags = self._tags_of(last)
        # A ratio to weights that are all zero is no number. Norms that are none are told as they are.
        scalars = {
            tag: value
            for quantity, row in values.items()
            for tag, value in zip(tags[quantity], row.tolist(), strict=True)
            if value == value or quantity != "update_ratio"
        }
        if len(moments) > 1:
            scalars[f"grad_norm_max/{last.total}"] = float(norms[:, -1].max())
        for moment in moments[:-1]:
            if moment.samples is not None:
                dispatch.write_moment(trainer, moment.step, {}, _histograms(moment))
        dispatch.write_moment(trainer, last.step, scalars, _histograms(last))
        found: list[list[float]] = norms.tolist()
        return found

    def _tags_of(self, moment: Moment) -> dict[str, list[str]]:
        key = (moment.probe, moment.total)
        if key not in self._tags:
            if len(self._tags) > 16:  # probes come and go where gradients do
                self._tags.clear()
            names = [*moment.probe.layers, moment.total]
            self._tags[key] = {quantity: [f"{quantity}/{name}" for name in names] for quantity in QUANTITIES}
        return self._tags[key]


def _numbers(moments: Sequence[Moment]) -> tuple[Array, dict[str, Array]]:
    """Of moments of one probe: gradient norms `[moments, layers + 1]`, and the means of all quantities, `[layers + 1]`.

    The last column is for all layers together. One transfer from the device.
    """
    probe = moments[0].probe
    clipped = [moment.clipped for moment in moments if moment.clipped is not None]
    updates = [moment.updates for moment in moments if moment.updates is not None]
    found = torch.stack([*[moment.gradients for moment in moments], *clipped])
    if updates:
        found = torch.cat([found.to(updates[0]), *updates])
    numbers = found.cpu().double().numpy()
    with np.errstate(all="ignore"):
        count = len(moments) + len(clipped)
        norms = np.sqrt(probe.by_layer(numbers[:count] ** 2))
        values = {"grad_norm": norms[: len(moments)].mean(0)}
        if clipped:
            values["grad_norm_clipped"] = norms[len(moments) :].mean(0)
        if updates:
            values |= _around(probe, numbers[count:].reshape(len(updates), 3, -1))
    return norms[: len(moments)], values


def _around(probe: Probe, numbers: Array) -> dict[str, Array]:
    """Means of what was read around the steps; a ratio is over the steps that have one, NaN where none has."""
    squares = probe.squares(numbers)
    weights = np.sqrt(squares[:, WEIGHT])
    ratios = np.sqrt(squares[:, UPDATE]) / weights
    there = (weights > 0) & ~np.isnan(ratios)
    return {
        "weight_norm": weights.mean(0),
        "update_ratio": np.where(there, ratios, 0.0).sum(0) / there.sum(0),
        "grad_zeros": (1 - squares[:, NONZERO] / probe.numels).mean(0),
    }


def show_flow(trainer: Trainer, flow: GradientFlow) -> None:
    """Draw the history to where the run is looked at."""
    from callbacks.gradients.figure import draw_gradient_flow
    from callbacks.loggers.figures import rgb  # matplotlib takes half a second to load

    dispatch.write_image(trainer, "gradients/flow", rgb(draw_gradient_flow(flow)), flow.columns[-1].last)


def _histograms(moment: Moment) -> dict[str, Histogram]:
    if moment.samples is None:
        return {}
    probe, which = moment.probe, shown(moment.probe)
    drawn = histograms(moment.samples.cpu().double().numpy(), 2 * probe.sample_sizes(which, PER_HISTOGRAM))
    tags = [f"{kind}/{probe.places[i].name}" for kind in ("gradients", "weights") for i in which]
    sparse = {f"gradients/{probe.places[i].name}" for i in which if probe.is_sparse(i)}
    return {tag: one for tag, one in zip(tags, drawn, strict=True) if one is not None and tag not in sparse}
