"""Shows a search: a TensorBoard run for each trial, pictures in the Images tab or beside the run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from callbacks import _tensorboard
from callbacks._search_results import TrialRow


def write_trial(
    folder: Path,
    name: str,
    number: int,
    *,
    values: Mapping[str, Any],
    verdict: str,
    curves: Mapping[str, Sequence[float | None]],
    result: tuple[str, float | None],
) -> None:
    """Write the run of a trial: its curves, and a line of the HParams tab with what it came to.

    Args:
        folder: The folder of all runs.
        name: The study's name, the folder of its trials.
        number: The trial.
        values: What it tried.
        verdict: What became of it.
        curves: One value an epoch by tag; None where there is none.
        result: Name and value of the metric; no value leaves the cell empty.
    """
    logger = TensorBoardLogger(folder, name=name, version=f"trial_{number:03d}", default_hp_metric=False)
    metric, value = result
    logger.log_hyperparams(dict(values))
    _tensorboard.write_hyperparameters(logger, {**values, "verdict": verdict}, [f"hp/{metric}"])
    for tag, curve in curves.items():
        for epoch, point in enumerate(curve):
            if point is not None:
                _tensorboard.write_scalars(logger, {tag: point}, epoch)
    if value is not None:
        _tensorboard.write_scalars(logger, {f"hp/{metric}": value}, 0)
    logger.finalize("success")


def write_found(folder: Path, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Write what was found as a fragment of a Lightning CLI's configuration, `found.yaml`: `fit --config found.yaml`.

    Args:
        folder: The run's folder.
        sections: `model`, `data` or `optimizer` to values by name.
    """
    fragment = {section: {"init_args": dict(values)} for section, values in sections.items() if values}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "found.yaml").write_text(yaml.safe_dump(fragment, sort_keys=False), encoding="utf-8")


def show_pictures(
    trainer: Trainer, folder: Path | None, rows: Sequence[TrialRow], names: Sequence[str], monitor: str, mode: str
) -> None:
    """Draw the search, for TensorBoard where it is there, else as PNG files into the run's folder."""
    from callbacks.fit_picture import png, rgb
    from callbacks.search_picture import draw_history, draw_search  # matplotlib takes half a second to load

    x, y = [*names, ""][:2]
    figures = {
        "loss": draw_search(rows, x=x, y=y, monitor=monitor, mode=mode),
        "history": draw_history(rows, monitor=monitor, mode=mode),
    }
    loggers = _tensorboard.tensorboard_loggers(trainer)
    for what, figure in figures.items():
        for logger in loggers:
            _tensorboard.write_image(logger, f"search/{what}", rgb(figure), 0)
        if not loggers and folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"search_{what}.png").write_bytes(png(figure))
