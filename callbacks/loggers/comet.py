"""Shows a run at Comet; comet_ml is imported when something is shown."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from callbacks.loggers.base import Drawing, Histogram, NumbersAdapter


class CometAdapter(NumbersAdapter):
    """Shows texts in the Text tab, pictures in Graphics, histograms in Histograms, graphs as SVG assets."""

    @property
    def _experiment(self) -> Any:
        experiment = self._logger.experiment
        if getattr(experiment, "disabled", False):
            raise ValueError(
                "CometLogger(online=False) logs nothing (Lightning #21617); lightning_mods.OfflineCometLogger does"
            )
        return experiment

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Log metrics and histograms."""
        super().write_moment(step, scalars, histograms)
        for tag, one in histograms.items():
            middles = [(low + high) / 2 for low, high in pairwise(one.edges)]
            values = np.repeat(middles, np.asarray(one.counts, dtype=int))  # Comet counts them into bins of its own
            self._experiment.log_histogram_3d(values, name=tag, step=step)

    def write_text(self, tag: str, text: str, step: int) -> None:
        """Log to the Text tab."""
        self._experiment.log_text(text, step=step, metadata={"tag": tag})

    def write_image(self, tag: str, pixels: Any, step: int) -> None:
        """Log to the Graphics tab."""
        from PIL import Image  # comes with matplotlib, which drew it

        self._experiment.log_image(Image.fromarray(pixels), name=tag, step=step)

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """Log an asset for each graph."""
        for tag, graph in graphs.items():
            name = f"graphs/{tag.replace('/', '_')}.svg"
            self._experiment.log_asset_data(graph.svg(), name=name, step=step)
