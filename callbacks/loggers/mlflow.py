"""Shows a run in MLflow: what is no number goes to its artifacts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from callbacks.loggers.base import Drawing, Histogram, NumbersAdapter
from callbacks.loggers.files import histograms_text


class MLflowAdapter(NumbersAdapter):
    """Writes artifacts `TAG/STEP.png`, `TAG.txt`, `histograms/STEP.json` and `graphs/NAME.svg`."""

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics, their names as MLflow allows them."""
        self._logger.log_metrics({_allowed(tag): value for tag, value in values.items()}, step=step)

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Log metrics, and the histograms of a step as one file (see `FilesAdapter`)."""
        super().write_moment(step, scalars, histograms)
        if histograms:
            self._text(histograms_text(histograms), f"histograms/{step:08d}.json")

    def write_text(self, tag: str, text: str, step: int) -> None:
        """Keep the latest as `TAG.txt`."""
        self._text(text, f"{tag}.txt")

    def write_image(self, tag: str, pixels: Any, step: int) -> None:
        """Write one file a step."""
        from PIL import Image  # comes with matplotlib, which drew it

        client, run = self._logger.experiment, self._logger.run_id
        client.log_image(run, Image.fromarray(pixels), f"{tag}/{step:08d}.png")

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """Write a file for each graph."""
        for tag, graph in graphs.items():
            self._text(graph.svg(), f"graphs/{tag.replace('/', '_')}.svg")

    def write_hyperparameters(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Log parameters; MLflow never changes one, so that another value of the same name becomes a tag `now.NAME`."""
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
