"""Defines what a logger adapter can show, and what is handed to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from callbacks.host.packages import Logger


@dataclass(frozen=True)
class Histogram:
    """Counts of numbers in bins of equal width, with their sum and the sum of their squares."""

    low: float  # lower edge of the first bin
    high: float  # upper edge of the last one
    counts: list[float]
    total: float
    squares: float

    @property
    def edges(self) -> list[float]:
        """The edges of the bins, one more than there are bins."""
        width = (self.high - self.low) / len(self.counts)
        return [*(self.low + width * i for i in range(len(self.counts))), self.high]


@dataclass(frozen=True)
class Drawing:
    """A compute graph in two forms, each made when it is asked for."""

    graph_def: Callable[[], Any]  # TensorBoard's `GraphDef`
    svg: Callable[[], str]  # the text of an SVG file


@runtime_checkable
class LoggerAdapter(Protocol):
    """Shows a run's things, one method for each kind. A logger that has them all is its own adapter.

    Those who inherit from it leave out what they cannot show.
    """

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Take in a few numbers by tag, also after a fit has ended."""

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Take in numbers by tag that belong to one step, NaN and infinity as they are."""

    def write_text(self, tag: str, text: str, step: int) -> None:
        """Show a text as it stands, in place of an earlier one."""
        return

    def write_image(self, tag: str, pixels: Any, step: int) -> None:
        """Show a picture, an array `[height, width, 3]` of bytes."""
        return

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """Show compute graphs by name: `forward`, `backward`, `backward/0` and so on."""
        return

    def write_charts(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Draw tags on one chart, where that can be said: category -> chart -> tags."""
        return

    def write_hyperparameters(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Show the run's settings, and which tags are its results."""


class NumbersAdapter(LoggerAdapter):
    """Hands scalars and hyperparameters to a logger by Lightning's own methods, and shows nothing else."""

    def __init__(self, logger: Logger) -> None:
        self._logger: Any = logger  # its class has more methods than Lightning's base

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Hand them to the logger."""
        self._logger.log_metrics(dict(values), step=step)

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Hand the scalars to the logger."""
        if scalars:
            self.write_scalars(scalars, step)

    def write_hyperparameters(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Hand the settings to the logger."""
        self._logger.log_hyperparams(dict(values))
