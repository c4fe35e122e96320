"""Shows a run at Weights & Biases; wandb is imported when something is shown."""

import html
from collections.abc import Mapping
from typing import Any

from callbacks.loggers.base import Drawing, Histogram, NumbersAdapter


class WandbAdapter(NumbersAdapter):
    """Shows texts as HTML panels and as columns of the runs' table, graphs as SVG within HTML."""

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log one row of the history, its x axis the step."""
        self._log(values, step)

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Log one row of the history, its x axis the step."""
        import wandb

        drawn = {
            tag: wandb.Histogram(np_histogram=(one.counts, one.edges))  # ready bins: nothing is counted again
            for tag, one in histograms.items()
        }
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
