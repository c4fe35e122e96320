"""Trains one rival and writes its predictions, as a process of its own.

    python -m benchmarks.quality.rivals realmlp train.csv test.csv species classes 0 predictions.csv

Each has its own defaults. scikit-learn's MLP is that of `benchmarks/tables.py`; skorch is the network, the pipeline and
the numbers of its README (a regression: of its basic tutorial). Where a learner takes no missing numbers, they are the
median, with a column that says so; where it takes no words, they are one-hot.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, OrdinalEncoder, StandardScaler

from benchmarks.tables import numbers_and_words, preparation

MOST_CATEGORIES = 250  # HistGradientBoosting takes 255 bins a column
Answers = tuple[Any, Callable[[pd.DataFrame], Any]]  # names of classes (None for amounts); from rows to what is said


def _answers(model: Any, classes: bool) -> Answers:
    return (model.classes_, model.predict_proba) if classes else (None, model.predict)


def sklearn_mlp(x: pd.DataFrame, y: pd.Series, classes: bool, seed: int) -> Answers:
    """scikit-learn's MLP with early stopping on a tenth."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    epochs = 200 if len(x) < 100_000 else 30  # scikit-learn's own limit; on large tables as in benchmarks/tables.py
    kind = MLPClassifier if classes else MLPRegressor
    mlp = kind(max_iter=epochs, hidden_layer_sizes=(128, 128), early_stopping=True, random_state=seed)
    last = mlp if classes else TransformedTargetRegressor(mlp, transformer=StandardScaler())
    return _answers(make_pipeline(preparation(x), last).fit(x, y), classes)


def hist_gradient_boosting(x: pd.DataFrame, y: pd.Series, classes: bool, seed: int) -> Answers:
    """scikit-learn's gradient boosting of trees, which takes missing numbers and categories as they are."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    numbers, words = numbers_and_words(x)
    codes = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan,
        max_categories=MOST_CATEGORIES,
    )  # fmt: skip
    prepared = ColumnTransformer([("c", codes, words), ("n", "passthrough", numbers)])
    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    trees = kind(categorical_features=list(range(len(words))), random_state=seed)
    return _answers(make_pipeline(prepared, trees).fit(x, y), classes)


class Filled:
    """Fills gaps: numbers by their median, with a column that says so; a gap among words is a word."""

    def __init__(self, x: pd.DataFrame) -> None:
        numbers, self.words = numbers_and_words(x)
        fill = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
        self._numbers = ColumnTransformer([("n", fill, numbers)], verbose_feature_names_out=False)
        self._numbers.set_output(transform="pandas").fit(x)

    def __call__(self, x: pd.DataFrame) -> pd.DataFrame:
        words = x[self.words].astype(object).where(x[self.words].notna(), "missing").astype(str)
        return pd.concat([self._numbers.transform(x).astype(float), words], axis=1)


def _pytabkit(name: str) -> Callable[[pd.DataFrame, pd.Series, bool, int], Answers]:
    def fit(x: pd.DataFrame, y: pd.Series, classes: bool, seed: int) -> Answers:
        import pytabkit

        filled = Filled(x)
        kind = getattr(pytabkit, f"{name}_{'Classifier' if classes else 'Regressor'}")
        model = kind(device="cpu", random_state=seed, n_threads=1)
        model.fit(filled(x), y.to_numpy(), cat_col_names=filled.words or None)
        names, say = _answers(model, classes)
        return names, lambda unseen: say(filled(unseen))

    return fit


def skorch(x: pd.DataFrame, y: pd.Series, classes: bool, seed: int) -> Answers:
    """The network of skorch's README behind a scaler, or the regression of its tutorial."""
    import torch
    from skorch import NeuralNetClassifier, NeuralNetRegressor
    from torch import nn

    torch.manual_seed(seed)
    prepared = preparation(x)

    def matrix(rows: pd.DataFrame, fitted: bool = True) -> np.ndarray:
        made = prepared.transform(rows) if fitted else prepared.fit_transform(rows)
        return np.asarray(made.todense() if hasattr(made, "todense") else made, dtype="f4")

    given = matrix(x, fitted=False)
    if classes:
        labels = LabelEncoder().fit(y)
        network = nn.Sequential(
            nn.Linear(given.shape[1], 100), nn.ReLU(), nn.Dropout(0.5), nn.Linear(100, 100), nn.ReLU(),
            nn.Linear(100, len(labels.classes_)), nn.Softmax(dim=-1),
        )  # fmt: skip
        net = NeuralNetClassifier(network, max_epochs=10, lr=0.1, iterator_train__shuffle=True, verbose=0)
        net.fit(given, labels.transform(y))
        return labels.classes_, lambda unseen: net.predict_proba(matrix(unseen))
    network = nn.Sequential(nn.Linear(given.shape[1], 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 1))
    centre, scale = y.mean(), y.std()
    net = NeuralNetRegressor(network, max_epochs=20, lr=0.1, verbose=0)
    net.fit(given, ((y - centre) / scale).to_numpy("f4")[:, None])
    return None, lambda unseen: net.predict(matrix(unseen)) * scale + centre


RIVALS = {
    "sklearn_mlp": sklearn_mlp,
    "hist_gradient_boosting": hist_gradient_boosting,
    "realmlp": _pytabkit("RealMLP_TD_S"),
    "tabm": _pytabkit("TabM_D"),
    "skorch": skorch,
}


def main() -> None:
    name, train, test, target, task, seed, out = sys.argv[1:]
    classes = task == "classes"
    as_words = {target: str} if classes else {}
    frame, unseen = (pd.read_csv(path, dtype=as_words) for path in (train, test))
    names, say = RIVALS[name](frame.drop(columns=target), frame[target], classes, int(seed))
    answers = np.asarray(say(unseen.drop(columns=target)))
    if classes:
        said = pd.DataFrame(answers, columns=[f"probability_{c}" for c in names])
        said.insert(0, "prediction", np.asarray(names)[answers.argmax(axis=1)])
    else:
        said = pd.DataFrame({"prediction": answers.ravel()})
    said.to_csv(out, index=False)


if __name__ == "__main__":
    main()
