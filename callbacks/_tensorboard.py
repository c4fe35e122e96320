"""The one place that knows what stands behind a TensorBoard logger: its writer, and the protos of its plugins."""

from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams as hparams_summaries


def tensorboard_loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    """The TensorBoard loggers of a trainer; none on ranks that do not write."""
    if not trainer.is_global_zero:
        return []
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def write_charts(logger: TensorBoardLogger, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Lay out the Custom Scalars tab, once a run: category -> chart -> the tags drawn on it together."""
    layout = {
        category: {chart: ["Multiline", list(tags)] for chart, tags in in_category.items()}
        for category, in_category in charts.items()
    }
    logger.experiment.add_custom_scalars(layout)


def write_hyperparameters(logger: TensorBoardLogger, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Tell the HParams tab the run's settings and which scalar tags are its results.

    No value is written for the results: the tab shows the latest scalar of each tag, and an empty cell before.
    """
    plain = {name: value if isinstance(value, bool | Number | str) else str(value) for name, value in values.items()}
    for summary in hparams_summaries(plain, dict.fromkeys(metrics, 0)):  # type: ignore[no-untyped-call]
        logger.experiment.file_writer.add_summary(summary)


def write_scalars(logger: TensorBoardLogger, values: Mapping[str, float], step: int) -> None:
    """Write scalars by tag at a step."""
    for tag, value in values.items():
        logger.experiment.add_scalar(tag, value, step)


def write_text(logger: TensorBoardLogger, tag: str, text: str, step: int = 0) -> None:
    """Write a text, shown as it stands, to the Text tab."""
    indented = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown for: leave this as it is
    logger.experiment.add_text(tag, indented, step)


def write_image(logger: TensorBoardLogger, tag: str, pixels: Any, step: int) -> None:
    """Write a picture, an array `[height, width, 3]` of bytes, to the Images tab."""
    logger.experiment.add_image(tag, pixels, step, dataformats="HWC")
