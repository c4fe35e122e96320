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


class GradientWriter:
    """Writes moments; remembers the tags, which are the same from moment to moment."""

    def __init__(self) -> None:
        self._tags: dict[tuple[Probe, str], list[list[str]]] = {}

    def write(self, trainer: Trainer, moments: Sequence[Moment]) -> list[dict[str, float]]:
        """Write moments, oldest first; gives the gradient norm of each layer at each."""
        flows = []
        for moment, numbers in zip(moments, _on_host(moments), strict=True):
            table = _table(moment.probe.by_layer(numbers), moment.probe.numels)
            tags = self._tags_of(moment)
            named = [zip(row_tags, row, strict=True) for row_tags, row in zip(tags, table.tolist(), strict=False)]
            # A ratio to weights that are all zero is no number. Norms that are none are told as they are.
            ratio = named.pop(QUANTITIES.index("update_ratio"))
            scalars = dict(pair for row in named for pair in row)
            scalars |= {tag: value for tag, value in ratio if not math.isnan(value)}
            histograms = {} if moment.samples is None else _histograms(moment.probe, moment.samples)
            _hand_out(trainer, moment.step, scalars, histograms)
            flows.append(dict(zip(moment.probe.layers, table[GRADIENT].tolist(), strict=False)))
        return flows

    def _tags_of(self, moment: Moment) -> list[list[str]]:
        key = (moment.probe, moment.total)
        if key not in self._tags:
            if len(self._tags) > 16:  # probes come and go where gradients do
                self._tags.clear()
            names = [*moment.probe.layers, moment.total]
            self._tags[key] = [[f"{quantity}/{name}" for name in names] for quantity in QUANTITIES]
        return self._tags[key]


def _on_host(moments: Sequence[Moment]) -> list[Array]:
    """One transfer for all of them."""
    if not moments:
        return []
    device = moments[0].numbers.device
    together = torch.cat([moment.numbers.to(device) for moment in moments]).double().cpu()
    return [part.numpy() for part in together.split_with_sizes([len(moment.numbers) for moment in moments])]


def _table(sums: Array, numels: Array) -> Array:
    """The quantities `[quantities, layers + 1]`, the last column for all layers together."""
    sums = np.concatenate([sums, sums.sum(1, keepdims=True)], axis=1)
    numels = np.append(numels, numels.sum())
    table = np.sqrt(sums)
    weights = table[WEIGHT].copy()
    ratio = np.full_like(weights, np.nan)
    np.divide(table[UPDATE], weights, out=ratio, where=weights > 0)
    rows = [table[GRADIENT], weights, ratio, 1 - sums[NONZERO] / numels]
    return np.stack([*rows, table[CLIPPED]] if len(table) > CLIPPED else rows)


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
