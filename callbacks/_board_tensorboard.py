"""A TensorBoard logger as a place to look at a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger

from callbacks import _tensorboard
from callbacks._board import Drawing, Histogram


class TensorBoardBoard:
    """Shows everything natively: see `_tensorboard`.

    Args:
        logger: Where to.
    """

    def __init__(self, logger: TensorBoardLogger) -> None:
        self._logger = logger

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """An event each; the writer opens a file anew where the fit has closed it."""
        _tensorboard.write_scalars(self._logger, values, step)

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """One event."""
        _tensorboard.write_moment(self._logger, step, scalars, histograms)

    def write_text(self, tag: str, text: str, step: int) -> None:
        """To the Text tab."""
        _tensorboard.write_text(self._logger, tag, text, step)

    def write_image(self, tag: str, pixels: Any, step: int) -> None:
        """To the Images tab."""
        _tensorboard.write_image(self._logger, tag, pixels, step)

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """To the Graphs tab: the forward graph is the run's own."""
        made = {tag: graph.graph_def() for tag, graph in graphs.items()}
        _tensorboard.write_graphs(self._logger, made.pop("forward", None), made, step)

    def write_charts(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """To the Custom Scalars tab."""
        _tensorboard.write_charts(self._logger, charts)

    def write_hyperparameters(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """To the HParams tab."""
        _tensorboard.write_hyperparameters(self._logger, values, metrics)
