"""Turns what was read on the device into numbers by name, and hands them to the loggers."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from callbacks import _tensorboard
from callbacks._gradient_norms import CLIPPED, GRADIENT, NONZERO, UPDATE, WEIGHT, Array, Probe
from callbacks._gradient_reader import PER_HISTOGRAM, Moment, shown
from callbacks._tensorboard import Histogram
from callbacks.gradient_flow import GradientFlow

BINS = 64
QUANTITIES = ("grad_norm", "weight_norm", "update_ratio", "grad_zeros", "grad_norm_clipped")
RATIO = QUANTITIES.index("update_ratio")


class GradientWriter:
    """Writes moments; remembers the tags, which are the same from moment to moment.

    Args:
        write_every: Steps whose moments are written together: their means and the largest total.
    """

    def __init__(self, write_every: int) -> None:
        self._write_every = write_every
        self._tags: dict[tuple[Probe, str], list[list[str]]] = {}

    def write(self, trainer: Trainer, moments: Sequence[Moment]) -> list[tuple[int, dict[str, float]]]:
        """Write moments, oldest first; gives the step and the gradient norm of each layer of each."""
        by_probe: dict[Probe, list[Moment]] = {}
        for moment in moments:
            by_probe.setdefault(moment.probe, []).append(moment)
        flows = []
        points: list[tuple[list[Moment], Array]] = []
        for (probe, own), numbers in zip(by_probe.items(), _on_host(list(by_probe)), strict=True):
            table = _table(probe.by_layer(numbers), probe.numels)
            norms = table[:, GRADIENT, :-1].tolist()
            flows += [(m.step, dict(zip(probe.layers, row, strict=True))) for m, row in zip(own, norms, strict=True)]
            points += self._points(own, table)
        for together, table in sorted(points, key=lambda point: point[0][-1].step):
            self._write(trainer, together, table)
        return sorted(flows, key=lambda flow: flow[0])

    def _points(self, moments: list[Moment], table: Array) -> list[tuple[list[Moment], Array]]:
        """Cut moments into those that are written together."""
        starts = [0]
        for i, moment in enumerate(moments):
            first = moments[starts[-1]]
            one_only = moment.samples is not None and any(m.samples is not None for m in moments[starts[-1] : i])
            apart = moment.step // self._write_every != first.step // self._write_every
            if apart or one_only or moment.total != first.total:
                starts.append(i)
        return [(moments[a:b], table[a:b]) for a, b in zip(starts, [*starts[1:], len(moments)], strict=True)]

    def _write(self, trainer: Trainer, moments: list[Moment], table: Array) -> None:
        last = moments[-1]
        values = table[0] if len(table) == 1 else _means(table)
        rows = zip(self._tags_of(last), values.tolist(), strict=False)
        # A ratio to weights that are all zero is no number. Norms that are none are told as they are.
        scalars = {
            tag: value
            for row, (tags, numbers) in enumerate(rows)
            for tag, value in zip(tags, numbers, strict=True)
            if row != RATIO or value == value
        }
        if len(table) > 1:
            scalars[f"grad_norm_max/{last.total}"] = float(table[:, GRADIENT, -1].max())
        sampled = [moment.samples for moment in moments if moment.samples is not None]
        _hand_out(trainer, last.step, scalars, _histograms(last.probe, sampled[0]) if sampled else {})

    def _tags_of(self, moment: Moment) -> list[list[str]]:
        key = (moment.probe, moment.total)
        if key not in self._tags:
            if len(self._tags) > 16:  # probes come and go where gradients do
                self._tags.clear()
            names = [*moment.probe.layers, moment.total]
            self._tags[key] = [[f"{quantity}/{name}" for name in names] for quantity in QUANTITIES]
        return self._tags[key]


def _on_host(probes: Sequence[Probe]) -> list[Array]:
    """What the probes have kept, in one transfer."""
    found = [probe.collect() for probe in probes]
    if not found:
        return []
    together = torch.cat([part.flatten().to(found[0]) for part in found]).cpu().double()
    parts = together.split_with_sizes([part.numel() for part in found])
    return [part.view(like.shape).numpy() for part, like in zip(parts, found, strict=True)]


def _table(sums: Array, numels: Array) -> Array:
    """The quantities `[steps, quantities, layers + 1]`, the last column for all layers together."""
    sums = np.concatenate([sums, sums.sum(2, keepdims=True)], axis=2)
    norms = np.sqrt(sums)
    weights = norms[:, WEIGHT]
    ratio = np.full_like(weights, np.nan)
    np.divide(norms[:, UPDATE], weights, out=ratio, where=weights > 0)
    zeros = 1 - sums[:, NONZERO] / np.append(numels, numels.sum())
    rows = [norms[:, GRADIENT], weights, ratio, zeros]
    return np.stack([*rows, norms[:, CLIPPED]] if norms.shape[1] > CLIPPED else rows, axis=1)


def _means(table: Array) -> Array:
    """Over the steps; a ratio over those that have one."""
    means = table.mean(0)
    lacking = np.isnan(table[:, RATIO])
    if lacking.any():
        there = (~lacking).sum(0)
        sums = np.where(lacking, 0.0, table[:, RATIO]).sum(0)
        means[RATIO] = np.divide(sums, there, out=np.full_like(sums, np.nan), where=there > 0)
    return np.asarray(means)


def show_flow(trainer: Trainer, flow: GradientFlow, folder: Path | None) -> None:
    """Draw the history to the Images tab; without TensorBoard into `gradient_flow.png` in a folder, if there is one."""
    from callbacks.fit_picture import png, rgb  # matplotlib takes half a second to load
    from callbacks.gradient_flow_picture import draw_gradient_flow

    loggers = _tensorboard.tensorboard_loggers(trainer)
    figure = draw_gradient_flow(flow)
    if loggers:
        pixels = rgb(figure)
        for logger in loggers:
            _tensorboard.write_image(logger, "gradients/flow", pixels, flow.columns[-1].last)
    elif folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gradient_flow.png").write_bytes(png(figure))


def _hand_out(trainer: Trainer, step: int, scalars: dict[str, float], histograms: dict[str, Histogram]) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            _tensorboard.write_moment(logger, step, scalars, histograms)
        else:
            logger.log_metrics(scalars, step=step)


def _histograms(probe: Probe, samples: Tensor) -> dict[str, Histogram]:
    which = shown(probe)
    parts = samples.cpu().split_with_sizes(2 * probe.sample_sizes(which, PER_HISTOGRAM))
    tags = [f"{kind}/{probe.places[i].name}" for kind in ("gradients", "weights") for i in which]
    sparse = {f"gradients/{probe.places[i].name}" for i in which if probe.is_sparse(i)}
    drawn = {tag: histogram(part) for tag, part in zip(tags, parts, strict=True) if tag not in sparse}
    return {tag: one for tag, one in drawn.items() if one is not None}


def histogram(values: Tensor) -> Histogram | None:
    """Counts of the finite values in 64 bins from the smallest to the largest; None where there are none."""
    low, high = (float(edge) for edge in torch.aminmax(values))
    if not math.isfinite(low) or not math.isfinite(high):
        values = values[values.isfinite()]
        if not len(values):
            return None
        low, high = (float(edge) for edge in torch.aminmax(values))
    if not math.isfinite(high - low) or high - low > torch.finfo(values.dtype).max:
        return None
    if low == high:  # one value: a bin of its own in the middle
        margin = max(abs(low) * 1e-3, 1e-12)
        low, high = low - margin, high + margin
    counts = torch.histc(values, BINS, low, high).tolist()
    return Histogram(low, high, counts, float(values.sum()), float(torch.dot(values, values)))
