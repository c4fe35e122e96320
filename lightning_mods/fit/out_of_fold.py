"""The fits of all folds together: predictions out of fold, their scores, and the ensemble of the models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from callbacks.host.files import replacing
from callbacks.tuning.ensembles import checkpoint_of
from datamodules import TabularDataModule
from datamodules.columns.encoding import Encoding
from datamodules.learned import Learned
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.ensemble import MLPEnsemble
from lightning_mods.models.metrics import loss_error
from lightning_mods.models.module import MLPModule
from lightning_mods.models.regressor import MLPRegressor
from lightning_mods.runs import RunError
from lightning_mods.runs.checkpoints import AtomicCheckpointIO, read_checkpoint
from lightning_mods.runs.inspection.intervals import Intervals
from lightning_mods.runs.predictions import prediction_columns, write_columns

_KINDS: dict[str, type[MLPModule]] = {kind.__name__: kind for kind in (MLPClassifier, MLPRegressor, MLPEnsemble)}


@dataclass(frozen=True)
class FoldPredictions:
    """Predictions of some models for rows that none of them was trained on: of one fold's, or of all."""

    rows: NDArray[np.int64]  # numbers in the table, from 0
    y: NDArray[Any]
    predictions: NDArray[Any]  # probabilities, shape (rows, classes), or numbers, shape (rows,)
    test_y: NDArray[Any]  # of the test rows, of which there may be none
    test_predictions: NDArray[Any]
    weight: NDArray[Any]  # how much each row counts, as the table has it; shape (0,) where all count alike
    test_weight: NDArray[Any]  # likewise of the test rows

    def write(self, path: Path) -> None:
        """Write them as one file."""
        with replacing(path, ".npz") as partial:
            np.savez(partial, **vars(self))

    @classmethod
    def read(cls, path: Path) -> "FoldPredictions":
        """Return what `write` wrote; a RunError says that the file is damaged."""
        try:
            with np.load(path) as found:
                return cls(**{name: found[name] for name in found.files})
        except (ValueError, TypeError, EOFError, BadZipFile) as error:
            again = "remove the folder that it is in, and the same command trains its fold again"
            raise RunError(f"{path} is damaged; {again}.") from error

    @classmethod
    def together(cls, parts: Sequence["FoldPredictions"]) -> "FoldPredictions":
        """Return those of all folds, in the order of the rows; for the test rows the mean over the models."""
        rows, y, predictions, weight = (
            np.concatenate([getattr(p, name) for p in parts]) for name in ("rows", "y", "predictions", "weight")
        )
        order, first = np.argsort(rows), parts[0]
        mean = np.mean([part.test_predictions for part in parts], axis=0)
        weight = weight[order] if len(weight) else weight
        return cls(rows[order], y[order], predictions[order], first.test_y, mean, weight, first.test_weight)


@dataclass(frozen=True)
class Scores:
    """Loss and metrics by name, and their standard errors over the rows."""

    rows: int
    values: Mapping[str, float]
    errors: Mapping[str, float]

    @classmethod
    def of(cls, model: MLPModule, predictions: NDArray[Any], y: NDArray[Any], weight: NDArray[Any]) -> "Scores":
        """Score predictions by the metrics of a model; the loss of rows that have a `weight` is weighted by it."""
        found, targets = torch.from_numpy(predictions), torch.from_numpy(y)
        own = torch.from_numpy(weight / weight.mean()).float() if len(weight) else None
        losses = model.row_losses(model.outputs_of(found), targets)
        errors = dict(model.metric_errors(found, targets))
        if losses is not None:
            errors["loss"] = loss_error(model.logged_loss(losses), model.all_weights(targets, own))
        return cls(len(y), model.scores_of(found, targets, own), errors)


def write_out_of_fold(path: Path, parts: Sequence[FoldPredictions], class_names: Sequence[str] | None) -> None:
    """Write a CSV: each row's number in its file (the row after the header is 1), fold, target and prediction."""
    fold = np.concatenate([np.full(len(part.rows), number) for number, part in enumerate(parts, 1)])
    fold = fold[np.argsort(np.concatenate([part.rows for part in parts]))]
    every = FoldPredictions.together(parts)
    told = {
        "row": [str(row + 1) for row in every.rows],
        "fold": [*map(str, fold)],
        "target": [str(each) if class_names is None else class_names[each] for each in every.y],
    }
    write_columns(path, {**told, **prediction_columns(every.predictions, class_names)})


