"""Shows a run as files in its folder, for a logger of numbers alone or none: PNG, SVG, text, and JSON."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.host.files import replacing
from callbacks.host.packages import Logger
from callbacks.loggers.base import Drawing, Histogram, NumbersAdapter

_NAMES = {"gradients/flow": "gradient_flow"}  # what they are called where the tag does not say it well


class FilesAdapter(NumbersAdapter):
    """Writes `TAG.png`, `TAG.txt` (the latest of each), `graphs/NAME.svg`, and lines of JSON for numbers.

    Slashes in a tag become `_`. Numbers go to the logger, without one to `scalars.jsonl`: a line for each step with
    `step` and the tags. Histograms go to `histograms.jsonl`: `step`, and by tag `low`, `high` (edges), `counts` of bins
    of equal width, `sum` and `sum_squares`. NaN and infinity, which JSON has not, are the words `NaN`, `Infinity` and
    `-Infinity`, as in protobuf's JSON (https://protobuf.dev/programming-guides/json/). The run's folder is made when
    something is written; in a `fresh` run the lines of an earlier one there go.
    """

    def __init__(self, folder: Path, logger: Logger | None, *, fresh: bool) -> None:
        self.folder = folder
        self._logger: Any = logger
        self._fresh = {"scalars", "histograms"} if fresh else set()

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Hand them to the logger, without one append a line."""
        if self._logger is not None:
            super().write_scalars(values, step)
        else:
            self._append("scalars", {"step": step, **values})

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Append what belongs to a step."""
        super().write_moment(step, scalars, histograms)
        if histograms:
            self._append("histograms", {"step": step, **{tag: _plain(one) for tag, one in histograms.items()}})

    def write_text(self, tag: str, text: str, step: int) -> None:
        """Write `TAG.txt`."""
        self._write(f"{_name(tag)}.txt", f"{text.rstrip()}\n".encode())

    def write_image(self, tag: str, pixels: Any, step: int) -> None:
        """Write `TAG.png`."""
        from PIL import Image  # comes with matplotlib, which drew it

        held = io.BytesIO()
        Image.fromarray(pixels).save(held, format="PNG")
        self._write(f"{_name(tag)}.png", held.getvalue())

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """Write `graphs/NAME.svg`."""
        for tag, graph in graphs.items():
            self._write(name_of_svg(tag), graph.svg().encode())

    def write_hyperparameters(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Hand them to the logger, without one write `hyperparameters.json`."""
        if self._logger is not None:
            super().write_hyperparameters(values, metrics)
        else:
            text = json.dumps(_for_json(dict(values)), indent=2, default=str, allow_nan=False)
            self._write("hyperparameters.json", f"{text}\n".encode())

    def _write(self, name: str, content: bytes) -> None:
        """Write beside and rename: a kill leaves the earlier file whole."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            partial.write_bytes(content)

    def _append(self, name: str, row: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        mode = "w" if name in self._fresh else "a"
        with (self.folder / f"{name}.jsonl").open(mode, encoding="utf-8") as file:
            file.write(json.dumps(_for_json(row), allow_nan=False) + "\n")
        self._fresh.discard(name)


def histograms_text(histograms: Mapping[str, Histogram]) -> str:
    """Return histograms by tag as the text of a JSON file."""
    return json.dumps(_for_json({tag: _plain(one) for tag, one in histograms.items()}), allow_nan=False)


def name_of_svg(tag: str) -> str:
    """Return the name of a graph's file."""
    return f"graphs/{tag.replace('/', '_')}.svg"


def _name(tag: str) -> str:
    return _NAMES.get(tag, tag.replace("/", "_"))


def _plain(one: Histogram) -> dict[str, Any]:
    return {"low": one.low, "high": one.high, "counts": one.counts, "sum": one.total, "sum_squares": one.squares}


def _for_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _for_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value
