"""What all four are given: two CSV files, and the numbers of the training."""

from pathlib import Path

import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split

HIDDEN, LR, MOMENTUM, BATCH, EPOCHS, SEED = (128, 128), 0.1, 0.9, 32, 60, 0


def write_table(folder: Path) -> tuple[Path, Path]:
    """Write the rows to train on and the rows to validate on, as they come; the last column is `target`."""
    table = load_breast_cancer(as_frame=True).frame
    parts = train_test_split(table, test_size=0.25, random_state=SEED, stratify=table["target"])
    paths = folder / "train.csv", folder / "val.csv"
    for part, path in zip(parts, paths, strict=True):
        part.to_csv(path, index=False)
    return paths


def scores(path: Path, probabilities: list[float]) -> tuple[float, float]:
    """Cross-entropy in nats and accuracy of the probabilities of class 1 for the rows of a file."""
    y = pd.read_csv(path)["target"]
    p = pd.Series(probabilities, dtype=float).clip(1e-7, 1 - 1e-7)
    return float(log_loss(y, p)), float(accuracy_score(y, p > 0.5))
