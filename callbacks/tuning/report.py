"""Shows a search where the fit is looked at: pictures, a list of the trials; a TensorBoard run for each of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from callbacks.loggers import dispatch
from callbacks.loggers.tensorboard import TensorBoardAdapter
from callbacks.search.results import TrialRow

CURVES = "curves"  # by tag, one value an epoch: what this process knows of a trial beside what the study keeps


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
    adapter = TensorBoardAdapter(logger)
    metric, value = result
    logger.log_hyperparams(dict(values))
    adapter.write_hyperparameters({**values, "verdict": verdict}, [f"hp/{metric}"])
    for tag, curve in curves.items():
        for epoch, point in enumerate(curve):
            if point is not None:
                adapter.write_scalars({tag: point}, epoch)
    if value is not None:
        adapter.write_scalars({f"hp/{metric}": value}, 0)
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


def show_pictures(trainer: Trainer, rows: Sequence[TrialRow], names: Sequence[str], monitor: str, mode: str) -> None:
    """Draw the search, and list its trials, a line of JSON for each."""
    dispatch.write_text(trainer, "search/trials", "\n".join(map(_line, rows)))
    from callbacks.loggers.figures import rgb
    from callbacks.search.figure import draw_history, draw_search  # matplotlib takes half a second to load

    x, y = [*names, ""][:2]
    figures = {
        "loss": draw_search(rows, x=x, y=y, monitor=monitor, mode=mode),
        "history": draw_history(rows, monitor=monitor, mode=mode),
    }
    for what, figure in figures.items():
        dispatch.write_image(trainer, f"search/{what}", rgb(figure), 0)


def _line(row: TrialRow) -> str:
    """A trial as a line of JSON, with its curves where this process trained it."""
    facts = {"number": row.number, "state": row.state, "params": dict(row.params), "values": row.values}
    more = {"seconds": row.seconds, "reason": row.reason or None, "curves": row.attrs.get(CURVES)}
    return json.dumps({**facts, **{name: fact for name, fact in more.items() if fact is not None}}, default=str)
