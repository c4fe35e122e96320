"""What our scikit-learn estimators have in common: the fit of the verb `fit` on a table in memory, without a word."""

import io
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, check_X_y, validate_data

from callbacks import FitMonitor
from callbacks.diagnosis.verdict import Diagnosis
from callbacks.host.files import replacing
from callbacks.host.lightning import Trainer
from callbacks.host.packages import Callback, LightningModule, isolated_random_numbers
from callbacks.tuning.ensembles import checkpoint_of
from datamodules import TabularDataModule
from datamodules.readers.frames import in_memory
from lightning_mods.loggers.tensorboard import EventLogger
from lightning_mods.loggers.terminal import quietly
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.ensemble import MLPEnsemble
from lightning_mods.models.fused.limits import NoProfiler
from lightning_mods.models.mlp import Activation
from lightning_mods.models.module import MLPModule
from lightning_mods.models.regressor import MLPRegressor
from lightning_mods.runs import RunError
from lightning_mods.runs.checkpoints import ENSEMBLE_LOSS, read_checkpoint

_KINDS: dict[str, type[MLPModule]] = {k.__name__: k for k in (MLPClassifier, MLPRegressor, MLPEnsemble)}
OWN = "estimator"  # the key of a checkpoint under which an estimator keeps what no model and no data module does