def write_ensemble(
    path: Path, checkpoints: Sequence[Path], parts: Sequence[FoldPredictions]
) -> tuple[MLPEnsemble, list[str] | None]:
    """Write the checkpoint of an ensemble of the models of all folds; return it, and the names of the classes.

    Each model keeps the encoding that it was trained with: they stand one beside the other, and each member gets the
    features of its own. What a regression's target was standardised with goes into the last layers.
    """
    kept = [read_checkpoint(each) for each in checkpoints]
    learned = [Learned.from_plain(each[TabularDataModule.__qualname__]) for each in kept]
    _check_same_table(learned, parts)
    every = FoldPredictions.together(parts)
    y, weight = every.y.astype(np.float64), every.weight if len(every.weight) else np.ones(len(every.y))
    is_class, n_classes = learned[0].class_names is not None, len(learned[0].class_names or ())
    mean = float(np.average(y, weights=weight))
    masses = np.bincount(every.y, weight / weight.mean(), n_classes) if is_class and learned[0].weight else None
    whole = replace(
        learned[0],
        fold=0,
        encoding=_side_by_side([each.encoding for each in learned]),
        sizes={"train": len(y), "val": 0, "test": learned[0].sizes["test"]},
        class_counts=tuple(np.bincount(every.y, minlength=n_classes).tolist()) if is_class else None,
        class_masses=None if masses is None else tuple(masses.tolist()),
        weight_mean=float(weight.mean()),
        target_mean=None if is_class else mean,
        target_std=None if is_class else float(np.sqrt(np.average((y - mean) ** 2, weights=weight))),
        wide_target=any(each.wide_target for each in learned),
    )
    models = [model for each in kept for model in _members(each)]
    counts = whole.class_masses or whole.class_counts
    shared = {"class_counts": list(counts)} if counts else _units(whole)
    ensemble = MLPEnsemble.of_models(
        [_like(model, shared) for model in models], [1 / len(models)] * len(models), sharing=len(models) // len(kept)
    ).eval()
    if not is_class:
        ensemble.uncertainty = {"intervals": Intervals.of(every.predictions.astype(np.float64) - y).plain}
    data = TabularDataModule(**{**kept[0]["datamodule_hyper_parameters"], "fold": 0})
    data.load_state_dict(whole.to_plain())
    checkpoint = checkpoint_of(ensemble, data)
    names = kept[0].get("lightning_mods", {})
    checkpoint["lightning_mods"] |= {name: names[name] for name in ("recipe", "settings") if name in names}
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    return ensemble, data.class_names


def _check_same_table(learned: Sequence[Learned], parts: Sequence[FoldPredictions]) -> None:
    """Raise a RunError if the table has changed while the folds were trained."""
    known = {(each.n_rows, each.target, each.class_names) for each in learned}
    rows = np.concatenate([part.rows for part in parts])
    whole = len(np.unique(rows)) == len(rows) == learned[0].sizes["train"] + learned[0].sizes["val"]
    if len(known) > 1 or not whole or not all(np.array_equal(part.test_y, parts[0].test_y) for part in parts):
        raise RunError("the table has changed since the first fold was trained; leave --ckpt_path out to begin anew.")


def _side_by_side(encodings: Sequence[Encoding]) -> Encoding:
    columns = tuple(chain.from_iterable(each.columns for each in encodings))
    used = {column.name for column in columns}
    dropped = {name: why for name, why in encodings[0].dropped.items() if name not in used}
    return Encoding(columns, dropped, encodings[0].notes)


def _members(checkpoint: Mapping[str, Any]) -> list[MLPModule]:
    model = _KINDS[checkpoint["lightning_mods"]["model"]](**checkpoint["hyper_parameters"])
    model.load_state_dict(checkpoint["state_dict"])
    return model.members if isinstance(model, MLPEnsemble) else [model]


def _units(learned: Learned) -> dict[str, Any]:
    return {"target_mean": learned.target_mean, "target_std": learned.target_std}


@torch.no_grad()
def _like(model: MLPModule, shared: Mapping[str, Any]) -> MLPModule:
    """Return a model that predicts the same with other hyperparameters: of the classes, or of the target's units."""
    twin = type(model)(**{**model.hparams, **shared})
    twin.load_state_dict(model.state_dict())
    if isinstance(model, MLPRegressor) and isinstance(twin, MLPRegressor):
        last: Any = [layer for layer in twin.network.layers if isinstance(layer, nn.Linear)][-1]
        factor = model.target_std / twin.target_std
        last.weight.copy_(last.weight.double() * factor)
        last.bias.copy_(last.bias.double() * factor + (model.target_mean - twin.target_mean) / twin.target_std)
    return twin
