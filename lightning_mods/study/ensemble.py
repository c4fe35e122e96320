"""The ensemble of a study: its best trials' weights are kept while they train, and greedily picked from at its end."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray

from callbacks.host import replacing
from callbacks.host.packages import isolated_random_numbers
from callbacks.search.greedy import greedy_counts
from datamodules import TabularDataModule
from lightning_mods.cli.command_line import UsageError
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.ensemble import MLPEnsemble
from lightning_mods.models.module import MLPModule
from lightning_mods.models.regressor import MLPRegressor
from lightning_mods.runs.checkpoints import write_model

if TYPE_CHECKING:
    from lightning_mods.study.trial_cli import StudyCLI

MOST = 16  # models to pick from: what is further behind is hardly ever picked
GREEDY = "greedy"
FILE = "ensemble.ckpt"
_FOLDER = "members"
_SUFFIX = ".pt"


def check_greedy(cli: "StudyCLI", space: Mapping[str, Any]) -> None:
    """Raise a UsageError if a study cannot end in an ensemble of its trials."""
    asked = cli.config.ensemble
    if asked != GREEDY:
        best = "`fit --config=…/best.yaml --ensemble=8` fits the best trial so many times"
        raise UsageError(f"--ensemble of a study needs `{GREEDY}`, not {asked}; {best}.")
    why = ""
    if type(cli.model) not in (MLPClassifier, MLPRegressor) or type(cli.datamodule) is not TabularDataModule:
        why = "needs an MLP and a data module of ours"
    elif cli.study.folds:
        why = "needs trials that validate on the same rows; --study.folds gives each its own"
    elif cli.trainer.world_size > 1:
        why = "needs trials of one process each; --study.workers trains several at once"
    elif not cli.datamodule.val_fraction and not cli.datamodule.val_path:
        why = "needs validation rows"
    elif others := [name for name in space if name.startswith("data.") and name != "data.batch_size"]:
        why = f"needs trials that see the same columns and rows; --space.{others[0]} changes them"
    if why:
        raise UsageError(f"--ensemble={GREEDY} {why}.")


@dataclass(frozen=True)
class KeptFit:
    """A fit of a trial with the weights of its best epoch."""

    number: int  # the trial's
    index: int  # which of the trial's fits
    value: float  # of the study's first metric
    values: Mapping[str, Any]  # what the trial tried
    weights: Mapping[str, torch.Tensor]  # the network's, by name


class KeptFits:
    """Keeps the best fits of a study in its folder, a file each; processes may share it.

    A file is written beside its place and moved there, and loads weights-only.
    """

    def __init__(self, folder: Path, *, high: bool) -> None:
        self._folder, self._high = folder / _FOLDER, high

    def keep(self, fit: KeptFit) -> None:
        """Keep a fit if it is among the best, in the place of the worst; NaN is none of the best."""
        if fit.value != fit.value or not fit.weights:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"trial_{fit.number:03d}_fit_{fit.index}{_SUFFIX}"
        with replacing(self._folder / name) as partial:
            torch.save({**vars(fit), "values": dict(fit.values), "weights": dict(fit.weights)}, partial)
        for path, _ in self._in_order()[MOST:]:
            with suppress(OSError):  # another process has removed it
                path.unlink()

    def forget(self) -> None:
        """Remove what is there, which is of another study."""
        for path in self._folder.glob(f"*{_SUFFIX}"):
            path.unlink()

    @property
    def best(self) -> list[KeptFit]:
        """Return the fits that are there, best first."""
        return [fit for _, fit in self._in_order()[:MOST]]

    def _in_order(self) -> list[tuple[Path, KeptFit]]:
        found = []
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            with suppress(OSError, RuntimeError, UnpicklingError, EOFError, TypeError):  # removed, or none of ours
                found.append((path, KeptFit(**torch.load(path, weights_only=True))))
        return sorted(found, key=lambda each: -each[1].value if self._high else each[1].value)


@dataclass(frozen=True)
class GreedyEnsemble:
    """What was picked among the fits of a study, and what it gains over the best of them."""

    model: MLPEnsemble
    counts: Mapping[int, int]  # how often each trial was taken
    of: int  # fits to pick from
    metric: str
    best: tuple[float, float]  # val_loss and metric of the study's best trial
    together: tuple[float, float]  # and of the ensemble

    def __str__(self) -> str:
        trials = ", ".join(f"{number} × {count}" if count > 1 else str(number) for number, count in self.counts.items())
        change = 100 * (self.together[0] / self.best[0] - 1) if self.best[0] else 0.0
        losses = f"val_loss {self.together[0]:.6g} against {self.best[0]:.6g} of the best trial ({change:+.1f} %)"
        scores = f"{self.metric} {self.together[1]:.4g} against {self.best[1]:.4g}"
        return f"ensemble     {losses}, {scores}; of {self.of} trials it takes {trials}"


def pick(cli: "StudyCLI", fits: list[KeptFit]) -> GreedyEnsemble:
    """Pick an ensemble by the validation loss among fits, the best of them first."""
    with isolated_random_numbers():
        models: list[MLPModule] = [cli.variant(fit.values, cli.base_seed).model for fit in fits]
    for model, fit in zip(models, fits, strict=True):
        model.network.load_state_dict(dict(fit.weights))
        model.eval()
    data = cli.datamodule
    data.prepare_data()
    data.setup("fit")
    batches = list(data.val_dataloader())
    with torch.no_grad():
        found = [torch.cat([model(x) for x, _ in batches]) for model in models]
    y, first = torch.cat([y for _, y in batches]), models[0]
    measure = MLPEnsemble.of(first, 1).metrics()["ensemble_loss"]

    def loss(predictions: NDArray[Any]) -> float:
        measure.reset()
        return float(measure(torch.from_numpy(predictions).float(), y))

    counts = greedy_counts([each.double().numpy() for each in found], loss)
    taken = [at for at, count in enumerate(counts) if count]
    weights = [counts[at] / sum(counts) for at in taken]
    ensemble = MLPEnsemble.of_models([models[at] for at in taken], weights)
    name = "accuracy" if isinstance(first, MLPClassifier) else "r2"
    mean = sum((weight * found[at] for weight, at in zip(weights, taken, strict=True)), torch.zeros(()))
    scores = [
        (loss(each.double().numpy()), float(first.scores([each.unsqueeze(0)], [y], [name])[name]))
        for each in (found[0], mean)
    ]
    numbers: dict[int, int] = {}
    for at in taken:
        numbers[fits[at].number] = numbers.get(fits[at].number, 0) + counts[at]
    return GreedyEnsemble(ensemble, numbers, len(fits), f"val_{name}", scores[0], scores[1])


def write_ensemble(cli: "StudyCLI", kept: KeptFits, folder: Path) -> str:
    """Pick an ensemble among the kept fits, write its checkpoint into the study's folder, and say what it gains."""
    fits = kept.best
    if not fits:
        return "ensemble     none: no trial's weights were kept"
    found, path = pick(cli, fits), folder / FILE
    names = {"model": type(found.model).__name__, "data": type(cli.datamodule).__name__}
    write_model(path, found.model, cli.datamodule, names)
    shown = f"'{path}'" if " " in str(path) else str(path)
    use = f"use it       python -m lightning_mods.predict --ckpt_path={shown} --data.predict_path=FILE"
    return f"{found}\n{use}"
