"""Our MLPs as scikit-learn estimators: `MLPClassifierEstimator` and `MLPRegressorEstimator`."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets

from datamodules import TabularDataModule
from datamodules.columns.cells import label_of
from lightning_mods.fit.table_estimator import OWN, TableEstimator
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.mlp import Activation
from lightning_mods.models.module import MLPModule
from lightning_mods.models.regressor import MLPRegressor


class MLPClassifierEstimator(ClassifierMixin, TableEstimator):  # type: ignore[misc]  # scikit-learn has no hints
    """An MLP that predicts classes, as scikit-learn's classifiers do, on data frames as they are.

    Columns are encoded as `TabularDataModule` does: names and categories, gaps and dates need no preparation. Training
    is that of `python -m lightning_mods.fit` with its default recipe; with an int as `random_state` its numbers, too.
    What is None is by the recipe, which goes by the number of rows.

    Args:
        hidden_sizes: Widths of the hidden layers, first to last; empty for a linear model.
        activation: relu, leaky_relu, elu, gelu, silu, tanh, sigmoid or identity.
        dropout: Probability that a hidden unit is zeroed in training, in [0, 1).
        lr: Learning rate of SGD at the beginning, above 0; it falls to zero over the fit.
        weight_decay: L2 penalty, at least 0.
        max_epochs: Passes over the training rows.
        batch_size: Rows a training step; "auto", or "full" for all at once.
        bins: Quantile bins to encode each number in as well; 0 for none.
        ensemble: Models to train together from different first weights, whose predictions are averaged.
        categorical: Columns to take as categories whatever they look like; those of an array are called X_0, X_1, ….
        validation_fraction: Share of the rows to choose the best epoch by, and for the verdict; 0 for none.
        random_state: Fixes the split, the weights and the order of rows.
        accelerator: As for a Trainer: "auto", "cpu", "gpu", ….
        default_root_dir: Folder for TensorBoard's files, diagnosis.json and a checkpoint; by default nothing is
            written.
        class_weight: "balanced" (every class counts the same in all), a weight for each class, or none.

    Attributes:
        classes_: The classes, sorted.
        diagnosis_: The verdict on the fit, a `callbacks.diagnosis.Diagnosis`.
        model_: The fitted `MLPClassifier`, or `MLPEnsemble`.
        datamodule_: The `TabularDataModule`: `print(estimator.datamodule_.description)`.
        trainer_: The Trainer; not of an estimator that was loaded, or copied.
        n_features_in_: Columns of the X that was fitted.
        feature_names_in_: Their names, if it had any.
    """

    _task = "classification"
    classes_: NDArray[Any]

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (128, 128),
        *,
        activation: Activation = "relu",
        dropout: float = 0.0,
        lr: float | None = None,
        weight_decay: float | None = None,
        max_epochs: int | None = None,
        batch_size: int | Literal["auto", "full"] | None = None,
        bins: int | None = None,
        ensemble: int = 1,
        categorical: Sequence[str] | None = None,
        validation_fraction: float = 0.15,
        random_state: Any = None,
        accelerator: str = "auto",
        default_root_dir: str | PathLike[str] | None = None,
        class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
    ) -> None:
        super().__init__(
            hidden_sizes,
            activation=activation,
            dropout=dropout,
            lr=lr,
            weight_decay=weight_decay,
            max_epochs=max_epochs,
            batch_size=batch_size,
            bins=bins,
            ensemble=ensemble,
            categorical=categorical,
            validation_fraction=validation_fraction,
            random_state=random_state,
            accelerator=accelerator,
            default_root_dir=default_root_dir,
        )
        self.class_weight = class_weight

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each of `classes_`, shape (rows, classes)."""
        found = self._outputs(X)[:, self._order]
        shares: NDArray[np.float64] = found / found.sum(axis=1, keepdims=True)
        return shares

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of each row, shape (rows,)."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        found: NDArray[Any] = self.classes_[likeliest]
        return found

    def _target_column(self, y: NDArray[Any]) -> Any:
        import pyarrow as pa

        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs two classes; y has one class, {self.classes_[0]!r}.")
        return pa.DictionaryArray.from_arrays(numbers.astype(np.int32), self._labels)

    @property
    def _labels(self) -> list[str]:
        # The classes as a table names them; numbers for those that it would not tell apart.
        found = [label_of(each) or "" for each in self.classes_.tolist()]
        return found if all(found) and len({*found}) == len(found) else [str(i) for i in range(len(found))]

    @property
    def _order(self) -> list[int]:
        names = self.datamodule_.class_names or []
        return [names.index(label) for label in self._labels]

    def _model(self, data: TabularDataModule, settings: Mapping[str, Any]) -> MLPModule:
        weights: Any = self.class_weight
        if isinstance(weights, Mapping):
            by_name = dict(zip(self._labels, self.classes_.tolist(), strict=True))
            weights = [float(weights.get(by_name[name], 1.0)) for name in data.class_names or ()]
        return MLPClassifier(
            data.in_features, data.num_classes or 0, data.class_counts, class_weight=weights, **settings
        )

    def _checkpoint(self) -> dict[str, Any]:
        found = super()._checkpoint()
        found[OWN]["classes"] = self.classes_.tolist()
        found[OWN]["classes_dtype"] = self.classes_.dtype.str
        return found

    def _restore(self, checkpoint: Mapping[str, Any]) -> None:
        super()._restore(checkpoint)
        kept = checkpoint[OWN]
        self.classes_ = np.array(kept["classes"], dtype=np.dtype(kept["classes_dtype"]))


class MLPRegressorEstimator(RegressorMixin, TableEstimator):  # type: ignore[misc]  # as above
    """An MLP that predicts a number, as scikit-learn's regressors do, on data frames as they are.

    Parameters and attributes are those of `MLPClassifierEstimator`, but for `class_weight` and `classes_`; `model_` is
    an `MLPRegressor` or an `MLPEnsemble`.
    """

    _task = "regression"

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return a number for each row, in the units of the target, shape (rows,)."""
        return self._outputs(X)

    def _model(self, data: TabularDataModule, settings: Mapping[str, Any]) -> MLPModule:
        return MLPRegressor(data.in_features, data.target_mean or 0.0, data.target_std or 1.0, **settings)