class BestWeights(Callback):
    """Keeps the weights of the lowest validation loss in memory; `FitMonitor` reads of it as of a ModelCheckpoint.

    Attributes:
        weights: The state of the module; none before the first validation.
        best_model_score: The loss of these weights.
    """

    monitor, mode, save_top_k = "val_loss", "min", 1

    def __init__(self) -> None:
        self.best_model_path = ""  # whether there is anything to keep, in words
        self.best_model_score: float | None = None
        self.weights: dict[str, Any] | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights as they were validated, if none were better; NaN never is."""
        found = trainer.callback_metrics
        loss = float(found[ENSEMBLE_LOSS if ENSEMBLE_LOSS in found else "val_loss"])
        if not trainer.sanity_checking and (self.best_model_score is None or loss < self.best_model_score):
            self.best_model_path, self.best_model_score = "the fitted weights", loss if loss == loss else None
            self.weights = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}


class TableEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no hints
    """What the estimators have in common: parameters, the fit, and the rows they predict."""

    _task: ClassVar[Literal["classification", "regression"]]
    model_: MLPModule
    datamodule_: TabularDataModule
    trainer_: Trainer
    diagnosis_: Diagnosis | None
    n_features_in_: int

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
    ) -> None:
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.dropout = dropout
        self.lr = lr
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.bins = bins
        self.ensemble = ensemble
        self.categorical = categorical
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.accelerator = accelerator
        self.default_root_dir = default_root_dir

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn may give: gaps too."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    # ------------------------------------------------------------------ fit

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Train on the rows of X but for a share to validate on; the weights of the best epoch are kept.

        Args:
            X: A data frame, whose columns may be numbers, names, categories and dates, with gaps; or an array.
            y: The target of each row, without gaps.
            sample_weight: How much each row counts in the loss, at least 0; 0 leaves it out.

        Raises:
            ValueError: What was given cannot be learned from.
        """
        is_frame = hasattr(X, "columns")
        is_number = self._task == "regression"
        name = str(getattr(y, "name", None) or "target")
        if is_frame:
            validate_data(self, X, y, skip_check_array=True)
            _, y = check_X_y(np.zeros((len(X), 1)), y, y_numeric=is_number, estimator=self)
        else:
            how = {"dtype": _dtype(X), "ensure_all_finite": "allow-nan", "ensure_min_samples": 2}
            X, y = validate_data(self, X, y, y_numeric=is_number, **how)
        table, kept = in_memory(X)[0], _checked_weight(sample_weight, y)
        if kept is not None:  # what counts nothing is not there
            table, y, kept = table.filter(kept > 0), y[kept > 0], kept[kept > 0]
        name = _free(name, table)
        table = table.append_column(name, self._target_column(y))
        weight = None
        if kept is not None and kept.min() < kept.max():
            import pyarrow as pa

            weight = _free("sample_weight", table)
            table = table.append_column(weight, pa.array(kept))
        seed = self._seed()
        data = TabularDataModule(
            data=table,
            target=name,
            task=self._task,
            val_fraction=self.validation_fraction,
            test_fraction=0.0,
            weight=weight,
            categorical=None if self.categorical is None else list(self.categorical),
            seed=seed,
        )
        with isolated_random_numbers(), quietly():
            torch.manual_seed(seed)
            self._train(data)
        return self

    def _target_column(self, y: NDArray[Any]) -> Any:
        # The target as a column of a table, of type Arrow array.
        import pyarrow as pa

        return pa.array(y.astype(np.float64))

    def _seed(self) -> int:
        state = self.random_state
        whole = isinstance(state, int | np.integer)
        return int(state) if whole else int(check_random_state(state).randint(2**31 - 1))

    def _train(self, data: TabularDataModule) -> None:
        from lightning_mods.cli.recipe import BINS, TableFacts, batch_size, model_settings, trainer_settings
        from lightning_mods.cli.verbs import limit_threads

        facts = TableFacts(data.n_train, data.task)
        rows = batch_size(facts.rows) if self.batch_size is None else self.batch_size
        data = data.like(bins=BINS if self.bins is None else self.bins, batch_size=rows)
        own = {"lr": self.lr, "weight_decay": self.weight_decay}
        settings = model_settings(facts) | {key: value for key, value in own.items() if value is not None}
        model = self._model(data, {**settings, **self._model_settings()})
        model = MLPEnsemble.of(model, self.ensemble) if self.ensemble != 1 else model
        settings = trainer_settings("default", facts)
        settings |= {} if self.max_epochs is None else {"max_epochs": self.max_epochs}
        root = self.default_root_dir
        best, monitor = BestWeights(), FitMonitor(closing=False, silent=True)
        trainer = Trainer(
            **settings,
            callbacks=[best, monitor],
            logger=False if root is None else EventLogger(root, default_hp_metric=False),
            accelerator=self.accelerator,
            devices=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            profiler=NoProfiler(),
            default_root_dir=None if root is None else str(root),
        )
        threads = torch.get_num_threads()
        try:
            limit_threads(trainer, model, data)
            trainer.fit(model, datamodule=data)
        except SystemExit:  # what Lightning makes of Ctrl-C, which would end a notebook's kernel
            if not trainer.interrupted:
                raise
            raise KeyboardInterrupt from None
        finally:
            torch.set_num_threads(threads)
        if best.weights is not None:
            model.load_state_dict(best.weights)
        self.model_, self.datamodule_, self.trainer_, self.diagnosis_ = (
            model.cpu().eval(),
            data,
            trainer,
            monitor.diagnosis,
        )
        if root is not None:
            self.save(Path(trainer.loggers[0].log_dir or root) / "checkpoints" / "best.ckpt")

    def _model_settings(self) -> dict[str, Any]:
        names = ("activation", "dropout")
        return {"hidden_sizes": list(self.hidden_sizes)} | {name: getattr(self, name) for name in names}

    def _model(self, data: TabularDataModule, settings: Mapping[str, Any]) -> MLPModule:
        raise NotImplementedError

    # ------------------------------------------------------------------ predict

    def _outputs(self, X: Any) -> NDArray[np.float64]:
        # What the model predicts: probabilities (rows, classes) or numbers (rows,).
        check_is_fitted(self)
        if hasattr(X, "columns"):
            validate_data(self, X, reset=False, skip_check_array=True)
        else:
            X = validate_data(self, X, reset=False, dtype=_dtype(X), ensure_all_finite="allow-nan")
        batches = self.datamodule_.predict_dataloader(X)
        with torch.inference_mode():
            return torch.cat([self.model_(x) for x in batches]).double().numpy()

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether there is a model."""
        return hasattr(self, "model_")

    # ------------------------------------------------------------------ state

    def save(self, path: str | PathLike[str]) -> None:
        """Write a Lightning checkpoint, which loads weights-only: for `load`, and for the verbs' `--ckpt_path`.

        It holds the model, how columns are encoded, and the parameters; no data, and nothing of the trainer.
        """
        check_is_fitted(self)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            torch.save(self._checkpoint(), partial)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Return the estimator that `save` wrote, without `trainer_` and `diagnosis_`; nothing is unpickled.

        Raises:
            RunError: The file is none of this class's.
        """
        checkpoint = read_checkpoint(Path(path))
        kept = checkpoint.get(OWN)
        if not isinstance(kept, Mapping) or kept.get("class") != cls.__name__:
            found = kept.get("class") if isinstance(kept, Mapping) else "no estimator"
            raise RunError(f"{path} holds {found}; needed is a file that {cls.__name__}.save wrote.")
        estimator = cls(**kept["parameters"])
        estimator._restore(checkpoint)
        return estimator

    def _checkpoint(self) -> dict[str, Any]:
        names = getattr(self, "feature_names_in_", None)
        found = checkpoint_of(self.model_, self.datamodule_)
        found["lightning_mods"] = {
            "model": type(self.model_).__name__,
            "data": TabularDataModule.__name__,
            "recipe": "default",
            "settings": {"seed_everything": str(self.datamodule_.seed)},
            "time": time.time(),
        }
        found[OWN] = {
            "class": type(self).__name__,
            "parameters": {k: _plain(v) for k, v in self.get_params(deep=False).items()},
            "n_features_in": int(self.n_features_in_),
            "feature_names_in": None if names is None else [str(name) for name in names],
        }
        return found

    def _restore(self, checkpoint: Mapping[str, Any]) -> None:
        kept = checkpoint[OWN]
        self.model_ = _KINDS[checkpoint["lightning_mods"]["model"]](**checkpoint["hyper_parameters"])
        self.model_.load_state_dict(checkpoint["state_dict"])
        self.model_.eval()
        self.datamodule_ = TabularDataModule(**checkpoint["datamodule_hyper_parameters"])
        self.datamodule_.load_state_dict(checkpoint[TabularDataModule.__name__])
        self.n_features_in_ = kept["n_features_in"]
        if kept["feature_names_in"] is not None:
            self.feature_names_in_ = np.array(kept["feature_names_in"], dtype=object)

    def __getstate__(self) -> dict[str, Any]:
        """Return the parameters and a checkpoint: no data, and no trainer, whose loops and loaders nobody needs."""
        state: dict[str, Any] = super().__getstate__()
        if not self.__sklearn_is_fitted__():
            return state
        stream = io.BytesIO()
        torch.save(self._checkpoint(), stream)
        left = ("model_", "datamodule_", "trainer_")
        return {k: v for k, v in state.items() if k not in left} | {"checkpoint": stream.getvalue()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from the checkpoint in a state, if the estimator was fitted."""
        checkpoint = state.pop("checkpoint", None)
        super().__setstate__(state)
        if checkpoint is not None:
            self._restore(torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True))


def _dtype(array: Any) -> str | None:
    # Numbers, of which scikit-learn says what is none; but names and numbers of an array stay what they are.
    found = np.asarray(array) if isinstance(array, np.ndarray | list) else None
    if found is None or found.dtype.kind not in "OU":
        return "numeric"
    return None if any(isinstance(cell, str) for cell in found.ravel()) else "numeric"


def _checked_weight(weight: ArrayLike | None, y: NDArray[Any]) -> NDArray[np.float64] | None:
    if weight is None:
        return None
    found: NDArray[np.float64] = check_array(weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if found.ndim != 1:
        raise ValueError(f"sample_weight needs one number a row; its shape is {found.shape}.")
    check_consistent_length(found, y)
    if found.min() < 0 or not found.any():
        raise ValueError(
            f"sample_weight needs numbers of at least 0, not all of them zero; the least is {found.min()}."
        )
    return found


def _free(name: str, table: Any) -> str:
    # A name that no column has.
    while name in table.column_names:
        name += "_"
    return name


def _plain(value: Any) -> Any:
    """Return a parameter as what a checkpoint may hold; None for what none may, such as a generator."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(each) for each in value]
    if isinstance(value, PathLike):
        return str(value)
    return value if isinstance(value, str | int | float | None) else None
