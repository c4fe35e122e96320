"""An MLflow logger as a place to look at a run: what is no number goes to its artifacts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger

from callbacks.loggers.base import Drawing, Histogram
from callbacks.loggers.files import histograms_text


class MLflowBoard:
    """Writes artifacts `TAG/STEP.png`, `TAG.txt`, `histograms/STEP.json` and `graphs/NAME.svg`.

    Args:
        logger: Where to.
    """

    def __init__(self, logger: MLFlowLogger) -> None:
        self._logger = logger

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Metrics, their names as MLflow allows them."""
        self._logger.log_metrics({_allowed(tag): value for tag, value in values.items()}, step=step)

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Metrics, and the histograms of a step as one file (see `FilesBoard`)."""
        if scalars:
            self.write_scalars(scalars, step)
        if histograms:
            self._text(histograms_text(histograms), f"histograms/{step:08d}.json")

    def write_text(self, tag: str, text: str, step: int) -> None:
        """The latest as `TAG.txt`."""
        self._text(text, f"{tag}.txt")

    def write_image(self, tag: str, pixels: Any, step: int) -> None:
        """One file a step."""
        from PIL import Image  # comes with matplotlib, which drew it

        client, run = self._logger.experiment, self._logger.run_id
        client.log_image(run, Image.fromarray(pixels), f"{tag}/{step:08d}.png")

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """A file each."""
        for tag, graph in graphs.items():
            self._text(graph.svg(), f"graphs/{tag.replace('/', '_')}.svg")

    def write_charts(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Nothing: charts with several metrics are made in the browser."""

    def write_hyperparameters(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Parameters; MLflow never changes one, so that another value of the same name becomes a tag `now.NAME`."""
        client, run = self._logger.experiment, self._logger.run_id
        there = client.get_run(run).data.params
        # As Lightning's logger shortens them.
        said = {_allowed(name): str(value)[:250] for name, value in values.items()}
        self._logger.log_hyperparams({name: value for name, value in said.items() if name not in there})
        for name, value in said.items():
            if there.get(name, value) != value:
                client.set_tag(run, f"now.{name}", value)

    def _text(self, text: str, path: str) -> None:
        self._logger.experiment.log_text(self._logger.run_id, text, path)


def _allowed(name: str) -> str:
    return re.sub(r"[^\w/. -]+", "_", name, flags=re.ASCII)
