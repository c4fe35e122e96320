"""A logger that takes numbers and settings alone: all it is handed, and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.loggers import Logger

from callbacks._board import Drawing, Histogram


class NumbersBoard:
    """Hands scalars and hyperparameters on.

    Args:
        logger: Where to.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Hand them on."""
        self._logger.log_metrics(dict(values), step=step)

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Hand the scalars on."""
        if scalars:
            self.write_scalars(scalars, step)

    def write_text(self, tag: str, text: str, step: int) -> None:
        """Nothing."""

    def write_image(self, tag: str, pixels: Any, step: int) -> None:
        """Nothing."""

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """Nothing."""

    def write_charts(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Nothing."""

    def write_hyperparameters(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Hand them on."""
        self._logger.log_hyperparams(dict(values))
