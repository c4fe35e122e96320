"""Shows a run at Comet, in MLflow and at Weights & Biases; their packages are imported when something is shown."""

import html
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from callbacks.loggers.base import Drawing, Histogram, NumbersAdapter
from callbacks.loggers.files import histograms_text, name_of_svg


class CometAdapter(NumbersAdapter):
    """Shows texts in Comet's Text tab, pictures in Graphics, histograms in Histograms, graphs as SVG assets."""

    @property
    def _experiment(self) -> Any:
        experiment = self._logger.experiment
        if getattr(experiment, "disabled", False):
            instead = "lightning_mods.OfflineCometLogger does"
            raise ValueError(f"CometLogger(online=False) logs nothing (Lightning #21617); {instead}")
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
        self._experiment.log_image(_picture(pixels), name=tag, step=step)

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """Log an asset for each graph."""
        for tag, graph in graphs.items():
            self._experiment.log_asset_data(graph.svg(), name=name_of_svg(tag), step=step)


class MLflowAdapter(NumbersAdapter):
    """Writes MLflow artifacts `TAG/STEP.png`, `TAG.txt`, `histograms/STEP.json` and `graphs/NAME.svg`."""

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
        self._logger.experiment.log_image(self._logger.run_id, _picture(pixels), f"{tag}/{step:08d}.png")

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """Write a file for each graph."""
        for tag, graph in graphs.items():
            self._text(graph.svg(), name_of_svg(tag))

    def write_hyperparameters(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Log parameters; MLflow never changes one, so that another value of the same name becomes a tag `now.NAME`."""
        client, run = self._logger.experiment, self._logger.run_id
        there = client.get_run(run).data.params
        said = {_allowed(name): str(value)[:250] for name, value in values.items()}  # as Lightning's shortens them
        self._logger.log_hyperparams({name: value for name, value in said.items() if name not in there})
        for name, value in said.items():
            if there.get(name, value) != value:
                client.set_tag(run, f"now.{name}", value)

    def _text(self, text: str, path: str) -> None:
        self._logger.experiment.log_text(self._logger.run_id, text, path)


class WandbAdapter(NumbersAdapter):
    """Shows texts as W&B's HTML panels and as columns of the runs' table, graphs as SVG within HTML."""

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log one row of the history, its x axis the step."""
        self._log(values, step)

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Log one row of the history, its x axis the step."""
        import wandb

        # Ready bins: nothing is counted again.
        drawn = {tag: wandb.Histogram(np_histogram=(one.counts, one.edges)) for tag, one in histograms.items()}
        self._log({**scalars, **drawn}, step)

    def write_text(self, tag: str, text: str, step: int) -> None:
        """Log an HTML panel, and the text itself in the run's summary."""
        import wandb

        self._log({tag: wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)}, step)
        self._logger.experiment.summary[f"{tag}_text"] = text

    def write_image(self, tag: str, pixels: Any, step: int) -> None:
        """Log an image panel."""
        self._logger.log_image(tag, [pixels], step=step)

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """Log an HTML panel for each graph."""
        import wandb

        self._log({f"graphs/{tag}": wandb.Html(graph.svg(), inject=False) for tag, graph in graphs.items()}, step)

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        if values:
            self._logger.log_metrics(values, step=step)


def _picture(pixels: Any) -> Any:
    from PIL import Image  # comes with matplotlib, which drew it

    return Image.fromarray(pixels)


def _allowed(name: str) -> str:
    return re.sub(r"[^\w/. -]+", "_", name, flags=re.ASCII)
