"""What a place to look at a run can show, and what is handed to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Histogram:
    """Counts of numbers in bins of equal width.

    Args:
        low: Lower edge of the first bin.
        high: Upper edge of the last bin.
        counts: How many numbers lie in each.
        total: Their sum.
        squares: The sum of their squares.
    """

    low: float
    high: float
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
    """A compute graph in two forms, each made when it is asked for.

    Args:
        graph_def: Makes TensorBoard's `GraphDef`.
        svg: Makes the text of an SVG file.
    """

    graph_def: Callable[[], Any]
    svg: Callable[[], str]


@runtime_checkable
class Board(Protocol):
    """A place to look at a run: one method for each kind of thing. A logger that has them is one itself."""

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Take in a few numbers by tag, also after a fit has ended."""

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Take in numbers by tag that belong to one step, NaN and infinity as they are."""

    def write_text(self, tag: str, text: str, step: int) -> None:
        """Show a text as it stands, in place of an earlier one."""

    def write_image(self, tag: str, pixels: Any, step: int) -> None:
        """Show a picture, an array `[height, width, 3]` of bytes."""

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """Show compute graphs by name: `forward`, `backward`, `backward/0` and so on."""

    def write_charts(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Draw tags on one chart, where that can be said: category -> chart -> tags."""

    def write_hyperparameters(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Show the run's settings, and which tags are its results."""
