"""A Comet logger as a place to look at a run; comet_ml is imported when something is shown."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from pytorch_lightning.loggers import CometLogger

from callbacks.loggers.base import Drawing, Histogram


class CometBoard:
    """Shows texts in the Text tab, pictures in Graphics, histograms in Histograms, graphs as SVG assets.

    Args:
        logger: Where to.
    """

    def __init__(self, logger: CometLogger) -> None:
        self._logger = logger

    @property
    def _experiment(self) -> Any:
        experiment = self._logger.experiment
        if getattr(experiment, "disabled", False):
            raise ValueError(
                "CometLogger(online=False) logs nothing (Lightning #21617); lightning_mods.OfflineCometLogger does"
            )
        return experiment

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Metrics."""
        self._logger.log_metrics(dict(values), step=step)

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Metrics and histograms."""
        if scalars:
            self.write_scalars(scalars, step)
        for tag, one in histograms.items():
            middles = [(low + high) / 2 for low, high in pairwise(one.edges)]
            values = np.repeat(middles, np.asarray(one.counts, dtype=int))  # Comet counts them into bins of its own
            self._experiment.log_histogram_3d(values, name=tag, step=step)

    def write_text(self, tag: str, text: str, step: int) -> None:
        """To the Text tab."""
        self._experiment.log_text(text, step=step, metadata={"tag": tag})

    def write_image(self, tag: str, pixels: Any, step: int) -> None:
        """To the Graphics tab."""
        from PIL import Image  # comes with matplotlib, which drew it

        self._experiment.log_image(Image.fromarray(pixels), name=tag, step=step)

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """To the assets, a file each."""
        for tag, graph in graphs.items():
            name = f"graphs/{tag.replace('/', '_')}.svg"
            self._experiment.log_asset_data(graph.svg(), name=name, step=step)

    def write_charts(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Nothing: panels with several metrics are made in the browser."""

    def write_hyperparameters(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """To the hyperparameters."""
        self._logger.log_hyperparams(dict(values))
