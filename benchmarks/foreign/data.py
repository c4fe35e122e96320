"""Small data, made here, and the arguments that all Trainers get."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def trainer_arguments(pl: Any, callbacks: list[Any], folder: Path, epochs: int = 3) -> dict[str, Any]:
    """Return what the Trainer of any package is given: three epochs on the CPU, and TensorBoard."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    logger = pl.loggers.TensorBoardLogger(str(folder))
    where = {"accelerator": "cpu", "devices": 1, "default_root_dir": str(folder), "logger": logger}
    return {"max_epochs": epochs, "callbacks": callbacks, **quiet, **where}


def series(count: int = 4, length: int = 160) -> pd.DataFrame:
    """Return daily series with a weekly season, a trend and noise, one below the other: unique_id, ds, y, time."""
    draw, time = np.random.default_rng(0), np.arange(length)
    parts = []
    for index in range(count):
        wave = np.sin(2 * np.pi * time / 7 + index) + 0.01 * time + 0.2 * draw.standard_normal(length)
        days = pd.date_range("2024-01-01", periods=length)
        parts.append(pd.DataFrame({"unique_id": f"s{index}", "ds": days, "y": wave + 3, "time": time}))
    return pd.concat(parts, ignore_index=True).astype({"y": "float32"})


def table(classes: int = 0, rows: int = 480) -> pd.DataFrame:
    """Return five standardised numbers, a category and `target`: a number, or one of `classes` classes."""
    draw = np.random.default_rng(0)
    features = draw.standard_normal((rows, 5))
    category = draw.integers(0, 4, rows)
    target = features[:, 0] + features[:, 1] * features[:, 2] + 0.5 * category + 0.3 * draw.standard_normal(rows)
    made = pd.DataFrame(features.astype("float32"), columns=[f"x{index}" for index in range(5)])
    made["kind"] = np.array(list("abcd"))[category]
    made["target"] = pd.qcut(target, classes, labels=False) if classes else target.astype("float32")
    return made
