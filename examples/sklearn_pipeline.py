"""Our MLP as the last step of a scikit-learn pipeline, its learning rate chosen by GridSearchCV, each fit diagnosed.

python examples/sklearn_pipeline.py
"""

import logging
from typing import Self

import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

from callbacks import FitMonitor, GradientMonitor
from lightning_mods import MLPClassifier

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # a line for each of seven trainers


class MLPEstimator(ClassifierMixin, BaseEstimator):
    """What scikit-learn asks of a classifier: parameters, `fit`, `predict_proba`, `predict`."""

    def __init__(self, hidden_sizes: tuple[int, ...] = (32,), lr: float = 0.01, epochs: int = 20) -> None:
        self.hidden_sizes = hidden_sizes
        self.lr = lr
        self.epochs = epochs

    def fit(self, x: np.ndarray, y: np.ndarray) -> Self:
        """Train on 85 % of the rows; `FitMonitor` watches the rest."""
        pl.seed_everything(0, verbose=False)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        rows = torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(numbers)
        train, val = train_test_split(range(len(y)), test_size=0.15, random_state=0, stratify=y)
        loaders = [
            DataLoader(TensorDataset(*(each[part] for each in rows)), batch_size=32, shuffle=part is train)
            for part in (train, val)
        ]
        counts = np.bincount(numbers[train]).tolist()
        self.model_ = MLPClassifier(x.shape[1], len(counts), counts, hidden_sizes=self.hidden_sizes, lr=self.lr)
        self.monitor_ = FitMonitor(closing=False)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        watchers = [self.monitor_, GradientMonitor(closing=False)]
        pl.Trainer(max_epochs=self.epochs, callbacks=watchers, enable_model_summary=False, **quiet).fit(
            self.model_, *loaders
        )
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """Class probabilities `[B, C]`."""
        with torch.inference_mode():
            logits = self.model_.eval()(torch.as_tensor(x, dtype=torch.float32))
        return self.model_.predictions(logits).numpy()

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The likeliest class of each row."""
        return self.classes_[self.predict_proba(x).argmax(1)]


def main() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    pipeline = make_pipeline(StandardScaler(), MLPEstimator())
    search = GridSearchCV(pipeline, {"mlpestimator__lr": [1e-4, 1e-2]}, cv=3)
    search.fit(train_x, train_y)
    print("best", search.best_params_, "accuracy on rows it has not seen", round(search.score(test_x, test_y), 4))
    print(search.best_estimator_[-1].monitor_.last_word)


if __name__ == "__main__":
    main()
