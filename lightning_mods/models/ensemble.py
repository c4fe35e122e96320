"""`MLPEnsemble`: MLPs trained on the same mini-batches, whose predictions are averaged."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import nll_loss
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torchmetrics import MeanSquaredError, Metric

from callbacks.search.greedy import greedy_counts
from callbacks.tuning.ensembles import GreedyEnsemble, KeptFit
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.evaluated import Batch
from lightning_mods.models.fused.chain_rule import ChainRule
from lightning_mods.models.fused.group_chain import GroupChain
from lightning_mods.models.metrics import ProbabilityLoss, loss_error
from lightning_mods.models.mlp import MLP
from lightning_mods.models.module import MLPModule, in_use
from lightning_mods.models.regressor import MLPRegressor

_KINDS: dict[str, type[MLPModule]] = {kind.__name__: kind for kind in (MLPClassifier, MLPRegressor)}


class Members(nn.ModuleList):
    """The members of an ensemble; their outputs `[B, out_features]`, one after the other, are its outputs.

    With `sharing`, so many of them, one after the other, have features of their own: those of the first before those of
    the next.
    """

    def __init__(self, members: Sequence[MLPModule], sharing: int | None = None) -> None:
        super().__init__(members)
        self._sharing = len(members) if sharing is None else sharing
        self.widths: list[int] = [each.hparams["in_features"] for each in members[:: self._sharing]]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return each member's outputs for rows `[B, in_features]`."""
        outputs = []
        ends = list(accumulate(self.widths))
        # by slices, as ExecuTorch fixes the number of rows of what `split` takes
        parts = [x] if len(ends) == 1 else [x[:, a:b] for a, b in pairwise([0, *ends])]
        drawn = torch.get_rng_state() if self.training else None  # each draws its dropout as it would alone
        for number, member in enumerate(self):
            assert isinstance(member, MLPModule)
            if drawn is not None and member.dropout:
                torch.set_rng_state(drawn)
            outputs.append(member.network(parts[number // self._sharing]))
        return tuple(outputs)


class MLPEnsemble(MLPModule):
    """MLPs of one task that differ in their first weights, or in their settings too; predictions are a weighted mean.

    All train on the same mini-batches, each to the last bit as it would alone from its first weights, which are
    those of fits with the seeds s, s + 1, …, where s is the one that torch was last given. `train_loss` and
    `{stage}_loss` are the mean member's: they tell how well members fit. All other metrics are the ensemble's, among
    them its loss, `{stage}_ensemble_loss`. They train with the first member's lr, momentum and so on.

    Args:
        member: `MLPClassifier` or `MLPRegressor`.
        settings: The arguments of each member.
        weights: Weight of each member's prediction, at least 0, their sum 1; all alike if not given.
        sharing: How many members, one after the other, have features of their own: of the input those of the first so
            many come first; all have the same if not given.

    Raises:
        ValueError: Weights that do not fit, or members that differ in what they take or predict.
    """

    metric_names = ("ensemble_loss",)  # after those of the members

    def __init__(
        self,
        member: Literal["MLPClassifier", "MLPRegressor"],
        settings: Sequence[Mapping[str, Any]],
        weights: Sequence[float] | None = None,
        sharing: int | None = None,
    ) -> None:
        members = _members(_KINDS[member], settings, sharing)
        network = Members(members, sharing)
        self.member_weights = _checked(weights, len(members))
        first = members[0]
        self._first: tuple[Any] = (first,)  # no module of the ensemble by itself: it is in `network`
        with torch.random.fork_rng(devices=()):  # for a network that is replaced
            super().__init__(
                sum(network.widths),
                first.hparams.get("num_classes", 1),
                hidden_sizes=(),
                activation="identity",
                dropout=max(each.dropout for each in members),
                input_scaling=False,
                lr=first.lr,
                momentum=first.momentum,
                weight_decay=first.weight_decay,
                nesterov=first.nesterov,
                lr_schedule=first.lr_schedule,
                ema_epochs=first.ema_epochs,
            )
        self.network = network
        self.save_hyperparameters(ignore=["sharing"] * (sharing is None))

    @classmethod
    def of(cls, model: MLPModule, count: int) -> "MLPEnsemble":
        """Return `count` members with a model's settings."""
        return cls(type(model).__name__, [dict(model.hparams)] * count)  # type: ignore[arg-type]  # the caller's to see

    @classmethod
    def of_models(
        cls, models: Sequence[MLPModule], weights: Sequence[float], *, sharing: int | None = None
    ) -> "MLPEnsemble":
        """Return an ensemble of copies of fitted models."""
        ensemble = cls(type(models[0]).__name__, [dict(model.hparams) for model in models], weights, sharing)  # type: ignore[arg-type]  # as above
        for member, model in zip(ensemble.members, models, strict=True):
            member.load_state_dict(model.state_dict())
        return ensemble

    @classmethod
    def pick(cls, model: MLPModule, fits: Sequence[KeptFit], batches: Sequence[Batch]) -> GreedyEnsemble:
        """Pick by the loss on validation batches among fits of a model that differ in `values`, the best first."""
        models = [_fitted(model, fit) for fit in fits]
        with torch.no_grad():
            found = [torch.cat([each(batch[0]) for batch in batches]) for each in models]
        y = torch.cat([batch[1] for batch in batches])
        measure = cls.of(models[0], 1).metrics()["ensemble_loss"]

        def loss(predictions: Any) -> float:
            measure.reset()
            return float(measure(torch.as_tensor(predictions).float(), y))

        counts = greedy_counts([each.double().numpy() for each in found], loss)
        taken = [at for at, count in enumerate(counts) if count]
        ensemble = cls.of_models([models[at] for at in taken], [counts[at] / sum(counts) for at in taken])
        name = "accuracy" if isinstance(model, MLPClassifier) else "r2"
        with torch.no_grad():
            mean = torch.cat([ensemble.eval()(batch[0]) for batch in batches])
        best, together = (
            (loss(each), float(model.scores([each.unsqueeze(0)], [y], [name])[name])) for each in (found[0], mean)
        )
        numbers = Counter({fits[at].number: 0 for at in taken})
        for at in taken:
            numbers[fits[at].number] += counts[at]
        return GreedyEnsemble(ensemble, dict(numbers.most_common()), f"val_{name}", best, together)

    @property
    def members(self) -> list[MLPModule]:
        """Return the members, each a model of its own."""
        found: Any = self.network
        return list(found)

    @property
    def resolved_hparams(self) -> dict[str, Any]:
        """Return the number of members, and the hyperparameters that count and that all of them have alike."""
        first, *others = (member.hparams for member in self.members)
        shared = {name: value for name, value in first.items() if all(each.get(name) == value for each in others)}
        return {"members": len(self.members), **in_use(self, shared)}

    # ------------------------------------------------------------------ what a model is

    def loss(self, outputs: Any, y: Tensor) -> Tensor:
        """Return the sum of the members' losses: its gradient is each one's own."""
        total, *others = (member.loss(each, y) for member, each in zip(self.members, outputs, strict=True))
        for loss in others:
            total = total + loss
        return total

    def logged_loss(self, loss: Tensor) -> Tensor:
        """Return the mean member's loss from the sum over all, in the units in which it is logged."""
        out: Tensor = self._first[0].logged_loss(loss / len(self.member_weights))
        return out

    def row_losses(self, outputs: Any, y: Tensor) -> Tensor | None:
        """Return the sum of the members' losses of each row."""
        losses = [member.row_losses(each, y) for member, each in zip(self.members, outputs, strict=True)]
        known = [each for each in losses if each is not None]
        return torch.stack(known).sum(0) if len(known) == len(losses) else None

    def row_weights(self, y: Tensor) -> Tensor | None:
        """Return how much each row counts, for each member alike."""
        weights: Tensor | None = self._first[0].row_weights(y)
        return weights

    def predictions(self, outputs: Any) -> Tensor:
        """Return the weighted mean of the members' predictions: probabilities `[B, C]` or numbers `[B]`."""
        total = torch.zeros(())
        for member, each, weight in zip(self.members, outputs, self.member_weights, strict=True):
            part = member.predictions(each) * weight
            total = part if member is self._first[0] else total + part
        return total

    def metrics(self) -> dict[str, Metric]:
        """Return the members' metrics and the ensemble's loss."""
        first = self._first[0]
        loss = ProbabilityLoss(first.weights) if isinstance(first, MLPClassifier) else MeanSquaredError()
        return {**first.metrics(), "ensemble_loss": loss}

    def outputs_of(self, predictions: Tensor) -> tuple[Any, ...]:
        """Return outputs with which each member would make these predictions."""
        return tuple(member.outputs_of(predictions) for member in self.members)

    @property
    def class_weights(self) -> NDArray[np.float64] | None:
        """Return the weight of each class in the members' loss, shape (classes,); None where amounts are predicted."""
        weights: NDArray[np.float64] | None = self._first[0].class_weights
        return weights

    @property
    def constants(self) -> tuple[Tensor, Tensor] | None:
        """Return the members' constant predictions that suit the training rows best."""
        constants: tuple[Tensor, Tensor] | None = self._first[0].constants
        return constants

    def metric_errors(self, predictions: Tensor, y: Tensor) -> dict[str, float]:
        """Return the standard errors of the metrics and of the ensemble's loss over the rows."""
        first = self._first[0]
        found: dict[str, float] = first.metric_errors(predictions, y)
        if isinstance(first, MLPClassifier):
            logs = predictions.clamp(min=torch.finfo(predictions.dtype).tiny).log()
            weights = first.row_weights(y)
            error = loss_error(nll_loss(logs, y, reduction="none"), weights)
        else:
            error = found["mse"]
        return {**found, "ensemble_loss": error}

    @property
    def baseline_loss(self) -> float | None:
        """Loss of the best constant prediction on the training rows."""
        loss: float | None = self._first[0].baseline_loss
        return loss

    def training_settings(self) -> dict[str, Any]:
        """Return what the first member tells, and how many there are."""
        return {**self._first[0].training_settings(), "dropout": self.dropout, "members": len(self.member_weights)}

    # ------------------------------------------------------------------ training

    def chain_rule(self) -> ChainRule | None:
        """Return a step of all members at once; None where they differ in shape or are not on the CPU."""
        members = self.members
        networks = [member.network for member in members]
        first, rule = networks[0], members[0].loss_rule()
        shapes = {tuple(p.shape for p in network.parameters()) for network in networks}
        kinds = {tuple(map(type, network.layers)) for network in networks}
        known = type(self) is MLPEnsemble and "sharing" not in self.hparams
        known = known and all(type(each.network) is MLP and each.chain_rule() for each in members)
        if rule is None or not known or len(shapes) > 1 or len(kinds) > 1 or self.device.type != "cpu":
            return None
        assert isinstance(first, MLP)
        return GroupChain([network.layers for network in networks], [member.dropout for member in members], rule)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what any MLP does, and name the classes where no run of ours has."""
        super().on_save_checkpoint(checkpoint)
        names = {"model": type(self).__name__, "data": "TabularDataModule"}
        known = {key: name for key, name in names.items() if key == "model" or name in checkpoint}
        checkpoint.setdefault("lightning_mods", known)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each member's gradients as if it were alone."""
        if not gradient_clip_val:
            return
        for member in self.members:
            if gradient_clip_algorithm == "value":
                clip_grad_value_(member.parameters(), gradient_clip_val)
            else:
                clip_grad_norm_(member.parameters(), gradient_clip_val)


def _fitted(model: MLPModule, fit: KeptFit) -> MLPModule:
    """Return a model with what a trial tried, and what came of it."""
    own = {*model.hparams}  # of a study the names are those of flags
    tried = {n.removeprefix("model."): v for n, v in fit.values.items() if n in own or n.startswith("model.")}
    fitted = type(model)(**{**model.hparams, **tried})
    fitted.load_state_dict(dict(fit.weights))
    return fitted.eval()


def _members(kind: type[MLPModule], settings: Sequence[Mapping[str, Any]], sharing: int | None) -> list[MLPModule]:
    if not settings:
        raise ValueError("settings needs the arguments of at least one member, and is empty.")
    seed = torch.initial_seed()
    members = []
    with torch.random.fork_rng(devices=()):
        for number, each in enumerate(settings):
            torch.manual_seed((seed + number) % 2**63)
            members.append(kind(**each))
    if sharing is not None and (sharing < 1 or len(members) % sharing):
        raise ValueError(f"sharing must divide the {len(members)} members into groups of equal size, not {sharing}.")
    for first in range(0, len(members), sharing or len(members)):
        _check_alike(members[first : first + (sharing or len(members))], "in_features")
    _check_alike(members, "num_classes", "target_mean", "target_std")
    return members


def _check_alike(members: Sequence[MLPModule], *names: str) -> None:
    for name in names:
        found = {str(member.hparams.get(name)) for member in members}
        if len(found) > 1:
            raise ValueError(f"members need the same {name}; there are {', '.join(sorted(found))}.")


def _checked(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1 / count] * count
    found = [float(weight) for weight in weights]
    if len(found) != count or not all(weight >= 0 for weight in found) or not math.isclose(sum(found), 1, rel_tol=1e-6):
        raise ValueError(f"weights needs {count} numbers of at least 0 whose sum is 1, not {found}.")
    return found
