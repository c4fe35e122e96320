"""An ensemble of the trials of a search: their weights are kept while they train, and it is picked from at the end."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, runtime_checkable

import torch

from callbacks.host.files import replacing
from callbacks.host.packages import LightningDataModule, LightningModule, isolated_random_numbers, package_of

MOST = 16  # fits to pick from: what is further behind is hardly ever picked
GREEDY = "greedy"
FILE = "ensemble.ckpt"
_FOLDER = "members"
_SUFFIX = ".pt"


@dataclass(frozen=True)
class KeptFit:
    """A fit of a trial with the weights of its best epoch."""

    number: int  # the trial's
    index: int  # which of the trial's fits
    value: float  # of the study's first metric
    values: Mapping[str, Any]  # what the trial tried
    weights: Mapping[str, torch.Tensor]  # the module's state


class KeptFits:
    """Keeps the best fits of a study in its folder, a file each; processes may share it.

    A file is written beside its place and moved there, and loads weights-only.
    """

    def __init__(self, folder: Path, *, high: bool) -> None:
        self.folder, self._high = folder, high

    def keep(self, fit: KeptFit) -> None:
        """Keep a fit if it is among the best, in the place of the worst; NaN is none of the best."""
        if fit.value != fit.value or not fit.weights:
            return
        name = f"trial_{fit.number:03d}_fit_{fit.index}{_SUFFIX}"
        (self.folder / _FOLDER).mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / _FOLDER / name) as partial:
            torch.save({**vars(fit), "values": dict(fit.values), "weights": dict(fit.weights)}, partial)
        for path, _ in self._in_order()[MOST:]:
            with suppress(OSError):  # another process has removed it
                path.unlink()

    def forget(self) -> None:
        """Remove what is there, which is of another study."""
        for path in (self.folder / _FOLDER).glob(f"*{_SUFFIX}"):
            path.unlink()

    @property
    def best(self) -> list[KeptFit]:
        """Return the fits that are there, best first."""
        return [fit for _, fit in self._in_order()[:MOST]]

    def _in_order(self) -> list[tuple[Path, KeptFit]]:
        found = []
        for path in sorted((self.folder / _FOLDER).glob(f"*{_SUFFIX}")):
            with suppress(OSError, RuntimeError, UnpicklingError, EOFError, TypeError):  # removed, or none of ours
                found.append((path, KeptFit(**torch.load(path, weights_only=True))))
        return sorted(found, key=lambda each: -each[1].value if self._high else each[1].value)


@dataclass(frozen=True)
class GreedyEnsemble:
    """What was picked among the fits of a search, and what it gains over the best of them."""

    model: LightningModule
    counts: Mapping[int, int]  # how often each trial was taken
    metric: str
    best: tuple[float, float]  # val_loss and metric of the best fit
    together: tuple[float, float]  # and of the ensemble

    def __str__(self) -> str:
        trials = ", ".join(f"{number} × {count}" if count > 1 else str(number) for number, count in self.counts.items())
        change = 100 * (self.together[0] / self.best[0] - 1) if self.best[0] else 0.0
        losses = f"val_loss {self.together[0]:.6g} against {self.best[0]:.6g} of the best trial ({change:+.1f} %)"
        return f"{losses}, {self.metric} {self.together[1]:.4g} against {self.best[1]:.4g}; trials {trials}"


@runtime_checkable
class EnsemblesTrials(Protocol):
    """Names a module of whose fits an ensemble can be picked."""

    def greedy_ensemble(self, fits: Sequence[KeptFit], batches: Sequence[Any]) -> GreedyEnsemble:
        """Pick by the loss on validation batches among fits of the module that differ in `values`, the best first."""


def write_ensemble(module: EnsemblesTrials, data: LightningDataModule, kept: KeptFits) -> tuple[str, Path | None]:
    """Pick an ensemble among the kept fits and write its checkpoint into their folder.

    Returns what it gains, in words, and the file; none if no fit was kept.
    """
    fits = kept.best
    if not fits:
        return "none, no trial's weights were kept", None
    with isolated_random_numbers():
        found = module.greedy_ensemble(fits, list(data.val_dataloader()))
    path = kept.folder / FILE
    with replacing(path) as partial:
        torch.save(checkpoint_of(found.model, data), partial)
    return str(found), path


def checkpoint_of(model: LightningModule, data: LightningDataModule) -> dict[str, Any]:
    """Return a checkpoint of a module that no Trainer has trained: to predict with, not to go on from."""
    checkpoint = {
        "pytorch-lightning_version": import_module(package_of(model)).__version__,
        "epoch": -1,  # there was none
        "global_step": 0,
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "datamodule_hyper_parameters": dict(data.hparams),
        type(data).__qualname__: data.state_dict(),
    }
    model.on_save_checkpoint(checkpoint)
    return checkpoint
